from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from fake_cuda import FakeDriver, Misuse

import edgekit
from edgekit.device.cuda import choose as cuda
from edgekit.device.cuda.resources import Context, DeviceMemory, Event, Graph, HostMemory, Module, Owned, Stream
from edgekit.errors import BackendUnavailable, RunError

FAKES = Path(__file__).parents[1] / "fakes"


@pytest.fixture
def gpu() -> Iterator[FakeDriver]:
    driver = FakeDriver()
    yield driver
    gc.collect()
    assert not driver.leaks()


# Which package is there.


@pytest.fixture
def search_anew() -> Iterator[None]:
    cuda.driver.cache_clear()
    yield
    cuda.driver.cache_clear()


@pytest.fixture
def no_gpu() -> None:
    if Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi"):
        pytest.skip("there is an NVIDIA driver here")


@pytest.mark.usefixtures("no_gpu", "search_anew")
def test_error_without_nvidias_driver() -> None:
    pytest.importorskip("cuda.bindings")
    for ask in (cuda.driver, cuda.device_properties, cuda.driver):
        with pytest.raises(BackendUnavailable, match=r"libcuda\.so\.1, which was not found") as caught:
            ask()
        assert "install NVIDIA's driver" in caught.value.hint and caught.value.exit_code == 3


@pytest.mark.usefixtures("search_anew")
def test_the_error_without_either_package_names_both(monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("cuda", "cuda.bindings", "pycuda", "pycuda.driver"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(BackendUnavailable, match="'cuda-bindings' or 'pycuda', but neither works here") as caught:
        cuda.driver()
    assert "pip install 'cuda-bindings" in caught.value.hint and "pip install pycuda" in caught.value.hint


@pytest.mark.usefixtures("search_anew")
def test_error_on_pycuda_without_nvidias_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    class WithoutLibrary:
        def find_spec(self, name: str, *where: object) -> None:
            if name.startswith("pycuda"):
                raise ImportError("libcuda.so.1: cannot open shared object file: No such file or directory")

    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    monkeypatch.setattr(sys, "meta_path", [WithoutLibrary(), *sys.meta_path])
    with pytest.raises(BackendUnavailable, match="needs NVIDIA's driver"):
        cuda.driver()


# The package itself, on a fake libcuda.


@pytest.fixture(scope="module")
def fake_libcuda(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if not compiler or sys.platform != "linux":
        pytest.skip("needs a C compiler on Linux")
    folder = tmp_path_factory.mktemp("libcuda")
    flags = ["-shared", "-fPIC", "-O1", "-Wl,-soname,libcuda.so.1"]
    subprocess.run([compiler, *flags, "-o", folder / "libcuda.so.1", FAKES / "libcuda.c", "-ldl"], check=True)
    return folder


def whole_life(folder: Path, *failing: str, **environment: str) -> subprocess.CompletedProcess[str]:
    paths = {"LD_LIBRARY_PATH": str(folder), "PYTHONPATH": str(Path(edgekit.__file__).parents[1])}
    return subprocess.run(
        [sys.executable, FAKES / "whole_life.py", "cuda-bindings", *failing],
        capture_output=True,
        text=True,
        env=os.environ | paths | environment,
        check=False,
    )


def test_cuda_bindings_runs_the_whole_driver_protocol_and_frees_everything(fake_libcuda: Path) -> None:
    pytest.importorskip("cuda.bindings")
    done = whole_life(fake_libcuda)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "DeviceProperties(name='Fake Orin', compute_capability=(8, 7), memory_bytes=8000, free_bytes=5000, "
        "integrated=True, driver_version='12.6')",
        "[2.5, 3.5, 4.5] 4.0",
        "left: 0",
    ]


def test_errors_have_cudas_own_names_and_leave_nothing_behind(fake_libcuda: Path) -> None:
    pytest.importorskip("cuda.bindings")
    functions = (
        "cuDevicePrimaryCtxRetain cuCtxPushCurrent cuMemAlloc cuMemHostAlloc cuMemHostGetDevicePointer cuStreamCreate "
        "cuEventCreate cuMemcpyHtoDAsync cuModuleLoadData cuModuleGetFunction cuFuncSetAttribute cuLaunchKernel "
        "cuStreamBeginCapture cuGraphInstantiateWithFlags cuGraphLaunch cuEventElapsedTime"
    ).split()
    done = whole_life(fake_libcuda, *functions)
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if line.startswith("cu")] == [
        f"{function}: CUDA failed: {function.removesuffix('WithFlags')} returned CUDA_ERROR_OUT_OF_MEMORY "
        "(out of memory); left: 0"
        for function in functions
    ]


def test_an_error_of_what_pycuda_lacks_has_cudas_own_name(fake_libcuda: Path) -> None:
    program = (
        "from edgekit.device.cuda.libcuda import Libcuda\n"
        "from edgekit.errors import RunError\n"
        "try:\n    Libcuda().instantiate(0)\nexcept RunError as e:\n    print(e.message)\n"
    )
    environment = {
        "LD_LIBRARY_PATH": str(fake_libcuda),
        "PYTHONPATH": str(Path(edgekit.__file__).parents[1]),
        "FAKE_CUDA_FAILS": "cuGraphInstantiateWithFlags",
    }
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=os.environ | environment)
    expected = "CUDA failed: cuGraphInstantiateWithFlags returned CUDA_ERROR_OUT_OF_MEMORY (out of memory)\n"
    assert (done.stdout, done.stderr) == (expected, "")


