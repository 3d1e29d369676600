"""What CUDA lends, as objects that give it back: when closed, at the end of ``with``, or when forgotten."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from types import TracebackType
from typing import TypeVar

import numpy as np

from edgekit.device.cuda.driver import Driver, Handle
from edgekit.errors import RunError

__all__ = ["Context", "DeviceMemory", "Event", "Graph", "HostMemory", "Module", "Stream", "give_back"]

T = TypeVar("T", bound="Owned")


class Owned:
    """What is given back once: closing it twice is harmless, and so is forgetting it.

    Methods of what belongs to a context, other than making and closing it, are called while that context is current.
    """

    _finalizer: weakref.finalize[..., Owned] | None = None

    def _give_back_by(self, call: Callable[..., None], *arguments: object) -> None:
        self._finalizer = weakref.finalize(self, call, *arguments)

    def close(self) -> None:
        """Gives it back; a second call does nothing."""
        if self._finalizer is not None:
            self._finalizer()

    @property
    def closed(self) -> bool:
        """Whether it has been given back."""
        return self._finalizer is None or not self._finalizer.alive

    def __enter__(self: T) -> T:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


class Context(Owned):
    """The primary context of a device, held while this is open."""

    def __init__(self, driver: Driver, index: int = 0) -> None:
        self.driver = driver
        self._handle = driver.retain(index)
        self._give_back_by(driver.release, self._handle)

    @contextmanager
    def current(self) -> Iterator[None]:
        """Makes it the one that this thread's calls act on."""
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
    """Calls what gives something of the context's back, while that is current, if it still can be."""
    entered = False
    try:
        with context.current():
            entered = True
            call(*arguments)
    finally:
        if not entered:  # a context that cannot be entered is broken; what is in it is still ours to hand back
            with suppress(RunError):
                call(*arguments)


class DeviceMemory(_InContext):
    """Memory of the device; not initialized."""

    def __init__(self, context: Context, size_bytes: int) -> None:
        driver = context.driver
        super().__init__(context, lambda: driver.allocate(size_bytes), driver.free)
        self.size_bytes = size_bytes
        self.address = int(self.handle)


class HostMemory(_InContext):
    """Pinned memory of the host: the device copies from and to it by itself.

    Attributes:
        array: the memory, uint8; not to be touched once this is closed.
        mapped_address: where the device sees it; 0 unless ``mapped``.
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
    """Work that the device does in order."""

    def __init__(self, context: Context) -> None:
        super().__init__(context, context.driver.create_stream, context.driver.destroy_stream)

    @property
    def address(self) -> int:
        """The stream as other libraries take it."""
        return self.driver.stream_address(self.handle)

    def synchronize(self) -> None:
        """Waits for all that was asked of it."""
        self.driver.synchronize_stream(self.handle)

    def wait(self, event: Event) -> None:
        """What is asked of it from now on comes after the event; the host does not wait."""
        self.driver.wait_event(self.handle, event.handle)

    def copy_to_device(self, address: int, host: np.ndarray) -> None:
        """Copies pinned memory to the device; see `Driver.copy_to_device`."""
        self.driver.copy_to_device(address, host, self.handle)

    def copy_to_host(self, host: np.ndarray, address: int) -> None:
        """Copies from the device to pinned memory; see `Driver.copy_to_host`."""
        self.driver.copy_to_host(host, address, self.handle)


class Event(_InContext):
    """A point in a stream's work; with ``timing``, the time between two of them can be asked for."""

    def __init__(self, context: Context, *, timing: bool = False) -> None:
        driver = context.driver
        super().__init__(context, lambda: driver.create_event(timing=timing), driver.destroy_event)

    def record(self, stream: Stream) -> None:
        """It happens when what was asked of the stream until now is done."""
        self.driver.record_event(self.handle, stream.handle)

    def synchronize(self) -> None:
        """Waits until it has happened."""
        self.driver.synchronize_event(self.handle)

    @property
    def done(self) -> bool:
        """Whether it has happened."""
        return self.driver.event_done(self.handle)

    def elapsed_ms(self, end: Event) -> float:
        """Time from this event to ``end``; both have happened."""
        return self.driver.elapsed_ms(self.handle, end.handle)


class Graph(_InContext):
    """Work that was asked of a stream once and is replayed as a whole, which costs the host a single call.

    Args:
        context: the current one.
        stream: what ``work`` asks of this stream is captured and not done.
        work: asks it.

    Raises:
        RunError: it cannot be captured; the stream is as it was before.
    """

    def __init__(self, context: Context, stream: Stream, work: Callable[[], None]) -> None:
        driver = context.driver
        super().__init__(context, lambda: _instantiate(driver, stream, work), driver.destroy_executable)

    def launch(self, stream: Stream) -> None:
        """Asks all of it of the stream."""
        self.driver.launch_graph(self.handle, stream.handle)


def _instantiate(driver: Driver, stream: Stream, work: Callable[[], None]) -> Handle:
    driver.begin_capture(stream.handle)
    try:
        work()
    except BaseException:
        with suppress(RunError):  # what has broken the capture is what is raised
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
    """Compiled kernels.

    Args:
        context: that they are loaded into.
        image: a cubin, a fatbin or PTX.
    """

    def __init__(self, context: Context, image: bytes) -> None:
        driver = context.driver
        self._functions: dict[str, Handle] = {}
        unload = functools.partial(_unload, driver, self._functions)
        super().__init__(context, lambda: driver.load_module(image), unload)

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
        """Starts the kernel of that name; see `Driver.launch`."""
        if name not in self._functions:
            self._functions[name] = self.driver.function(self.handle, name)
        function = self._functions[name]
        self.driver.launch(function, grid, block, arguments, shared_bytes=shared_bytes, stream=stream.handle)


def _unload(driver: Driver, functions: dict[str, Handle], module: Handle) -> None:
    functions.clear()  # pycuda's hold on to their module
    driver.unload_module(module)
