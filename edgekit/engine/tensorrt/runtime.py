"""Runs TensorRT engines: preallocated buffers, copies that overlap computation, and CUDA graphs."""

from __future__ import annotations

import itertools
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edgekit.device.cuda.choose import driver
from edgekit.device.cuda.driver import Driver
from edgekit.device.cuda.resources import Context, Event, Graph, Stream, close_when_idle, give_back, settle
from edgekit.engine.base import BaseEngine
from edgekit.engine.layer_timer import TimedLayer
from edgekit.engine.tensorrt.attention_runtime import register_for_plan
from edgekit.engine.tensorrt.context import Execution
from edgekit.engine.tensorrt.layer_timer import TensorRtLayerTimer, layer_profiler
from edgekit.engine.tensorrt.layers import timed_layers_from_inspector
from edgekit.engine.tensorrt.plan import Plan
from edgekit.engine.tensorrt.slot import Lanes, Recording, Shapes, Slot, Tensor
from edgekit.errors import RunError
from edgekit.specs import TensorSpec

__all__ = ["PendingRun", "RunTimes", "TensorRtEngine", "load_engine"]

# While one run computes, the inputs of the next are copied; a third run would only wait.
SLOTS = 2


class RunTimes(msgspec.Struct, frozen=True, kw_only=True):
    """The durations of the parts of one run, in ms.

    Attributes:
        copy_in_ms: copy of the inputs to the device; about 0 if host and device share memory.
        gpu_ms: computation.
        copy_out_ms: copy of the outputs to the host.
        enqueue_ms: host time to enqueue the computation; if it exceeds ``gpu_ms``, the GPU waits for the host.
        end_to_end_ms: from input arrays to output arrays, by the host's clock.
    """

    copy_in_ms: float
    gpu_ms: float
    copy_out_ms: float
    enqueue_ms: float
    end_to_end_ms: float


def load_engine(library: Any, plan: Path, *, name: str, cuda: Driver | None = None, index: int = 0) -> TensorRtEngine:
    """Loads a TensorRT plan file onto the GPU.

    Args:
        library: the module ``tensorrt`` or ``tensorrt_rtx``.
        plan: the plan file; if it has no weights, they are read from the graph next to it.
        name: name of the backend, for messages.
        cuda: the driver; None: the one of this machine.
        index: number of the GPU.

    Raises:
        BackendUnavailable: there is no GPU, or no package with CUDA bindings.
        EngineMismatch: the file is for another GPU or version, or is not a plan file.
        RunError: the GPU has too little memory.
    """
    return TensorRtEngine(library, plan, cuda or driver(), name=name, index=index)


