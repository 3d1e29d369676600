"""A CUDA driver without a GPU: streams do their work as late as they may, and whoever relies on luck is told so.

A copy or a kernel takes effect only when somebody waits for it. What is done with memory is checked: use after free,
double free, two streams at the same memory without an order between them, a host that looks at memory before the copy
into it is done. Any call can be made to fail.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from edgekit.device.cuda.driver import DeviceProperties
from edgekit.errors import BackendUnavailable, RunError

GARBAGE = 0xAB
ALIGNMENT = 256
FIRST_ADDRESS = 0x7F00_0000_0000

# These do what they are asked even when they report an error, which may be that of an earlier, asynchronous call.
DONE_ANYWAY = frozenset(
    "release pop free free_host destroy_stream destroy_event destroy_graph destroy_executable unload_module "
    "end_capture".split()
)


class Misuse(AssertionError):
    """What CUDA does not forbid and punishes."""


class Memory:
    def __init__(self, driver: FakeDriver, size_bytes: int, *, host: bool, mapped: bool = False) -> None:
        # Aligned as CUDA's own allocations are.
        whole = np.full(size_bytes + ALIGNMENT, GARBAGE, np.uint8)
        start = -whole.ctypes.data % ALIGNMENT
        self.data = whole[start : start + size_bytes]
        self.address = driver.new_address(self.data)
        self.host = host
        self.mapped = mapped
        self.freed = False

    def __int__(self) -> int:
        return self.address


class Pointer(NamedTuple):
    """An argument of a kernel that is a pointer; null has no memory."""

    memory: np.ndarray
    offset: int

    def array(self, dtype: str) -> np.ndarray:
        size_bytes = (self.memory.size - self.offset) // np.dtype(dtype).itemsize * np.dtype(dtype).itemsize
        return self.memory[self.offset : self.offset + size_bytes].view(dtype)


PythonKernels = Callable[[str, tuple[int, int, int], list[Any]], None]


class HostArray(np.ndarray):
    """Pinned memory; a part of it may be had only while no copy or kernel that touches it is under way."""

    memory: Memory | None = None
    driver: FakeDriver | None = None

    def __array_finalize__(self, whole: Any) -> None:
        self.memory = getattr(whole, "memory", None)
        self.driver = getattr(whole, "driver", None)

    def __getitem__(self, index: Any) -> Any:
        if self.driver is not None:
            self.driver.expect_idle(self.memory)
        return super().__getitem__(index)


class Work:
    """A copy or a kernel: what it reads, what it writes, and how."""

    def __init__(
        self, name: str, reads: Sequence[Memory], writes: Sequence[Memory], action: Callable[[], None]
    ) -> None:
        self.name = name
        self.reads = frozenset(reads)
        self.writes = frozenset(writes)
        self.action = action
        self.number = 0

    def touches(self, memory: Memory | None) -> bool:
        return memory in self.reads or memory in self.writes

    def conflicts_with(self, other: Work) -> bool:
        return bool(self.writes & (other.reads | other.writes) or self.reads & other.writes)


class Record:
    def __init__(self, event: Event) -> None:
        self.event = event
        self.done = False
        self.time_ms = 0.0


class Wait:
    def __init__(self, stream: Stream, record: Record) -> None:
        self.stream = stream
        self.record = record


class Stream:
    def __init__(self, address: int) -> None:
        self.address = address
        self.queue: deque[Work | Record | Wait] = deque()
        self.captured: list[Work] | None = None


class Event:
    def __init__(self, timing: bool) -> None:
        self.timing = timing
        self.stream: Stream | None = None
        self.record: Record | None = None


class Context:
    pass


def call(function: Callable[..., Any]) -> Callable[..., Any]:
    """A call that is recorded, and fails when its turn has come."""
    name = function.__name__

    @functools.wraps(function)
    def recorded(self: FakeDriver, *arguments: Any, **named: Any) -> Any:
        with self.lock:
            number = len(self.calls)
            self.calls.append(name)
            fails = number == self.fail_at
            if fails:
                self.failed = name
            if fails and name not in DONE_ANYWAY:
                raise RunError(f"CUDA failed: {name} gave CUDA_ERROR_UNKNOWN")
            given = function(self, *arguments, **named)
            if fails:
                raise RunError(f"CUDA failed: {name} gave CUDA_ERROR_LAUNCH_FAILED")
            return given

    return recorded


class FakeDriver:
    """See `edgekit.device.cuda.driver.Driver`.

    Args:
        integrated: host and device share memory.
        memory_bytes: of the device; more than that cannot be allocated.
        kernels: a library made with ``tests/kernels/standin``, whose kernels run on the device's memory, or a function
            that stands in for every kernel, given its name, grid and arguments, with a `Pointer` for each pointer;
            without it, every kernel adds its last argument to all bytes of the memory that its first points to. With a
            library, addresses are real, so that kernels may read addresses from memory.
    """

    name = "fake"

    def __init__(
        self,
        *,
        integrated: bool = False,
        memory_bytes: int = 1 << 30,
        kernels: ctypes.CDLL | PythonKernels | None = None,
        compute_capability: tuple[int, int] = (8, 7),
    ) -> None:
        self.kernels = kernels
        self.compute_capability = compute_capability
        self.allowed_shared_bytes: dict[tuple[int, str], int] = {}
        self.integrated = integrated
        self.memory_bytes = memory_bytes
        self.calls: list[str] = []
        self.fail_at: int | None = None
        self.failed = ""
        self.lock = threading.RLock()
        self.live: dict[int, tuple[str, Any]] = {}
        self.streams: dict[int, Stream] = {}
        self.trace: list[str] = []
        self.waited_for: list[int] = []  # streams of other libraries
        self._addresses = itertools.count()
        self._kept: list[np.ndarray] = []
        self._numbers = itertools.count(1)
        self._clock_ms = itertools.count()
        self._local = threading.local()

    # What tests ask.

    def leaks(self) -> Counter[str]:
        """What was made and not given back."""
        with self.lock:
            return Counter(kind for kind, _ in self.live.values())

    def expect_idle(self, memory: Memory | None) -> None:
        with self.lock:
            for stream in self.streams.values():
                for item in stream.queue:
                    if isinstance(item, Work) and item.touches(memory):
                        raise Misuse(f"the host touches memory that '{item.name}' has not been waited for")

    def enqueue(self, stream: Stream, work: Work) -> None:
        """Kernels of libraries come this way."""
        for memory in work.reads | work.writes:
            if memory.freed:
                raise Misuse(f"'{work.name}' uses memory that was freed")
        if stream.captured is not None:
            stream.captured.append(work)
            return
        again = Work(work.name, list(work.reads), list(work.writes), work.action)
        again.number = next(self._numbers)
        stream.queue.append(again)

    def memory_at(self, address: int) -> Memory:
        with self.lock:
            things = [thing for _, thing in self.live.values()]
        for thing in things:
            if isinstance(thing, Memory) and thing.address <= address < thing.address + max(1, thing.data.size):
                if thing.host and not thing.mapped:
                    break
                return thing
        raise Misuse(f"0x{address:x} is no memory of the device's")

    def stream_at(self, address: int) -> Stream:
        if address not in self.streams:
            raise Misuse(f"0x{address:x} is no stream")
        return self.streams[address]

    def new_address(self, data: np.ndarray | None = None) -> int:
        if self.kernels is not None and data is not None:
            self._kept.append(data)  # so that no other memory gets its address
            return int(data.ctypes.data)
        return FIRST_ADDRESS + next(self._addresses) * (1 << 32)

    # The driver.

    @call
    def init(self) -> None:
        pass

    @call
    def properties(self, index: int) -> DeviceProperties:
        if index:
            raise BackendUnavailable(f"there is no GPU {index}")
        return DeviceProperties(
            name="Fake GPU",
            compute_capability=self.compute_capability,
            memory_bytes=self.memory_bytes,
            free_bytes=self.memory_bytes - self._used(),
            integrated=self.integrated,
            driver_version="13.0",
        )

    @call
    def retain(self, index: int) -> Context:
        return self._made("context", Context())

    @call
    def release(self, context: Context) -> None:
        self._gone("context", context)

    @call
    def push(self, context: Context) -> None:
        self._expect_live("context", context)
        self._stack().append(context)

    @call
    def pop(self) -> None:
        if not self._stack():
            raise Misuse("pop without push")
        self._stack().pop()

    @call
    def allocate(self, size_bytes: int) -> Memory:
        self._expect_current()
        if self._used() + size_bytes > self.memory_bytes:
            raise RunError("CUDA failed: allocate gave CUDA_ERROR_OUT_OF_MEMORY")
        return self._made("memory", Memory(self, size_bytes, host=False))

    @call
    def free(self, memory: Memory) -> None:
        self._free("memory", memory)

    @call
    def allocate_host(self, size_bytes: int, *, mapped: bool) -> Memory:
        self._expect_current()
        return self._made("host memory", Memory(self, size_bytes, host=True, mapped=mapped))

    @call
    def free_host(self, memory: Memory) -> None:
        self._free("host memory", memory)

    @call
    def host_array(self, memory: Memory) -> np.ndarray:
        self._expect_live("host memory", memory)
        array = memory.data.view(HostArray)
        array.memory, array.driver = memory, self
        return array

    @call
    def mapped_address(self, memory: Memory) -> int:
        if not memory.mapped:
            raise Misuse("memory that is not mapped has no address on the device")
        return memory.address

    @call
    def create_stream(self) -> Stream:
        self._expect_current()
        stream = self._made("stream", Stream(self.new_address()))
        self.streams[stream.address] = stream
        return stream

    @call
    def destroy_stream(self, stream: Stream) -> None:
        self._gone("stream", stream)
        if any(isinstance(item, Work) for item in stream.queue):
            raise Misuse("a stream with work in it is destroyed")
        del self.streams[stream.address]

    @call
    def stream_address(self, stream: Stream) -> int:
        self._expect_live("stream", stream)
        return stream.address

    @call
    def foreign_stream(self, address: int) -> Stream:
        return self.stream_at(address)

    @call
    def synchronize_stream(self, stream: Stream) -> None:
        self._expect_live("stream", stream)
        self._run(stream)

    @call
    def synchronize_foreign(self, address: int) -> None:
        if address in self.streams:
            self._run(self.streams[address])
        self.waited_for.append(address)

    @call
    def wait_event(self, stream: Stream, event: Event) -> None:
        self._expect_live("stream", stream)
        self._expect_live("event", event)
        if event.record is not None and event.stream is not None:
            stream.queue.append(Wait(event.stream, event.record))

    @call
    def create_event(self, *, timing: bool) -> Event:
        self._expect_current()
        return self._made("event", Event(timing))

    @call
    def destroy_event(self, event: Event) -> None:
        self._gone("event", event)

    @call
    def record_event(self, event: Event, stream: Stream) -> None:
        self._expect_live("stream", stream)
        self._expect_live("event", event)
        event.stream, event.record = stream, Record(event)
        stream.queue.append(event.record)

    @call
    def synchronize_event(self, event: Event) -> None:
        self._expect_live("event", event)
        if event.record is not None and event.stream is not None:
            self._run(event.stream, event.record)

    @call
    def event_done(self, event: Event) -> bool:
        self._expect_live("event", event)
        return event.record is None or event.record.done

    @call
    def elapsed_ms(self, start: Event, end: Event) -> float:
        for event in (start, end):
            self._expect_live("event", event)
            if not event.timing or event.record is None or not event.record.done:
                raise RunError("CUDA failed: elapsed_ms gave CUDA_ERROR_NOT_READY")
        assert start.record is not None and end.record is not None
        return end.record.time_ms - start.record.time_ms

    @call
    def copy_to_device(self, address: int, host: np.ndarray, stream: Stream) -> None:
        self._copy("copy to device", address, host, stream, to_host=False)

    @call
    def copy_to_host(self, host: np.ndarray, address: int, stream: Stream) -> None:
        self._copy("copy to host", address, host, stream, to_host=True)

    @call
    def copy_on_device(self, target: int, source: int, size_bytes: int, stream: Stream) -> None:
        written, read = self.memory_at(target), self.memory_at(source)
        to, of = target - written.address, source - read.address
        if to + size_bytes > written.data.size or of + size_bytes > read.data.size:
            raise Misuse(f"a copy of {size_bytes} bytes leaves the memory that it reads or writes")

        def copy() -> None:
            written.data[to : to + size_bytes] = read.data[of : of + size_bytes]

        self.enqueue(stream, Work("copy on device", [read], [written], copy))

    @call
    def load_module(self, image: bytes) -> bytearray:
        self._expect_current()
        return self._made("module", bytearray(image))

    @call
    def unload_module(self, module: bytearray) -> None:
        self._gone("module", module)

    @call
    def function(self, module: bytearray, name: str) -> tuple[bytearray, str]:
        self._expect_live("module", module)
        if name.encode() not in module:
            raise RunError(f"CUDA failed: function gave CUDA_ERROR_NOT_FOUND ({name})")
        return module, name

    @call
    def allow_shared_memory(self, function: tuple[bytearray, str], size_bytes: int) -> None:
        self._expect_live("module", function[0])
        self.allowed_shared_bytes[id(function[0]), function[1]] = size_bytes

    @call
    def launch(
        self,
        function: tuple[bytearray, str],
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        arguments: Sequence[np.generic],
        *,
        shared_bytes: int,
        stream: Stream,
    ) -> None:
        self._expect_live("module", function[0])
        if shared_bytes > self.allowed_shared_bytes.get((id(function[0]), function[1]), 48 << 10):
            raise RunError("CUDA failed: launch gave CUDA_ERROR_INVALID_VALUE")
        if callable(self.kernels):
            self._launch_python(self.kernels, function[1], grid, arguments, stream)
            return
        if self.kernels is not None:
            self._launch_standin(self.kernels, function[1], grid, block, arguments, stream)
            return
        memory, amount = self.memory_at(int(arguments[0])), int(arguments[-1])

        def add() -> None:
            memory.data += np.uint8(amount)

        self.enqueue(stream, Work(function[1], [memory], [memory], add))

    @call
    def begin_capture(self, stream: Stream) -> None:
        self._expect_live("stream", stream)
        if stream.captured is not None:
            raise Misuse("a stream is captured twice at once")
        stream.captured = []

    @call
    def end_capture(self, stream: Stream) -> list[Work]:
        if stream.captured is None:
            raise Misuse("a capture ends that has not begun")
        captured, stream.captured = stream.captured, None
        if len(self.calls) - 1 == self.fail_at:
            return captured  # the call is about to fail, and gives no graph
        return self._made("graph", captured)

    @call
    def destroy_graph(self, graph: list[Work]) -> None:
        self._gone("graph", graph)

    @call
    def instantiate(self, graph: list[Work]) -> list[Work]:
        self._expect_live("graph", graph)
        return self._made("executable", list(graph))

    @call
    def destroy_executable(self, executable: list[Work]) -> None:
        self._gone("executable", executable)

    @call
    def launch_graph(self, executable: list[Work], stream: Stream) -> None:
        self._expect_live("executable", executable)
        for work in executable:
            self.enqueue(stream, work)

    # How it works.

    def is_current(self) -> bool:
        return bool(self._stack())

    @contextmanager
    def library_memory(self, size_bytes: int) -> Iterator[Memory]:
        """Memory that a library allocates by itself."""
        memory = self._made("library's memory", Memory(self, size_bytes, host=False))
        yield memory
        self._free("library's memory", memory)

    def _stack(self) -> list[Context]:
        if not hasattr(self._local, "stack"):
            self._local.stack = []
        stack: list[Context] = self._local.stack
        return stack

    def _expect_current(self) -> None:
        if not self._stack():
            raise Misuse("no context is current")
        self._expect_live("context", self._stack()[-1])

    def _made(self, kind: str, thing: Any) -> Any:
        self.live[id(thing)] = (kind, thing)
        return thing

    def _expect_live(self, kind: str, thing: Any) -> None:
        if self.live.get(id(thing), ("", None))[0] != kind:
            raise Misuse(f"{kind} is used after it was given back")

    def _gone(self, kind: str, thing: Any) -> None:
        if self.live.pop(id(thing), ("", None))[0] != kind:
            raise Misuse(f"{kind} is given back twice")

    def _free(self, kind: str, memory: Memory) -> None:
        self._gone(kind, memory)
        memory.freed = True
        self.expect_idle(memory)

    def _used(self) -> int:
        return sum(thing.data.size for kind, thing in self.live.values() if "memory" in kind and kind[0] != "h")

    def _copy(self, name: str, address: int, host: np.ndarray, stream: Stream, *, to_host: bool) -> None:
        pinned = getattr(host, "memory", None)
        if pinned is None:
            raise Misuse("an asynchronous copy needs pinned memory")
        self._expect_live("host memory", pinned)
        memory = self.memory_at(address)
        first = address - memory.address
        plain, device = host.view(np.ndarray), memory.data[first : first + host.size]
        if device.size < host.size:
            raise Misuse(f"a copy of {host.size} bytes needs more than the {memory.data.size} that are there")

        def copy() -> None:
            if to_host:
                plain[...] = device
            else:
                device[...] = plain

        reads, writes = ([memory], [pinned]) if to_host else ([pinned], [memory])
        self.enqueue(stream, Work(name, reads, writes, copy))

    def _launch_standin(
        self,
        library: ctypes.CDLL,
        name: str,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        arguments: Sequence[np.generic],
        stream: Stream,
    ) -> None:
        memories, values = [], []
        for argument in arguments:
            if isinstance(argument, np.uint64):  # a pointer; see `Driver.launch`
                memories.append(self.memory_at(int(argument)))
            values.append(np.array([argument]))
        sizes = [(ctypes.c_uint * 3)(*numbers) for numbers in (grid, block)]
        pointers = (ctypes.c_void_p * len(values))(*[value.ctypes.data for value in values])

        def run() -> None:
            assert len(values) == len(pointers)  # keeps the arguments alive
            getattr(library, f"standin_{name}")(*sizes, pointers)

        self.enqueue(stream, Work(name, memories, memories, run))

    def _launch_python(
        self,
        kernels: PythonKernels,
        name: str,
        grid: tuple[int, int, int],
        arguments: Sequence[np.generic],
        stream: Stream,
    ) -> None:
        memories, values = [], []
        for argument in arguments:
            if not isinstance(argument, np.uint64):
                values.append(argument.item())
            elif argument == 0:
                values.append(Pointer(np.empty(0, np.uint8), 0))
            else:
                memory = self.memory_at(int(argument))
                memories.append(memory)
                values.append(Pointer(memory.data, int(argument) - memory.address))
        self.enqueue(stream, Work(name, memories, memories, lambda: kernels(name, grid, values)))

    def _run(self, stream: Stream, until: Record | None = None) -> None:
        while stream.queue and not (until is not None and until.done):
            item = stream.queue.popleft()
            if isinstance(item, Wait):
                if not item.record.done:
                    self._run(item.stream, item.record)
            elif isinstance(item, Record):
                item.done = True
                item.time_ms = float(next(self._clock_ms))
            else:
                self._do(item)

    def _do(self, work: Work) -> None:
        for stream in self.streams.values():
            for other in stream.queue:
                if isinstance(other, Work) and other.number < work.number and work.conflicts_with(other):
                    raise Misuse(f"'{work.name}' does not wait for '{other.name}', which comes before it")
        if any(memory.freed for memory in work.reads | work.writes):
            raise Misuse(f"'{work.name}' runs on memory that was freed")
        self.trace.append(work.name)
        next(self._clock_ms)
        work.action()
