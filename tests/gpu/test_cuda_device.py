from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from edgekit.device.cuda.choose import device_properties
from edgekit.device.cuda.resources import Context, DeviceMemory, Event, Graph, HostMemory, Module, Stream
from edgekit.errors import BackendUnavailable, RunError

# Adds `amount` to `count` floats.
PTX = b"""
.version 7.4
.target sm_75
.address_size 64
.visible .entry add(.param .u64 data, .param .s32 count, .param .f32 amount)
{
  .reg .pred %p;
  .reg .f32 %f<3>;
  .reg .b32 %r<6>;
  .reg .b64 %d<5>;
  ld.param.u64 %d1, [data];
  ld.param.s32 %r1, [count];
  ld.param.f32 %f1, [amount];
  mov.u32 %r2, %ctaid.x;
  mov.u32 %r3, %ntid.x;
  mov.u32 %r4, %tid.x;
  mad.lo.s32 %r5, %r2, %r3, %r4;
  setp.ge.s32 %p, %r5, %r1;
  @%p bra done;
  cvta.to.global.u64 %d2, %d1;
  mul.wide.s32 %d3, %r5, 4;
  add.s64 %d4, %d2, %d3;
  ld.global.f32 %f2, [%d4];
  add.f32 %f2, %f2, %f1;
  st.global.f32 [%d4], %f2;
done:
  ret;
}
"""
COUNT = 1 << 20


def adder(context: Context, stream: Stream, address: int, amount: float) -> Callable[[], None]:
    module = Module(context, PTX)
    arguments = (np.uint64(address), np.int32(COUNT), np.float32(amount))
    return lambda: module.launch("add", (COUNT // 256, 1, 1), (256, 1, 1), arguments, stream)


def test_the_device_says_what_it_is() -> None:
    here = device_properties()
    assert here.name and here.compute_capability >= (5, 0)
    assert 0 < here.free_bytes <= here.memory_bytes
    with pytest.raises(BackendUnavailable, match="GPU 99 was not found"):
        device_properties(99)


def test_a_kernel_computes_on_what_was_copied(context: Context) -> None:
    with Stream(context) as stream, HostMemory(context, 4 * COUNT) as host, DeviceMemory(context, 4 * COUNT) as memory:
        values = host.array.view(np.float32)
        values[:] = np.arange(COUNT)
        stream.copy_to_device(memory.address, host.array)
        adder(context, stream, memory.address, 0.5)()
        stream.copy_to_host(host.array, memory.address)
        stream.synchronize()
        np.testing.assert_array_equal(values, np.arange(COUNT, dtype=np.float32) + 0.5)


def test_a_kernel_computes_on_mapped_memory_without_a_copy(context: Context) -> None:
    with Stream(context) as stream, HostMemory(context, 4 * COUNT, mapped=True) as host:
        values = host.array.view(np.float32)
        values[:] = 1
        adder(context, stream, host.mapped_address, 2)()
        stream.synchronize()
        assert (values == 3).all()


def test_a_graph_replays_a_kernel(context: Context) -> None:
    with Stream(context) as stream, HostMemory(context, 4 * COUNT, mapped=True) as host:
        values = host.array.view(np.float32)
        values[:] = 0
        add = adder(context, stream, host.mapped_address, 1)
        add()
        with Graph(context, stream, add) as graph:
            for _ in range(10):
                graph.launch(stream)
            stream.synchronize()
        assert (values == 11).all()


def test_a_stream_waits_for_an_event_of_another(context: Context) -> None:
    with Stream(context) as one, Stream(context) as two, Event(context) as event:
        with HostMemory(context, 4 * COUNT) as host, DeviceMemory(context, 4 * COUNT) as memory:
            values = host.array.view(np.float32)
            values[:] = 0
            add = adder(context, one, memory.address, 1)
            one.copy_to_device(memory.address, host.array)
            for _ in range(100):
                add()
            event.record(one)
            two.wait(event)
            two.copy_to_host(host.array, memory.address)
            two.synchronize()
            assert event.done and (values == 100).all()


def test_events_measure_time(context: Context) -> None:
    with Stream(context) as stream, DeviceMemory(context, 4 * COUNT) as memory:
        add = adder(context, stream, memory.address, 1)
        add()
        with Event(context, timing=True) as start, Event(context, timing=True) as end:
            start.record(stream)
            for _ in range(50):
                add()
            end.record(stream)
            end.synchronize()
            # A million floats read and written 50 times: 0.4 GB, at no more than 20 TB/s and no less than 1 GB/s.
            assert 0.02 < start.elapsed_ms(end) < 400


def test_too_much_memory_is_refused_in_cudas_words(context: Context) -> None:
    with pytest.raises(RunError, match=r"OUT_OF_MEMORY|out of memory"):
        DeviceMemory(context, 1 << 50)


def test_code_that_is_none_is_refused(context: Context) -> None:
    with pytest.raises(RunError, match="CUDA failed"):
        Module(context, b"this is neither a cubin nor PTX")


def test_memory_comes_back(context: Context) -> None:
    before = device_properties().free_bytes
    for _ in range(50):
        with DeviceMemory(context, 64 << 20), HostMemory(context, 1 << 20), Stream(context), Event(context):
            pass
    assert device_properties().free_bytes > before - (64 << 20)