class TensorRtEngine(BaseEngine):
    """An engine on the GPU, with its own CUDA context, streams and buffers.

    Several engines of one file share its weights. Threads may share an engine; runs are serialized by a lock.

    Attributes:
        inputs: specifications of the inputs.
        outputs: specifications of the outputs.
        notes: notes for the user about how it runs, such as why there is no CUDA graph.
        use_graphs: runs are replayed from CUDA graphs, after the first run of each shape.
        graphs_dropped: see `RunsOnDevice`.
    """

    def __init__(self, library: Any, plan: Path, cuda: Driver, *, name: str, index: int = 0) -> None:
        self.notes: list[str] = []
        self.use_graphs = True
        self._name = name
        self._lock = threading.RLock()
        self._slots: list[Slot] = []
        self._pending: dict[Slot, PendingRun] = {}
        self._apart: Lanes | None = None
        self._loaded = (library, plan, cuda, index)
        self.graphs_dropped = 0
        self._known_shapes: set[Shapes] = set()
        self._shared_memory = cuda.properties(index).integrated
        with ExitStack() as stack:
            self._context = stack.enter_context(Context(cuda, index))
            self._stream = stack.enter_context(Stream(self._context))
            register_for_plan(library, plan, cuda)
            with self._context.current():
                loaded = Plan.acquire(library, plan)
                stack.callback(give_back, self._context, loaded.release)
                self._execution = Execution(library, loaded, plan, self._stream)
                stack.callback(give_back, self._context, self._execution.close)
            self._keep_compiled()
            self._stack = stack.pop_all()
        self._streams = [self._stream]
        self._finalizer = weakref.finalize(self, close_when_idle, self._context, self._streams, self._stack)
        self._together = Lanes(self._stream, self._stream, self._stream)
        self.inputs = tuple(_spec(tensor) for tensor in self._execution.inputs)
        self.outputs = tuple(_spec(tensor) for tensor in self._execution.outputs)

    def _run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        with self._lock:
            return self._started(feeds, self._together, slots=1).result()

    def run_async(self, feeds: dict[str, np.ndarray]) -> PendingRun:
        """Starts a run and returns immediately; the arrays may be changed after the call.

        At most two runs are in flight, so that the inputs of the second are copied while the first computes; a third
        call waits for the first run.

        Raises:
            RunError: the engine was not built for these shapes, the run failed, or the engine is closed.
        """
        self._require_open()
        with self._lock:
            return self._started(feeds, self._lanes_apart(), slots=SLOTS)

    def time_run(self, feeds: dict[str, np.ndarray]) -> RunTimes:
        """Runs once and returns the durations of its parts; the first run of each shape is slow and captures the graph.

        Raises:
            RunError: see `run`.
        """
        return self._run_and_times(feeds)[1]

    def layer_timer(self) -> TensorRtLayerTimer:
        """See `TimesLayers.layer_timer`; the weights are shared with this engine."""
        self._require_open()
        library, plan, cuda, index = self._loaded
        return TensorRtLayerTimer(TensorRtEngine(library, plan, cuda, name=self._name, index=index))

    def profile(self, report: Callable[[str, float], None]) -> None:
        """See `ProfiledEngine.profile`."""
        self._require_open()
        with self._lock, self._context.current():
            self.use_graphs = False
            self._execution.profile(layer_profiler(self._loaded[0], report))

    def run_and_time_copies(self, feeds: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], float, float]:
        """See `ProfiledEngine.run_and_time_copies`."""
        outputs, times = self._run_and_times(feeds)
        return outputs, times.copy_in_ms, times.copy_out_ms

    def describe_layers(self) -> dict[str, TimedLayer]:
        """See `ProfiledEngine.describe_layers`."""
        self._require_open()
        with self._lock, self._context.current():
            return timed_layers_from_inspector(self._execution.layer_information(self._loaded[0]))

    def _run_and_times(self, feeds: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], RunTimes]:
        self._require_open()
        with self._lock, ExitStack() as stack:
            events = [stack.enter_context(Event(self._context, timing=True)) for _ in range(4)]
            clock: list[float] = []

            def mark() -> None:
                events[len(clock)].record(self._stream)
                clock.append(time.perf_counter())

            start = time.perf_counter()
            outputs = self._started(feeds, self._together, slots=1, mark=mark).result()
            end = time.perf_counter()
            with self._context.current():
                events[-1].synchronize()
                spans = [before.elapsed_ms(after) for before, after in itertools.pairwise(events)]
        times = RunTimes(
            copy_in_ms=spans[0],
            gpu_ms=spans[1],
            copy_out_ms=spans[2],
            enqueue_ms=(clock[2] - clock[1]) * 1e3,
            end_to_end_ms=(end - start) * 1e3,
        )
        return outputs, times

    @property
    def context(self) -> Context:
        """See `RunsOnDevice`."""
        return self._context

    @property
    def stream(self) -> Stream:
        """See `RunsOnDevice`."""
        return self._stream

    def output_shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """See `RunsOnDevice.output_shapes`."""
        self._require_open()
        with self._lock:
            if self._execution.decides_by_values:
                raise RunError("the shapes of its outputs depend on the values of its inputs")
            self._prepare(self._in_order(shapes))
            names = [tensor.name for tensor in self._execution.outputs]
            return dict(zip(names, self._execution.output_shapes(), strict=True))

    def enqueue(self, shapes: Mapping[str, tuple[int, ...]], addresses: Mapping[str, int]) -> None:
        """See `RunsOnDevice.enqueue`."""
        self._require_open()
        with self._lock:
            self._prepare(self._in_order(shapes))
            self._execution.enqueue(addresses)

    def capture_obstacle(self) -> str:
        """See `RunsOnDevice.capture_obstacle`."""
        return self._execution.obstacle()

    def _in_order(self, shapes: Mapping[str, tuple[int, ...]]) -> Shapes:
        return tuple(shapes[tensor.name] for tensor in self._execution.inputs)

    def _release(self) -> None:
        """Waits for the runs in flight, whose outputs stay available, and frees all resources."""
        with self._lock:
            for slot in list(self._pending):
                self._collect(slot)
            self._slots.clear()
            self._finalizer()

    def _started(
        self, feeds: dict[str, np.ndarray], lanes: Lanes, *, slots: int, mark: Callable[[], None] = lambda: None
    ) -> PendingRun:
        # Raises an error if another thread has closed the engine since the check.
        with self._context.current():
            slot = self._free_slot(slots)
            try:
                output_shapes = self._submit(slot, feeds, lanes, mark)
            except BaseException:
                self._settle()
                raise
        pending = PendingRun(self, slot, output_shapes)
        self._pending[slot] = pending
        return pending

    def _submit(
        self, slot: Slot, feeds: dict[str, np.ndarray], lanes: Lanes, mark: Callable[[], None]
    ) -> list[tuple[int, ...]]:
        """Enqueues a run, and captures it if it is the first of its shapes; returns the output shapes."""
        shapes = tuple(feeds[tensor.name].shape for tensor in self._execution.inputs)
        recording = slot.recording(shapes) if self.use_graphs else None
        if recording is None:
            self._prepare(shapes)
        mark()
        slot.send(feeds, lanes)
        mark()
        if recording is None:
            self._execution.enqueue(slot.addresses())
            output_shapes = self._execution.output_shapes()
        else:
            recording.graph.launch(lanes.compute)
            output_shapes = recording.output_shapes
        mark()
        slot.fetch(output_shapes, lanes)
        mark()
        if recording is None:
            self._after_first(slot, shapes, output_shapes)
        return output_shapes

    def _prepare(self, shapes: Shapes) -> None:
        if self._execution.prepare(shapes):
            self.graphs_dropped += 1
            for slot in self._slots:
                slot.drop_recordings()

    def _after_first(self, slot: Slot, shapes: Shapes, output_shapes: list[tuple[int, ...]]) -> None:
        """Captures a run in a CUDA graph; TensorRT needs one plain run of new shapes before."""
        if self.use_graphs:
            graph = self._captured(slot)
            if graph is not None:
                slot.keep(shapes, Recording(graph, output_shapes))
        if shapes not in self._known_shapes:
            self._known_shapes.add(shapes)
            self._keep_compiled()

    def _captured(self, slot: Slot) -> Graph | None:
        try:
            reason = self._execution.obstacle()
            if not reason:
                return Graph(self._context, self._stream, lambda: self._execution.enqueue(slot.addresses()))
        except RunError as e:
            reason = e.message
        self.use_graphs = False
        self._note(f"no CUDA graph, so every layer is launched by itself: {reason}")
        return None

    def _free_slot(self, slots: int) -> Slot:
        for slot in self._slots:
            if slot not in self._pending:
                return slot
        if len(self._slots) < slots:
            execution = self._execution
            new = Slot(self._context, execution.inputs, execution.outputs, shared=self._shared_memory)
            self._stack.callback(new.close)
            self._slots.append(new)
            return new
        oldest = next(iter(self._pending))
        self._collect(oldest)
        return oldest

    def _collect(self, slot: Slot) -> None:
        """Waits for the run in this slot, and stores its outputs or its error."""
        pending = self._pending.pop(slot)
        try:
            with self._context.current():
                slot.finished.synchronize()
            pending.outputs = slot.outputs(pending.output_shapes)
        except RunError as e:
            pending.error = e
            self._settle()

    def _settle(self) -> None:
        """Waits until no run is in flight, after a failure that is reported already."""
        settle(self._context, self._streams)

    def _lanes_apart(self) -> Lanes:
        """Returns separate streams for copies in each direction and computation; one stream if memory is shared."""
        if self._shared_memory:
            return self._together
        if self._apart is None:
            with ExitStack() as stack:
                copy_in, copy_out = (stack.enter_context(Stream(self._context)) for _ in range(2))
                self._stack.callback(stack.pop_all().close)
            self._streams.extend((copy_in, copy_out))
            self._apart = Lanes(copy_in, self._stream, copy_out)
        return self._apart

    def _keep_compiled(self) -> None:
        if self._execution.cache is not None and (reason := self._execution.cache.save()):
            self._note(reason)

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


