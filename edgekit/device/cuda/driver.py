"""The boundary to CUDA: the part of its driver API that EdgeKit uses, as handles and addresses.

`Driver` is the protocol. `bindings.py` and `pycuda_driver.py` implement it and are the only files that talk to CUDA,
`choose.py` chooses between them, and `resources.py` wraps handles in objects that free them.
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

# What a driver gives for a thing it has made: an object or a number, which only that driver can read.
Handle = Any


class DeviceProperties(msgspec.Struct, frozen=True, kw_only=True):
    """A GPU, as CUDA shows it.

    Attributes:
        name: such as ``NVIDIA RTX A2000``.
        compute_capability: major and minor, such as ``(8, 6)``.
        memory_bytes: all of its memory; what it shares with the processor where it is integrated.
        free_bytes: how much of that is free now.
        integrated: it shares memory with the processor, as on a Jetson, so that nothing needs to be copied.
        driver_version: the CUDA version that the driver is for, such as ``12.6``.
    """

    name: str
    compute_capability: tuple[int, int]
    memory_bytes: int
    free_bytes: int
    integrated: bool
    driver_version: str


class Driver(Protocol):
    """What EdgeKit needs of CUDA.

    Whatever is made here is given back by the call that stands beside it, once. Calls after `push` act on that context
    until `pop`, in the calling thread alone. Copies, launches and records return before they are done.

    Every call raises `RunError` with CUDA's own name for what went wrong; `init` and `properties` raise
    `BackendUnavailable` where there is no device.

    Attributes:
        name: of the Python package behind it.
        has_graphs: launches can be captured and replayed.
    """

    name: str
    has_graphs: bool

    def init(self) -> None:
        """Finds the devices; comes before any other call, and may come twice."""
        ...

    def properties(self, index: int) -> DeviceProperties:
        """Of the device with that number."""
        ...

    def retain(self, index: int) -> Handle:
        """The device's primary context, which TensorRT and PyTorch use too."""
        ...

    def release(self, context: Handle) -> None: ...

    def push(self, context: Handle) -> None: ...

    def pop(self) -> None: ...

    def allocate(self, size_bytes: int) -> Handle:
        """Memory of the device; ``int`` of the handle is its address."""
        ...

    def free(self, memory: Handle) -> None: ...

    def allocate_host(self, size_bytes: int, *, mapped: bool) -> Handle:
        """Pinned memory of the host, which the device can read by itself; if ``mapped``, its kernels can too."""
        ...

    def free_host(self, memory: Handle) -> None: ...

    def host_array(self, memory: Handle) -> np.ndarray:
        """Pinned memory as an array of uint8; not to be touched once it is freed."""
        ...

    def mapped_address(self, memory: Handle) -> int:
        """Where the device sees memory that is mapped."""
        ...

    def create_stream(self) -> Handle:
        """A stream that does not wait for the default stream."""
        ...

    def destroy_stream(self, stream: Handle) -> None: ...

    def stream_address(self, stream: Handle) -> int:
        """The stream as other libraries take it."""
        ...

    def synchronize_stream(self, stream: Handle) -> None:
        """Waits for all that was asked of the stream."""
        ...

    def wait_event(self, stream: Handle, event: Handle) -> None:
        """What is asked of the stream from now on comes after the event; the host does not wait."""
        ...

    def create_event(self, *, timing: bool) -> Handle: ...

    def destroy_event(self, event: Handle) -> None: ...

    def record_event(self, event: Handle, stream: Handle) -> None:
        """The event happens when what was asked of the stream until now is done."""
        ...

    def synchronize_event(self, event: Handle) -> None:
        """Waits until the event has happened."""
        ...

    def event_done(self, event: Handle) -> bool:
        """Whether it has happened."""
        ...

    def elapsed_ms(self, start: Handle, end: Handle) -> float:
        """Time between two events that have happened."""
        ...

    def copy_to_device(self, address: int, host: np.ndarray, stream: Handle) -> None:
        """Copies an array of pinned memory; it must stay as it is until the stream has come so far."""
        ...

    def copy_to_host(self, host: np.ndarray, address: int, stream: Handle) -> None:
        """Copies into an array of pinned memory; it must not be read until the stream has come so far."""
        ...

    def load_module(self, image: bytes) -> Handle:
        """Compiled kernels: a cubin, a fatbin or PTX."""
        ...

    def unload_module(self, module: Handle) -> None: ...

    def function(self, module: Handle, name: str) -> Handle:
        """A kernel, which lives as long as its module."""
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
        """Starts a kernel; a pointer is given as ``np.uint64(address)``, every other argument as its own type."""
        ...

    def begin_capture(self, stream: Handle) -> None:
        """What this thread asks of the stream from now on is noted down, and not done."""
        ...

    def end_capture(self, stream: Handle) -> Handle:
        """What was noted down, as a graph."""
        ...

    def destroy_graph(self, graph: Handle) -> None: ...

    def instantiate(self, graph: Handle) -> Handle:
        """The graph, ready to be launched; the graph itself is no longer needed."""
        ...

    def destroy_executable(self, executable: Handle) -> None: ...

    def launch_graph(self, executable: Handle, stream: Handle) -> None: ...
