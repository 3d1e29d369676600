"""What EdgeKit does with CUDA, once, by the package that the first argument names; run with the fake libcuda.so.1."""

import ctypes
import os
import sys
from contextlib import ExitStack

import numpy as np

from edgekit.device.cuda import choose as cuda
from edgekit.device.cuda.resources import (
    Context,
    DeviceMemory,
    Event,
    ForeignStream,
    Graph,
    HostMemory,
    Module,
    Stream,
)
from edgekit.errors import BackendUnavailable, RunError

PTX = b".version 7.4 .target sm_80 .visible .entry add"


def main(package: str) -> None:
    if package == "pycuda":
        sys.setdlopenflags(os.RTLD_LAZY)  # it is linked to more than the fake has
        sys.modules["cuda.bindings"] = None
    driver = cuda.driver()
    assert driver is cuda.driver() and driver.name == package
    print(cuda.device_properties())
    with ExitStack() as stack:
        context = stack.enter_context(Context(driver))
        stream, other = (stack.enter_context(Stream(context)) for _ in range(2))
        start, end = (stack.enter_context(Event(context, timing=True)) for _ in range(2))
        host = stack.enter_context(HostMemory(context, 12))
        mapped = stack.enter_context(HostMemory(context, 16, mapped=True))
        device, copy = (stack.enter_context(DeviceMemory(context, 12)) for _ in range(2))
        module = stack.enter_context(Module(context, PTX))
        with context.current():
            assert mapped.mapped_address and not host.mapped_address and stream.address
            values = host.array.view(np.float32)
            values[:] = (1, 2, 3)
            start.record(stream)
            stream.copy_to_device(device.address, host.array)

            def work() -> None:
                arguments = (np.uint64(device.address), np.int32(3), np.float32(0.5))
                place = ForeignStream(context, stream.address)
                module.launch("add", (2, 1, 1), (32, 1, 1), arguments, place, shared_bytes=64 << 10)
                place.close()

            work()
            graph = stack.enter_context(Graph(context, stream, work))
            for _ in range(2):
                graph.launch(stream)
            end.record(stream)
            other.wait(end)
            driver.synchronize_foreign(stream.address)
            other.copy_on_device(copy.address, device.address, 12)
            other.copy_to_host(host.array, copy.address)
            for stream_of_two in (stream, other):
                stream_of_two.synchronize()
            end.synchronize()
            assert end.done
            print(values.tolist(), start.elapsed_ms(end))
            mapped.array[:] = 7
    print("left:", ctypes.CDLL("libcuda.so.1").fakeLive())


def fail_in(package: str, functions: list[str]) -> None:
    """The same, with one function that fails after the other."""
    for function in functions:
        os.environ["FAKE_CUDA_FAILS"] = function
        try:
            main(package)
        except RunError as e:
            message = e.message
        # After the error is forgotten, whose traceback holds on to things.
        print(f"{function}: {message}; left: {ctypes.CDLL('libcuda.so.1').fakeLive()}")


if __name__ == "__main__":
    try:
        main(sys.argv[1])
        fail_in(sys.argv[1], sys.argv[2:])
    except BackendUnavailable as e:
        print("BackendUnavailable", e)
        sys.exit(3)
