"""The CUDA driver API through pycuda, which is common on Jetsons; graphs and kernels through ctypes."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np

from edgekit.device.cuda.driver import NO_DRIVER, DeviceProperties, Handle
from edgekit.device.cuda.libcuda import Libcuda
from edgekit.errors import BackendUnavailable, RunError

__all__ = ["PyCuda"]


class Memory(list[Any]):
    """Holds a pycuda object, so that it can be destroyed at a given time, while its context is current."""

    def __int__(self) -> int:
        return int(self[0])


class PyCuda:
    """See `Driver`."""

    name = "pycuda"

    def __init__(self) -> None:
        # The package is optional: this file must be importable without it.
        import pycuda.driver  # noqa: TID251

        self._cu: Any = pycuda.driver
        self._lib = Libcuda()
        self._contexts: dict[int, Any] = {}
        # Finalizers run in reverse order at exit: registered first, this one runs after those of all resources.
        weakref.finalize(self, _detach, self._contexts)

    def init(self) -> None:
        """See `Driver.init`."""
        try:
            with self._errors():
                self._cu.init()
        except RunError as e:
            raise BackendUnavailable(f"CUDA finds no working device: {e.message}", hint=NO_DRIVER) from e

    def properties(self, index: int) -> DeviceProperties:
        """See `Driver.properties`."""
        device = self._device(index)
        free_bytes, memory_bytes = self._memory_bytes(index)
        with self._errors():
            version = self._cu.get_driver_version()
            return DeviceProperties(
                name=device.name(),
                compute_capability=device.compute_capability(),
                memory_bytes=memory_bytes,
                free_bytes=free_bytes,
                integrated=bool(device.get_attribute(self._cu.device_attribute.INTEGRATED)),
                driver_version=f"{version // 1000}.{version % 1000 // 10}",
            )

    def retain(self, index: int) -> Handle:
        """See `Driver.retain`; the context is retained until the process ends.

        When pycuda releases a primary context, it pushes it without popping it; in another thread than the one that
        retained it, pycuda does nothing.
        """
        if index not in self._contexts:
            device = self._device(index)
            with self._errors():
                self._contexts[index] = device.retain_primary_context()
        return self._contexts[index]

    def release(self, context: Handle) -> None:
        """See `retain`."""

    def push(self, context: Handle) -> None:
        """See `Driver.push`."""
        with self._errors():
            context.push()

    def pop(self) -> None:
        """See `Driver.pop`."""
        with self._errors():
            self._cu.Context.pop()

    def allocate(self, size_bytes: int) -> Handle:
        """See `Driver.allocate`."""
        with self._errors():
            return Memory([self._cu.mem_alloc(size_bytes)])

    def free(self, memory: Handle) -> None:
        """See `Driver.free`."""
        with self._errors():
            memory.pop().free()

    def allocate_host(self, size_bytes: int, *, mapped: bool) -> Handle:
        """See `Driver.allocate_host`."""
        flags = self._cu.host_alloc_flags.DEVICEMAP if mapped else 0
        with self._errors():
            return Memory([self._cu.pagelocked_empty(size_bytes, np.uint8, mem_flags=flags)])

    def free_host(self, memory: Handle) -> None:
        """See `Driver.free_host`."""
        with self._errors():
            memory.pop().base.free()

    def host_array(self, memory: Handle) -> np.ndarray:
        """See `Driver.host_array`."""
        array: np.ndarray = memory[0]
        return array

    def mapped_address(self, memory: Handle) -> int:
        """See `Driver.mapped_address`."""
        with self._errors():
            return int(memory[0].base.get_device_pointer())

    def create_stream(self) -> Handle:
        """See `Driver.create_stream`."""
        with self._errors():
            return Memory([self._cu.Stream(1)])  # CU_STREAM_NON_BLOCKING

    def destroy_stream(self, stream: Handle) -> None:
        """See `Driver.destroy_stream`."""
        stream.clear()

    def stream_address(self, stream: Handle) -> int:
        """See `Driver.stream_address`."""
        return int(stream[0].handle)

    def foreign_stream(self, address: int) -> Handle:
        """See `Driver.foreign_stream`; the handle can only launch kernels and capture."""
        return Memory([SimpleNamespace(handle=address)])

    def synchronize_stream(self, stream: Handle) -> None:
        """See `Driver.synchronize_stream`."""
        with self._errors():
            stream[0].synchronize()

    def synchronize_foreign(self, address: int) -> None:
        """See `Driver.synchronize_foreign`."""
        self._lib.synchronize(address)

    def wait_event(self, stream: Handle, event: Handle) -> None:
        """See `Driver.wait_event`."""
        with self._errors():
            stream[0].wait_for_event(event[0])

    def create_event(self, *, timing: bool) -> Handle:
        """See `Driver.create_event`."""
        with self._errors():
            return Memory([self._cu.Event(0 if timing else self._cu.event_flags.DISABLE_TIMING)])

    def destroy_event(self, event: Handle) -> None:
        """See `Driver.destroy_event`."""
        event.clear()

    def record_event(self, event: Handle, stream: Handle) -> None:
        """See `Driver.record_event`."""
        with self._errors():
            event[0].record(stream[0])

    def synchronize_event(self, event: Handle) -> None:
        """See `Driver.synchronize_event`."""
        with self._errors():
            event[0].synchronize()

    def event_done(self, event: Handle) -> bool:
        """See `Driver.event_done`."""
        with self._errors():
            return bool(event[0].query())

    def elapsed_ms(self, start: Handle, end: Handle) -> float:
        """See `Driver.elapsed_ms`."""
        with self._errors():
            return float(start[0].time_till(end[0]))

    def copy_to_device(self, address: int, host: np.ndarray, stream: Handle) -> None:
        """See `Driver.copy_to_device`."""
        with self._errors():
            self._cu.memcpy_htod_async(address, host, stream[0])

    def copy_to_host(self, host: np.ndarray, address: int, stream: Handle) -> None:
        """See `Driver.copy_to_host`."""
        with self._errors():
            self._cu.memcpy_dtoh_async(host, address, stream[0])

    def copy_on_device(self, target: int, source: int, size_bytes: int, stream: Handle) -> None:
        """See `Driver.copy_on_device`."""
        with self._errors():
            self._cu.memcpy_dtod_async(target, source, size_bytes, stream[0])

    def load_module(self, image: bytes) -> Handle:
        """See `Driver.load_module`."""
        return self._lib.load_module(image)

    def unload_module(self, module: Handle) -> None:
        """See `Driver.unload_module`."""
        self._lib.unload_module(module)

    def function(self, module: Handle, name: str) -> Handle:
        """See `Driver.function`."""
        return self._lib.function(module, name)

    def allow_shared_memory(self, function: Handle, size_bytes: int) -> None:
        """See `Driver.allow_shared_memory`."""
        self._lib.allow_shared_memory(function, size_bytes)

    def launch(
        self,
        function: Handle,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        arguments: Sequence[np.generic],
        *,
        shared_bytes: int,
        stream: Handle,
    ) -> None:
        """See `Driver.launch`."""
        address = self.stream_address(stream)
        self._lib.launch(function, grid, block, arguments, shared_bytes=shared_bytes, stream=address)

    def begin_capture(self, stream: Handle) -> None:
        """See `Driver.begin_capture`."""
        self._lib.begin_capture(self.stream_address(stream))

    def end_capture(self, stream: Handle) -> Handle:
        """See `Driver.end_capture`."""
        return self._lib.end_capture(self.stream_address(stream))

    def destroy_graph(self, graph: Handle) -> None:
        """See `Driver.destroy_graph`."""
        self._lib.destroy_graph(graph)

    def instantiate(self, graph: Handle) -> Handle:
        """See `Driver.instantiate`."""
        return self._lib.instantiate(graph)

    def destroy_executable(self, executable: Handle) -> None:
        """See `Driver.destroy_executable`."""
        self._lib.destroy_executable(executable)

    def launch_graph(self, executable: Handle, stream: Handle) -> None:
        """See `Driver.launch_graph`."""
        self._lib.launch_graph(executable, self.stream_address(stream))

    def _device(self, index: int) -> Any:
        try:
            with self._errors():
                return self._cu.Device(index)
        except RunError as e:
            raise BackendUnavailable(f"GPU {index} was not found: {e.message}", hint=NO_DRIVER) from e

    def _memory_bytes(self, index: int) -> tuple[int, int]:
        """Returns free and total bytes of memory; CUDA needs a context for this."""
        context = self.retain(index)
        try:
            self.push(context)
            try:
                with self._errors():
                    free_bytes, memory_bytes = self._cu.mem_get_info()
            finally:
                self.pop()
        finally:
            self.release(context)
        return free_bytes, memory_bytes

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Converts pycuda's errors to `RunError`; their text names the CUDA function and the error."""
        try:
            yield
        except self._cu.Error as e:
            raise RunError(f"CUDA failed: {e}") from e


def _detach(contexts: dict[int, Any]) -> None:
    """Detaches retained contexts before the process ends."""
    # Otherwise pycuda treats them as contexts that it created, and reports an error at exit.
    for context in contexts.values():
        context.detach()
    contexts.clear()