class PendingRun:
    """A run in flight."""

    def __init__(self, engine: TensorRtEngine, slot: Slot, output_shapes: list[tuple[int, ...]]) -> None:
        self.output_shapes = output_shapes
        self.outputs: dict[str, np.ndarray] | None = None
        self.error: RunError | None = None
        self._engine = engine
        self._slot = slot

    def done(self) -> bool:
        """Whether `result` returns without waiting."""
        with self._engine._lock:
            if self._engine._pending.get(self._slot) is not self:
                return True
            with self._engine._context.current():
                return self._slot.finished.done

    def result(self) -> dict[str, np.ndarray]:
        """Waits for the outputs and returns them by name.

        Raises:
            RunError: the run failed.
        """
        with self._engine._lock:
            if self._engine._pending.get(self._slot) is self:
                self._engine._collect(self._slot)
        if self.error is not None:
            raise self.error
        assert self.outputs is not None
        return self.outputs


def _spec(tensor: Tensor) -> TensorSpec:
    """Makes a tensor's specification; dynamic sizes get new names, since the plan does not keep those of the graph."""
    shape = tuple(f"{tensor.name}_{axis}" if size == -1 else size for axis, size in enumerate(tensor.shape))
    return TensorSpec(tensor.name, tensor.dtype.name, shape)
