"""The protocol of the CUDA driver API: the functions that EdgeKit uses, with handles and addresses.

`bindings.py` and `pycuda_driver.py` implement the protocol `Driver` and are the only files that call CUDA. `choose.py`
chooses between them, and `resources.py` wraps handles in objects that free them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec
import numpy as np

__all__ = ["NO_DRIVER", "DeviceProperties", "Driver", "Handle"]

NO_DRIVER = (
    "install NVIDIA's driver (on a Jetson it comes with JetPack), or start the container with --gpus all; "
    "nvidia-smi shows whether it works"
)

# An object or number that identifies a CUDA resource; only the driver that created it can use it.
Handle = Any


class DeviceProperties(msgspec.Struct, frozen=True, kw_only=True):
    """Properties of a GPU that CUDA reports.

    Attributes:
        name: name of the GPU, such as ``NVIDIA RTX A2000``.
        compute_capability: major and minor, such as ``(8, 6)``.
        memory_bytes: total memory; of an integrated GPU, the memory that it shares with the CPU.
        free_bytes: free memory.
        integrated: the GPU shares memory with the CPU, as on a Jetson, so that copies are not needed.
        driver_version: the CUDA version that the driver supports, such as ``12.6``.
    """

    name: str
    compute_capability: tuple[int, int]
    memory_bytes: int
    free_bytes: int
    integrated: bool
    driver_version: str


class Driver(Protocol):
    """The part of the CUDA driver API that EdgeKit uses.

    Every resource is freed once, by the method next to the one that creates it. Calls after `push` use that context
    until `pop`, in the calling thread only. Copies, launches and records are asynchronous.

    Every call raises `RunError` with CUDA's name of the error; `init` and `properties` raise `BackendUnavailable` if
    there is no device.

    Attributes:
        name: name of the Python package that is used.
    """

    name: str

    def init(self) -> None:
        """Initializes CUDA; must be called before any other method, and may be called twice."""
        ...

    def properties(self, index: int) -> DeviceProperties:
        """Returns the properties of a device."""
        ...

    def retain(self, index: int) -> Handle:
        """Retains the device's primary context, which TensorRT and PyTorch use too."""
        ...

    def release(self, context: Handle) -> None: ...

    def push(self, context: Handle) -> None: ...

    def pop(self) -> None: ...

    def allocate(self, size_bytes: int) -> Handle:
        """Allocates device memory; ``int`` of the handle is its address."""
        ...

    def free(self, memory: Handle) -> None: ...

    def allocate_host(self, size_bytes: int, *, mapped: bool) -> Handle:
        """Allocates pinned host memory for asynchronous copies; if ``mapped``, kernels can access it too."""
        ...

    def free_host(self, memory: Handle) -> None: ...

    def host_array(self, memory: Handle) -> np.ndarray:
        """Returns pinned memory as a uint8 array, which must not be used after the memory is freed."""
        ...

    def mapped_address(self, memory: Handle) -> int:
        """Returns the device address of mapped host memory."""
        ...

    def create_stream(self) -> Handle:
        """Creates a stream that does not wait for the default stream."""
        ...

    def destroy_stream(self, stream: Handle) -> None: ...

    def stream_address(self, stream: Handle) -> int:
        """Returns the stream's handle as an integer, for other libraries."""
        ...

    def foreign_stream(self, address: int) -> Handle:
        """Returns the handle of a stream that another library has created and destroys, given as an integer."""
        ...

    def synchronize_stream(self, stream: Handle) -> None:
        """Waits for all work in the stream."""
        ...

    def synchronize_foreign(self, address: int) -> None:
        """Waits for all work in a stream of another library, given as an integer; 1 is the legacy default stream."""
        ...

    def wait_event(self, stream: Handle, event: Handle) -> None:
        """Makes later work in the stream wait for an event; the host does not wait."""
        ...

    def create_event(self, *, timing: bool) -> Handle: ...

    def destroy_event(self, event: Handle) -> None: ...

    def record_event(self, event: Handle, stream: Handle) -> None:
        """Records an event in a stream, after the work that is in it now."""
        ...

    def synchronize_event(self, event: Handle) -> None:
        """Waits for an event."""
        ...

    def event_done(self, event: Handle) -> bool:
        """Whether the work before an event is done."""
        ...

    def elapsed_ms(self, start: Handle, end: Handle) -> float:
        """Returns the time between two events, which must be done."""
        ...

    def copy_to_device(self, address: int, host: np.ndarray, stream: Handle) -> None:
        """Copies from pinned memory to the device; the array must not change until the copy is done."""
        ...

    def copy_to_host(self, host: np.ndarray, address: int, stream: Handle) -> None:
        """Copies from the device to pinned memory; the array must not be read until the copy is done."""
        ...

    def copy_on_device(self, target: int, source: int, size_bytes: int, stream: Handle) -> None:
        """Copies device memory to device memory, from address to address."""
        ...

    def load_module(self, image: bytes) -> Handle:
        """Loads compiled kernels from a cubin, a fatbin or PTX."""
        ...

    def unload_module(self, module: Handle) -> None: ...

    def function(self, module: Handle, name: str) -> Handle:
        """Returns a kernel of a module; it is valid as long as the module is loaded."""
        ...

    def allow_shared_memory(self, function: Handle, size_bytes: int) -> None:
        """Allows launches of a kernel with more dynamic shared memory than the default of 48 KiB."""
        ...

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
        """Launches a kernel; a pointer argument is ``np.uint64(address)``, other arguments have their numpy type."""
        ...

    def begin_capture(self, stream: Handle) -> None:
        """Starts to capture the work that this thread submits to the stream, instead of running it."""
        ...

    def end_capture(self, stream: Handle) -> Handle:
        """Ends the capture and returns the captured graph."""
        ...

    def destroy_graph(self, graph: Handle) -> None: ...

    def instantiate(self, graph: Handle) -> Handle:
        """Makes an executable from a graph; the graph may be destroyed afterwards."""
        ...

    def destroy_executable(self, executable: Handle) -> None: ...

    def launch_graph(self, executable: Handle, stream: Handle) -> None: ...
