"""Functions of NVIDIA's driver library, through ctypes, for the driver on pycuda.

pycuda has no CUDA graphs, and launches kernels in streams of its own only.

Names, types and status codes are those of the CUDA driver API's reference, https://docs.nvidia.com/cuda/cuda-driver-api/.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np

from edgekit.errors import BackendUnavailable, RunError

__all__ = ["Libcuda"]

_POINTER, _POINTER_OUT = ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p)
_MAX_DYNAMIC_SHARED_BYTES = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
_THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: other threads may allocate memory during the capture

# Each function's arguments. The suffixes are what cuda.h makes of the names in the reference.
_FUNCTIONS: dict[str, tuple[object, ...]] = {
    "cuStreamBeginCapture_v2": (_POINTER, ctypes.c_int),
    "cuStreamEndCapture": (_POINTER, _POINTER_OUT),
    "cuStreamSynchronize": (_POINTER,),
    "cuGraphInstantiateWithFlags": (_POINTER_OUT, _POINTER, ctypes.c_ulonglong),
    "cuGraphDestroy": (_POINTER,),
    "cuGraphLaunch": (_POINTER, _POINTER),
    "cuGraphExecDestroy": (_POINTER,),
    "cuModuleLoadData": (_POINTER_OUT, ctypes.c_char_p),
    "cuModuleUnload": (_POINTER,),
    "cuModuleGetFunction": (_POINTER_OUT, _POINTER, ctypes.c_char_p),
    "cuFuncSetAttribute": (_POINTER, ctypes.c_int, ctypes.c_int),
    "cuLaunchKernel": (_POINTER, *[ctypes.c_uint] * 7, _POINTER, ctypes.POINTER(ctypes.c_void_p), _POINTER),
    "cuGetErrorName": (ctypes.c_int, ctypes.POINTER(ctypes.c_char_p)),
    "cuGetErrorString": (ctypes.c_int, ctypes.POINTER(ctypes.c_char_p)),
}


class Libcuda:
    """libcuda.so.1, which is already loaded where pycuda works.

    Streams are handles as integers, as `Driver.stream_address` returns them. Every method raises `RunError` with CUDA's
    name of the error.

    Raises:
        BackendUnavailable: the driver is older than CUDA 11.4 and lacks one of the functions.
    """

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libcuda.so.1")
        for name, arguments in _FUNCTIONS.items():
            try:
                getattr(self._library, name).argtypes = arguments
            except AttributeError as e:
                raise BackendUnavailable(
                    f"NVIDIA's driver has no '{name}'; expected a driver of CUDA 11.4 or later",
                    hint="update the driver, or JetPack on a Jetson",
                ) from e

    def begin_capture(self, stream: int) -> None:
        """See `Driver.begin_capture`."""
        self._call("cuStreamBeginCapture_v2", stream, _THREAD_LOCAL)

    def end_capture(self, stream: int) -> int:
        """See `Driver.end_capture`."""
        graph = ctypes.c_void_p()
        self._call("cuStreamEndCapture", stream, ctypes.byref(graph))
        return graph.value or 0

    def synchronize(self, stream: int) -> None:
        """Waits for all work in a stream."""
        self._call("cuStreamSynchronize", stream)

    def instantiate(self, graph: int) -> int:
        """See `Driver.instantiate`."""
        executable = ctypes.c_void_p()
        self._call("cuGraphInstantiateWithFlags", ctypes.byref(executable), graph, 0)
        return executable.value or 0

    def destroy_graph(self, graph: int) -> None:
        """See `Driver.destroy_graph`."""
        self._call("cuGraphDestroy", graph)

    def launch_graph(self, executable: int, stream: int) -> None:
        """See `Driver.launch_graph`."""
        self._call("cuGraphLaunch", executable, stream)

    def destroy_executable(self, executable: int) -> None:
        """See `Driver.destroy_executable`."""
        self._call("cuGraphExecDestroy", executable)

    def load_module(self, image: bytes) -> int:
        """See `Driver.load_module`."""
        module = ctypes.c_void_p()
        self._call("cuModuleLoadData", ctypes.byref(module), image + b"\0")
        return module.value or 0

    def unload_module(self, module: int) -> None:
        """See `Driver.unload_module`."""
        self._call("cuModuleUnload", module)

    def function(self, module: int, name: str) -> int:
        """See `Driver.function`."""
        function = ctypes.c_void_p()
        self._call("cuModuleGetFunction", ctypes.byref(function), module, name.encode())
        return function.value or 0

    def allow_shared_memory(self, function: int, size_bytes: int) -> None:
        """See `Driver.allow_shared_memory`."""
        self._call("cuFuncSetAttribute", function, _MAX_DYNAMIC_SHARED_BYTES, size_bytes)

    def launch(
        self,
        function: int,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        arguments: Sequence[np.generic],
        *,
        shared_bytes: int,
        stream: int,
    ) -> None:
        """See `Driver.launch`."""
        values = [np.array([argument]) for argument in arguments]
        addresses = (ctypes.c_void_p * len(values))(*[value.ctypes.data for value in values])
        self._call("cuLaunchKernel", function, *grid, *block, shared_bytes, stream, addresses, None)

    def _call(self, name: str, *arguments: object) -> None:
        status = getattr(self._library, name)(*arguments)
        if status:
            texts = [self._text(of, status) for of in ("cuGetErrorName", "cuGetErrorString")]
            raise RunError(f"CUDA failed: {name.removesuffix('_v2')} returned {texts[0] or status} ({texts[1]})")

    def _text(self, name: str, status: int) -> str:
        text = ctypes.c_char_p()
        getattr(self._library, name)(status, ctypes.byref(text))
        return (text.value or b"").decode()