def test_a_driver_that_shows_no_device_is_unavailable(fake_libcuda: Path) -> None:
    pytest.importorskip("cuda.bindings")
    done = whole_life(fake_libcuda, FAKE_CUDA_NO_DEVICE="1")
    assert done.returncode == 3
    assert done.stdout.startswith("BackendUnavailable CUDA finds no working device")


# Resources are freed.

MAKE: list[Callable[[Context], Owned]] = [
    lambda context: DeviceMemory(context, 8),
    lambda context: HostMemory(context, 8),
    lambda context: HostMemory(context, 8, mapped=True),
    Stream,
    Event,
    lambda context: Module(context, b"add"),
]
NAMES = ["device memory", "host memory", "mapped memory", "stream", "event", "module"]


@pytest.mark.parametrize("make", MAKE, ids=NAMES)
def test_closing_twice_is_harmless_and_garbage_collection_frees(
    gpu: FakeDriver, make: Callable[[Context], Owned]
) -> None:
    with Context(gpu) as context:
        before = gpu.leaks()
        with make(context) as thing:
            assert not thing.closed and gpu.leaks() != before
        assert thing.closed and gpu.leaks() == before
        thing.close()
        forgotten = make(context)
        del forgotten
        gc.collect()
        assert gpu.leaks() == before


@pytest.mark.parametrize("make", MAKE, ids=NAMES)
def test_a_resource_keeps_its_context_alive(gpu: FakeDriver, make: Callable[[Context], Owned]) -> None:
    thing = make(Context(gpu))
    gc.collect()
    assert gpu.leaks()["context"] == 1
    thing.close()
    del thing
    gc.collect()
    assert not gpu.leaks()


@pytest.mark.parametrize("make", MAKE, ids=NAMES)
def test_a_failed_allocation_leaves_no_resources(make: Callable[[Context], Owned]) -> None:
    reached = 0
    for fail_at in range(1, 12):
        driver = FakeDriver()
        with Context(driver) as context:
            driver.fail_at = fail_at
            try:
                make(context).close()
            except RunError as e:
                assert "CUDA failed" in e.message
                reached = fail_at
            driver.fail_at = None
            assert set(driver.leaks()) == {"context"}, driver.failed
        assert not driver.leaks()
    # Enter, create and leave; then enter, free and leave.
    assert reached >= 6


def test_a_closed_context_cannot_be_entered(gpu: FakeDriver) -> None:
    context = Context(gpu)
    context.close()
    with pytest.raises(RunError, match="expected an open CUDA context"), context.current():
        pass


