"""Owners of CUDA resources: they free them when closed, at the end of ``with``, or when garbage-collected."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from types import TracebackType
from typing import TypeVar

import numpy as np

from edgekit.device.cuda.driver import Driver, Handle
from edgekit.errors import RunError

__all__ = [
    "Context",
    "DeviceMemory",
    "Event",
    "ForeignStream",
    "Graph",
    "HostMemory",
    "Module",
    "Stream",
    "close_when_idle",
    "give_back",
    "settle",
]

T = TypeVar("T", bound="Owned")

# Dynamic shared memory that a kernel may have without being allowed more; CUDA C++ Programming Guide, "Shared Memory".
DEFAULT_SHARED_BYTES = 48 << 10


class Owned:
    """Base class of CUDA resources, which are freed once, on `close` or garbage collection.

    Methods other than the constructor and `close` are called while the resource's context is current.
    """

    _finalizer: weakref.finalize[..., Owned] | None = None

    def _give_back_by(self, call: Callable[..., None], *arguments: object) -> None:
        self._finalizer = weakref.finalize(self, call, *arguments)

    def close(self) -> None:
        """Frees the resource; a second call does nothing."""
        if self._finalizer is not None:
            self._finalizer()

    @property
    def closed(self) -> bool:
        """Whether the resource was freed."""
        return self._finalizer is None or not self._finalizer.alive

    def __enter__(self: T) -> T:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


class Context(Owned):
    """The primary context of a device, retained until `close`."""

    def __init__(self, driver: Driver, index: int = 0) -> None:
        self.driver = driver
        self.index = index
        self._handle = driver.retain(index)
        self._give_back_by(driver.release, self._handle)

    @contextmanager
    def current(self) -> Iterator[None]:
        """Makes this the current context of the calling thread."""
        if self.closed:
            raise RunError("expected an open CUDA context, got a closed one")
        self.driver.push(self._handle)
        try:
            yield
        finally:
            self.driver.pop()


class _InContext(Owned):
    def __init__(self, context: Context, make: Callable[[], Handle], destroy: Callable[[Handle], None]) -> None:
        self.context = context
        self.driver = context.driver
        try:
            with context.current():
                self.handle = make()
                self._give_back_by(give_back, context, destroy, self.handle)
        except BaseException:
            self.close()
            raise


def give_back(context: Context, call: Callable[..., object], *arguments: object) -> None:
    """Calls a function that frees a resource, with the resource's context current if possible."""
    entered = False
    try:
        with context.current():
            entered = True
            call(*arguments)
    finally:
        if not entered:  # a context that cannot be entered is broken, but its resources must still be freed
            with suppress(RunError):
                call(*arguments)


def close_when_idle(context: Context, streams: Sequence[Stream], stack: ExitStack) -> None:
    """Waits until streams of a context are idle, and then closes the resources in ``stack``, also after an error."""
    with stack:
        give_back(context, _wait_for, streams)


def settle(context: Context, streams: Sequence[Stream]) -> None:
    """Waits until streams are idle, after a failure that is reported already."""
    with suppress(RunError):
        give_back(context, _wait_for, streams)


def _wait_for(streams: Sequence[Stream]) -> None:
    with ExitStack() as stack:
        for stream in streams:
            stack.callback(stream.synchronize)


class DeviceMemory(_InContext):
    """Device memory; not initialized."""

    def __init__(self, context: Context, size_bytes: int) -> None:
        driver = context.driver
        super().__init__(context, lambda: driver.allocate(size_bytes), driver.free)
        self.size_bytes = size_bytes
        self.address = int(self.handle)


class HostMemory(_InContext):
    """Pinned host memory, which the device can access for asynchronous copies.

    Attributes:
        array: the memory, uint8; must not be used after `close`.
        mapped_address: device address of the memory; 0 unless ``mapped``.
    """

    def __init__(self, context: Context, size_bytes: int, *, mapped: bool = False) -> None:
        driver = context.driver
        super().__init__(context, lambda: driver.allocate_host(size_bytes, mapped=mapped), driver.free_host)
        try:
            with context.current():
                self.array = driver.host_array(self.handle)
                self.mapped_address = driver.mapped_address(self.handle) if mapped else 0
        except BaseException:
            self.close()
            raise


