"""The CUDA driver API through NVIDIA's package cuda-bindings."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np

from edgekit.device.cuda.driver import NO_DRIVER, DeviceProperties, Handle
from edgekit.device.cuda.packages import CUDA_12
from edgekit.errors import BackendUnavailable, RunError

__all__ = ["CudaBindings"]


class CudaBindings:
    """See `Driver`."""

    name = "cuda-bindings"

    def __init__(self) -> None:
        # The package is optional: this file must be importable without it.
        from cuda.bindings import driver  # noqa: TID251

        self._cu: Any = driver

    def init(self) -> None:
        """See `Driver.init`; this loads libcuda.so.1."""
        try:
            self._call(self._cu.cuInit, 0)
        except RuntimeError as e:
            # The cause has the package's own message, which lists where it searched.
            raise BackendUnavailable(
                "CUDA needs NVIDIA's driver, libcuda.so.1, which was not found", hint=NO_DRIVER
            ) from e
        except RunError as e:
            raise BackendUnavailable(f"CUDA finds no working device: {e.message}", hint=NO_DRIVER) from e

    def properties(self, index: int) -> DeviceProperties:
        """See `Driver.properties`."""
        device = self._device(index)
        version = self._call(self._cu.cuDriverGetVersion)
        free_bytes, memory_bytes = self._memory_bytes(index)
        return DeviceProperties(
            name=self._call(self._cu.cuDeviceGetName, 256, device).split(b"\0", 1)[0].decode(),
            compute_capability=(
                self._attribute("COMPUTE_CAPABILITY_MAJOR", device),
                self._attribute("COMPUTE_CAPABILITY_MINOR", device),
            ),
            memory_bytes=memory_bytes,
            free_bytes=free_bytes,
            integrated=bool(self._attribute("INTEGRATED", device)),
            driver_version=f"{version // 1000}.{version % 1000 // 10}",
        )

    def retain(self, index: int) -> Handle:
        """See `Driver.retain`."""
        device = self._device(index)
        return self._call(self._cu.cuDevicePrimaryCtxRetain, device), device

    def release(self, context: Handle) -> None:
        """See `Driver.release`."""
        self._call(self._cu.cuDevicePrimaryCtxRelease, context[1])

    def push(self, context: Handle) -> None:
        """See `Driver.push`."""
        self._call(self._cu.cuCtxPushCurrent, context[0])

    def pop(self) -> None:
        """See `Driver.pop`."""
        self._call(self._cu.cuCtxPopCurrent)

    def allocate(self, size_bytes: int) -> Handle:
        """See `Driver.allocate`."""
        return self._call(self._cu.cuMemAlloc, size_bytes)

    def free(self, memory: Handle) -> None:
        """See `Driver.free`."""
        self._call(self._cu.cuMemFree, memory)

    def allocate_host(self, size_bytes: int, *, mapped: bool) -> Handle:
        """See `Driver.allocate_host`."""
        address = self._call(self._cu.cuMemHostAlloc, size_bytes, self._cu.CU_MEMHOSTALLOC_DEVICEMAP if mapped else 0)
        return int(address), size_bytes

    def free_host(self, memory: Handle) -> None:
        """See `Driver.free_host`."""
        self._call(self._cu.cuMemFreeHost, memory[0])

    def host_array(self, memory: Handle) -> np.ndarray:
        """See `Driver.host_array`."""
        address, size_bytes = memory
        return np.ctypeslib.as_array((ctypes.c_uint8 * size_bytes).from_address(address))

    def mapped_address(self, memory: Handle) -> int:
        """See `Driver.mapped_address`."""
        return int(self._call(self._cu.cuMemHostGetDevicePointer, memory[0], 0))

    def create_stream(self) -> Handle:
        """See `Driver.create_stream`."""
        return self._call(self._cu.cuStreamCreate, int(self._cu.CUstream_flags.CU_STREAM_NON_BLOCKING))

    def destroy_stream(self, stream: Handle) -> None:
        """See `Driver.destroy_stream`."""
        self._call(self._cu.cuStreamDestroy, stream)

    def stream_address(self, stream: Handle) -> int:
        """See `Driver.stream_address`."""
        return int(stream)

    def foreign_stream(self, address: int) -> Handle:
        """See `Driver.foreign_stream`."""
        return self._cu.CUstream(address)

    def synchronize_stream(self, stream: Handle) -> None:
        """See `Driver.synchronize_stream`."""
        self._call(self._cu.cuStreamSynchronize, stream)

    def synchronize_foreign(self, address: int) -> None:
        """See `Driver.synchronize_foreign`."""
        self._call(self._cu.cuStreamSynchronize, address)

    def wait_event(self, stream: Handle, event: Handle) -> None:
        """See `Driver.wait_event`."""
        self._call(self._cu.cuStreamWaitEvent, stream, event, 0)

    def create_event(self, *, timing: bool) -> Handle:
        """See `Driver.create_event`."""
        flags = self._cu.CUevent_flags
        return self._call(
            self._cu.cuEventCreate, int(flags.CU_EVENT_DEFAULT if timing else flags.CU_EVENT_DISABLE_TIMING)
        )

    def destroy_event(self, event: Handle) -> None:
        """See `Driver.destroy_event`."""
        self._call(self._cu.cuEventDestroy, event)

    def record_event(self, event: Handle, stream: Handle) -> None:
        """See `Driver.record_event`."""
        self._call(self._cu.cuEventRecord, event, stream)

    def synchronize_event(self, event: Handle) -> None:
        """See `Driver.synchronize_event`."""
        self._call(self._cu.cuEventSynchronize, event)

    def event_done(self, event: Handle) -> bool:
        """See `Driver.event_done`."""
        (status,) = self._cu.cuEventQuery(event)
        if status == self._cu.CUresult.CUDA_ERROR_NOT_READY:
            return False
        self._check("cuEventQuery", status)
        return True

    def elapsed_ms(self, start: Handle, end: Handle) -> float:
        """See `Driver.elapsed_ms`."""
        return float(self._call(self._cu.cuEventElapsedTime, start, end))

    def copy_to_device(self, address: int, host: np.ndarray, stream: Handle) -> None:
        """See `Driver.copy_to_device`."""
        self._call(self._cu.cuMemcpyHtoDAsync, address, host.ctypes.data, host.nbytes, stream)

    def copy_to_host(self, host: np.ndarray, address: int, stream: Handle) -> None:
        """See `Driver.copy_to_host`."""
        self._call(self._cu.cuMemcpyDtoHAsync, host.ctypes.data, address, host.nbytes, stream)

    def copy_on_device(self, target: int, source: int, size_bytes: int, stream: Handle) -> None:
        """See `Driver.copy_on_device`."""
        self._call(self._cu.cuMemcpyDtoDAsync, target, source, size_bytes, stream)

    def load_module(self, image: bytes) -> Handle:
        """See `Driver.load_module`; appends the NUL that PTX must end with, which a cubin ignores."""
        return self._call(self._cu.cuModuleLoadData, image + b"\0")

    def unload_module(self, module: Handle) -> None:
        """See `Driver.unload_module`."""
        self._call(self._cu.cuModuleUnload, module)

    def function(self, module: Handle, name: str) -> Handle:
        """See `Driver.function`."""
        return self._call(self._cu.cuModuleGetFunction, module, name.encode())

    def allow_shared_memory(self, function: Handle, size_bytes: int) -> None:
        """See `Driver.allow_shared_memory`."""
        attribute = self._cu.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        self._call(self._cu.cuFuncSetAttribute, function, attribute, size_bytes)

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
        values = [np.array([argument]) for argument in arguments]
        addresses = np.array([value.ctypes.data for value in values], np.uint64)
        self._call(self._cu.cuLaunchKernel, function, *grid, *block, shared_bytes, stream, addresses.ctypes.data, 0)

    def begin_capture(self, stream: Handle) -> None:
        """See `Driver.begin_capture`; other threads may allocate memory during the capture."""
        self._call(
            self._cu.cuStreamBeginCapture, stream, self._cu.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        )

    def end_capture(self, stream: Handle) -> Handle:
        """See `Driver.end_capture`."""
        return self._call(self._cu.cuStreamEndCapture, stream)

    def destroy_graph(self, graph: Handle) -> None:
        """See `Driver.destroy_graph`."""
        self._call(self._cu.cuGraphDestroy, graph)

    def instantiate(self, graph: Handle) -> Handle:
        """See `Driver.instantiate`."""
        return self._call(self._cu.cuGraphInstantiate, graph, 0)

    def destroy_executable(self, executable: Handle) -> None:
        """See `Driver.destroy_executable`."""
        self._call(self._cu.cuGraphExecDestroy, executable)

    def launch_graph(self, executable: Handle, stream: Handle) -> None:
        """See `Driver.launch_graph`."""
        self._call(self._cu.cuGraphLaunch, executable, stream)

    def _device(self, index: int) -> Any:
        try:
            return self._call(self._cu.cuDeviceGet, index)
        except RunError as e:
            raise BackendUnavailable(f"GPU {index} was not found: {e.message}", hint=NO_DRIVER) from e

    def _attribute(self, name: str, device: Any) -> int:
        attribute = getattr(self._cu.CUdevice_attribute, f"CU_DEVICE_ATTRIBUTE_{name}")
        return int(self._call(self._cu.cuDeviceGetAttribute, attribute, device))

    def _memory_bytes(self, index: int) -> tuple[int, int]:
        """Returns free and total bytes of memory; CUDA needs a context for this."""
        context = self.retain(index)
        try:
            self.push(context)
            try:
                free_bytes, memory_bytes = self._call(self._cu.cuMemGetInfo)
            finally:
                self.pop()
        finally:
            self.release(context)
        return int(free_bytes), int(memory_bytes)

    def _call(self, function: Any, *arguments: Any) -> Any:
        """Calls a CUDA function and returns its results without the status: None, one value, or a tuple.

        Raises:
            RunError: the status is an error.
            BackendUnavailable: the driver is older than the function.
        """
        try:
            status, *values = function(*arguments)
        except RuntimeError as e:
            if type(e).__name__ == "FunctionNotFoundError":
                raise BackendUnavailable(
                    f"NVIDIA's driver is older than the package 'cuda-bindings': {e}",
                    hint=f"update the driver, or install an older package: pip install '{CUDA_12}'",
                ) from e
            raise
        self._check(function.__name__, status)
        return values[0] if len(values) == 1 else tuple(values) or None

    def _check(self, function: str, status: Any) -> None:
        if status == self._cu.CUresult.CUDA_SUCCESS:
            return
        _, text = self._cu.cuGetErrorString(status)
        detail = f" ({text.decode()})" if text else ""
        raise RunError(f"CUDA failed: {function} returned {getattr(status, 'name', status)}{detail}")