def test_a_graph_replays_what_was_captured(gpu: FakeDriver) -> None:
    with Context(gpu) as context, Stream(context) as stream, DeviceMemory(context, 4) as memory:
        with HostMemory(context, 4) as host, Module(context, b"add") as module, context.current():
            host.array[:] = 1
            stream.copy_to_device(memory.address, host.array)

            def add() -> None:
                arguments = (np.uint64(memory.address), np.int32(2))
                module.launch("add", (1, 1, 1), (32, 1, 1), arguments, stream)

            with Graph(context, stream, add) as graph:
                for _ in range(3):
                    graph.launch(stream)
                stream.copy_to_host(host.array, memory.address)
                stream.synchronize()
            assert host.array.tolist() == [7] * 4


def test_work_that_cannot_be_captured_leaves_the_stream_as_it_was(gpu: FakeDriver) -> None:
    def fail() -> None:
        raise RunError("not while capturing")

    with Context(gpu) as context, Stream(context) as stream, context.current():
        with pytest.raises(RunError, match="not while capturing"):
            Graph(context, stream, fail)
        stream.synchronize()
        with Graph(context, stream, lambda: None) as graph:
            graph.launch(stream)


def test_events_tell_the_time_between_them(gpu: FakeDriver) -> None:
    with Context(gpu) as context, Stream(context) as stream, context.current():
        with Event(context, timing=True) as start, Event(context, timing=True) as end, Event(context) as bare:
            start.record(stream)
            end.record(stream)
            assert not end.done
            with pytest.raises(RunError, match="NOT_READY"):
                start.elapsed_ms(end)
            end.synchronize()
            assert end.done and start.elapsed_ms(end) > 0
            with pytest.raises(RunError):
                start.elapsed_ms(bare)


# The fake detects misuse that a GPU does not report.


def test_the_fake_catches_use_after_free_and_double_free(gpu: FakeDriver) -> None:
    with Context(gpu) as context, Stream(context) as stream, HostMemory(context, 4) as host:
        memory = DeviceMemory(context, 4)
        memory.close()
        with context.current():
            with pytest.raises(Misuse, match="no memory of the device"):
                stream.copy_to_device(memory.address, host.array)
            with pytest.raises(Misuse, match="given back twice"):
                gpu.free(memory.handle)


def test_the_fake_catches_memory_that_is_freed_while_a_copy_runs(gpu: FakeDriver) -> None:
    with Context(gpu) as context, Stream(context) as stream, HostMemory(context, 4) as host, context.current():
        memory = DeviceMemory(context, 4)
        stream.copy_to_device(memory.address, host.array)
        with pytest.raises(Misuse, match="'copy to device' has not been waited for"):
            memory.close()
        with pytest.raises(Misuse, match="runs on memory that was freed"):
            stream.synchronize()


def test_the_fake_catches_a_read_before_the_copy_is_done(gpu: FakeDriver) -> None:
    with Context(gpu) as context, Stream(context) as stream, HostMemory(context, 4) as host:
        with DeviceMemory(context, 4) as memory, context.current():
            host.array[:] = 3
            stream.copy_to_device(memory.address, host.array)
            stream.copy_to_host(host.array, memory.address)
            with pytest.raises(Misuse, match="has not been waited for"):
                host.array[0]
            stream.synchronize()
            assert host.array[0] == 3


def test_the_fake_catches_two_streams_without_an_order(gpu: FakeDriver) -> None:
    with Context(gpu) as context, Stream(context) as one, Stream(context) as two, Event(context) as event:
        with HostMemory(context, 4) as host, HostMemory(context, 4) as back, DeviceMemory(context, 4) as memory:
            with context.current():
                one.copy_to_device(memory.address, host.array)
                two.copy_to_host(back.array, memory.address)
                with pytest.raises(Misuse, match="does not wait for 'copy to device'"):
                    two.synchronize()
                event.record(one)
                two.wait(event)
                two.copy_to_host(back.array, memory.address)
                two.synchronize()
                one.synchronize()


def test_the_fake_catches_calls_without_a_context(gpu: FakeDriver) -> None:
    with Context(gpu), pytest.raises(Misuse, match="no context is current"):
        gpu.allocate(4)