class Stream(_InContext):
    """A CUDA stream: a queue of work that the device runs in order."""

    def __init__(self, context: Context) -> None:
        super().__init__(context, context.driver.create_stream, context.driver.destroy_stream)

    @property
    def address(self) -> int:
        """The stream's handle as an integer, for other libraries."""
        return self.driver.stream_address(self.handle)

    def synchronize(self) -> None:
        """Waits for all work in the stream."""
        self.driver.synchronize_stream(self.handle)

    @contextmanager
    def until_done(self) -> Iterator[None]:
        """Waits for all work at the end of ``with``, also after an error, so that memory that it uses can be freed."""
        try:
            yield
            self.synchronize()
        except BaseException:
            with suppress(RunError):  # the original error is raised instead
                self.synchronize()
            raise

    def wait(self, event: Event) -> None:
        """Makes later work in the stream wait for an event; the host does not wait."""
        self.driver.wait_event(self.handle, event.handle)

    def copy_to_device(self, address: int, host: np.ndarray) -> None:
        """Copies pinned memory to the device; see `Driver.copy_to_device`."""
        self.driver.copy_to_device(address, host, self.handle)

    def copy_to_host(self, host: np.ndarray, address: int) -> None:
        """Copies from the device to pinned memory; see `Driver.copy_to_host`."""
        self.driver.copy_to_host(host, address, self.handle)

    def copy_on_device(self, target: int, source: int, size_bytes: int) -> None:
        """Copies device memory to device memory; see `Driver.copy_on_device`."""
        self.driver.copy_on_device(target, source, size_bytes, self.handle)


class ForeignStream(Stream):
    """A stream of another library, which that library destroys.

    Args:
        context: the context of the stream.
        address: the stream's handle as an integer.
    """

    def __init__(self, context: Context, address: int) -> None:
        self.context = context
        self.driver = context.driver
        self.handle = context.driver.foreign_stream(address)


class Event(_InContext):
    """A CUDA event: a point in a stream's work; with ``timing``, it can measure elapsed time."""

    def __init__(self, context: Context, *, timing: bool = False) -> None:
        driver = context.driver
        super().__init__(context, lambda: driver.create_event(timing=timing), driver.destroy_event)

    def record(self, stream: Stream) -> None:
        """Records the event in a stream, after the work that is in it now."""
        self.driver.record_event(self.handle, stream.handle)

    def synchronize(self) -> None:
        """Waits for the event."""
        self.driver.synchronize_event(self.handle)

    @property
    def done(self) -> bool:
        """Whether the work before the event is done."""
        return self.driver.event_done(self.handle)

    def elapsed_ms(self, end: Event) -> float:
        """Returns the time from this event to ``end``; both must be done."""
        return self.driver.elapsed_ms(self.handle, end.handle)


class Graph(_InContext):
    """A CUDA graph: captured work of a stream that is launched with a single call.

    Args:
        context: the context of the stream.
        stream: the stream to capture.
        work: function that submits work to the stream; the work is captured, but not run.

    Raises:
        RunError: the work cannot be captured; the stream is unchanged.
    """

    def __init__(self, context: Context, stream: Stream, work: Callable[[], None]) -> None:
        driver = context.driver
        super().__init__(context, lambda: _instantiate(driver, stream, work), driver.destroy_executable)

    def launch(self, stream: Stream) -> None:
        """Launches the graph in a stream."""
        self.driver.launch_graph(self.handle, stream.handle)


def _instantiate(driver: Driver, stream: Stream, work: Callable[[], None]) -> Handle:
    driver.begin_capture(stream.handle)
    try:
        work()
    except BaseException:
        with suppress(RunError):  # the original error is raised instead
            driver.destroy_graph(driver.end_capture(stream.handle))
        raise
    graph = driver.end_capture(stream.handle)
    with ExitStack() as stack:
        try:
            executable = driver.instantiate(graph)
            stack.callback(driver.destroy_executable, executable)
        finally:
            driver.destroy_graph(graph)
        stack.pop_all()
    return executable


class Module(_InContext):
    """A CUDA module with compiled kernels.

    Args:
        context: the context to load the module into.
        image: a cubin, a fatbin or PTX.
    """

    def __init__(self, context: Context, image: bytes) -> None:
        driver = context.driver
        self._functions: dict[str, Handle] = {}
        self._shared_bytes: dict[str, int] = {}
        super().__init__(context, lambda: driver.load_module(image), driver.unload_module)

    def launch(
        self,
        name: str,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        arguments: Sequence[np.generic],
        stream: Stream,
        *,
        shared_bytes: int = 0,
    ) -> None:
        """Launches a kernel by name, with any dynamic shared memory that the GPU has; see `Driver.launch`."""
        if name not in self._functions:
            self._functions[name] = self.driver.function(self.handle, name)
        function = self._functions[name]
        if shared_bytes > self._shared_bytes.get(name, DEFAULT_SHARED_BYTES):
            self.driver.allow_shared_memory(function, shared_bytes)
            self._shared_bytes[name] = shared_bytes
        self.driver.launch(function, grid, block, arguments, shared_bytes=shared_bytes, stream=stream.handle)
