"""Measures the time of each layer with ONNX Runtime's profiler, and reads its file.

The profiler writes a JSON file in Chrome's trace event format. A node is an event of category ``Node`` whose name ends
with ``_kernel_time``; a run ends with the event ``model_run`` of category ``Session``. Times are whole microseconds.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np

from edgekit.engine.layer_timer import LayerTimings, TimedLayer
from edgekit.errors import RunError
from edgekit.scratch import scratch_folder
from edgekit.text import json_value

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["OnnxRuntimeLayerTimer", "timings_from_events"]

KERNEL = "_kernel_time"
RUN = "model_run"

# Nodes with graphs of their own, whose nodes have events too.
CONTROL_FLOW = frozenset({"If", "Loop", "Scan"})

# What the layout optimizers append to the name of a node, or of the value that it computes.
RENAMED = re.compile(r"(_nchwc|_nhwc|_token_\d+)+$")

NAMES = {"float": "float32", "double": "float64"}
BYTES = {
    **dict.fromkeys(("int8", "uint8", "bool", "float8e4m3fn", "float8e5m2"), 1),
    **dict.fromkeys(("float16", "bfloat16", "int16", "uint16"), 2),
    **dict.fromkeys(("float", "int32", "uint32"), 4),
    **dict.fromkeys(("double", "int64", "uint64"), 8),
}
MAX_INPUTS = 32


class Event(msgspec.Struct, frozen=True):
    """An event of the profiler's file; times are in microseconds."""

    name: str
    cat: str = ""
    ts: int = 0
    dur: int = 0
    args: dict[str, Any] = {}


class Names(NamedTuple):
    """A node of the engine file: its name, and the names of the values that it reads and writes."""

    node: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]


class OnnxRuntimeLayerTimer:
    """A `LayerTimer`.

    Args:
        start: makes the session, given the prefix of the profiler's file.
        run: runs it.
        engine: the engine's file; its names are read if ``onnx_ir`` is installed.
    """

    def __init__(
        self,
        start: Callable[[str], Any],
        run: Callable[[Any, dict[str, np.ndarray]], dict[str, np.ndarray]],
        engine: Path,
    ) -> None:
        # The profiler writes its file while it runs.
        with ExitStack() as stack:
            folder = stack.enter_context(scratch_folder())
            self._session: Any = start(str(folder / "profile"))
            self._folder = stack.pop_all()
        self._run = run
        self._engine = engine

    def run(self, feeds: dict[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """See `LayerTimer.run`."""
        if self._session is None:
            raise RunError("the layer timer is closed")
        return self._run(self._session, feeds)

    def finish(self) -> LayerTimings:
        """See `LayerTimer.finish`."""
        if self._session is None:
            raise RunError("the layer timer is closed")
        session, self._session = self._session, None
        file = Path(session.end_profiling())
        try:
            events = json_value(file.read_bytes(), type=list[Event])
        except (OSError, msgspec.MsgspecError) as e:
            raise RunError(f"cannot read the profile that ONNX Runtime has written: {e}") from e
        return timings_from_events(events, _names(self._engine))

    def close(self) -> None:
        """See `LayerTimer.close`."""
        if self._session is not None:
            # A session that is freed while it profiles writes its file then, when the folder is gone.
            self._session.end_profiling()
            self._session = None
        self._folder.close()


def timings_from_events(events: Sequence[Event], names: Sequence[Names] = ()) -> LayerTimings:
    """Converts the profiler's events.

    Args:
        events: the events of the file, in its order.
        names: nodes of the engine file, by which layers get the names of the values that they read and write.

    Raises:
        RunError: no run is complete.
    """
    runs = list(_runs(events))
    if not runs:
        raise RunError("ONNX Runtime's profile: expected at least one complete run, got none")
    # Layers are identified by the node's index, since names may repeat. Each run executes the same nodes.
    first = {_key(event): event for event, _ in runs[0]}
    rows = [{_key(event): (event.dur / 1e3, start) for event, start in run} for run in runs]
    by_node = {node.node: node for node in names}
    by_value = {value: node for node in names for value in node.writes}
    return LayerTimings(
        layers=_with_readers([_layer(event, by_node, by_value) for event in first.values()]),
        times_ms=tuple(tuple(row.get(key, (0.0, 0.0))[0] for key in first) for row in rows),
        starts_ms=tuple(tuple(row.get(key, (0.0, 0.0))[1] for key in first) for row in rows),
        threads=tuple(_threads(event) for event in first.values()),
    )


def _runs(events: Sequence[Event]) -> Iterator[list[tuple[Event, float]]]:
    """Yields the layers of each run, with their starts in ms after that of the run."""
    nodes: list[Event] = []
    for event in events:
        if event.cat == "Node" and event.name.endswith(KERNEL):
            nodes.append(event)
        elif event.name == RUN:
            whole = [node for node in nodes if node.args.get("op_name") in CONTROL_FLOW]
            yield [
                (node, (node.ts - event.ts) / 1e3)
                for node in sorted(nodes, key=lambda node: node.ts)
                if not any(node is not outer and _inside(node, outer) for outer in whole)
            ]
            nodes = []


def _inside(node: Event, outer: Event) -> bool:
    return outer.ts <= node.ts and node.ts + node.dur <= outer.ts + outer.dur


def _key(event: Event) -> tuple[str, str]:
    return str(event.args.get("node_index", "")), event.name


def _layer(event: Event, by_node: Mapping[str, Names], by_value: Mapping[str, Names]) -> TimedLayer:
    name = event.name.removesuffix(KERNEL)
    original = RENAMED.sub("", name)
    known = by_node.get(name) or by_node.get(original) or by_value.get(original)
    inputs = _tensors(event.args.get("input_type_shape", []))
    outputs = _tensors(event.args.get("output_type_shape", []))
    operator = str(event.args.get("op_name", ""))
    read_bytes = int(event.args.get("activation_size", 0))
    activations = _activations(inputs, read_bytes)
    return TimedLayer(
        name=name,
        operator=operator,
        nodes=tuple(dict.fromkeys((name, original) if known is None else (known.node, *known.writes))),
        reads=tuple(RENAMED.sub("", value) for value in known.reads) if known else (),
        writes=tuple(RENAMED.sub("", value) for value in known.writes) if known else (),
        precision=_precision(operator, activations, outputs),
        inputs=tuple(shape for _, shape in activations),
        outputs=tuple(shape for _, shape in outputs),
        activation_bytes=read_bytes + int(event.args.get("output_size", 0)),
    )


def _with_readers(layers: Sequence[TimedLayer]) -> tuple[TimedLayer, ...]:
    readers: defaultdict[str, list[str]] = defaultdict(list)
    for layer in layers:
        for value in layer.reads:
            readers[value].append(layer.name)
    return tuple(
        msgspec.structs.replace(layer, readers=tuple(name for value in layer.writes for name in readers[value]))
        for layer in layers
    )


Tensor = tuple[str, tuple[int, ...]]


def _tensors(entries: Sequence[Mapping[str, Sequence[int]]]) -> list[Tensor]:
    return [(dtype, tuple(shape)) for entry in entries for dtype, shape in entry.items()]


def _activations(inputs: Sequence[Tensor], size_bytes: int) -> Sequence[Tensor]:
    """Returns the inputs that are not constants: those, first ones preferred, whose sizes add up to ``size_bytes``.

    The profile has shapes of all inputs, and the total size of those that are not constants.
    """
    if len(inputs) > MAX_INPUTS:
        return inputs
    reached: dict[int, tuple[int, ...]] = {0: ()}
    for index, (dtype, shape) in enumerate(inputs):
        size = int(np.prod(shape)) * BYTES.get(dtype, 0)
        for total, chosen in list(reached.items()):
            if total + size <= size_bytes:
                reached.setdefault(total + size, (*chosen, index))
    return [inputs[index] for index in reached[size_bytes]] if size_bytes in reached else inputs


def _precision(operator: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> str:
    """Returns ``int8`` for operators on 8-bit integers, whatever they output."""
    quantizes = operator in ("QuantizeLinear", "DequantizeLinear")
    first = next(iter(inputs), ("", ()))[0]
    if operator.startswith("DynamicQuantize") or (first in ("int8", "uint8") and not quantizes):
        return "int8"
    dtype = first if operator == "QuantizeLinear" else next(iter(outputs), ("", ()))[0]
    return NAMES.get(dtype, dtype)


def _threads(event: Event) -> tuple[str, ...]:
    scheduled = event.args.get("thread_scheduling_stats")
    if not isinstance(scheduled, dict):  # with one thread, it is an empty string
        return ()
    main = scheduled.get("main_thread", {}).get("thread_id")
    return (*([str(main)] if main else []), *map(str, scheduled.get("sub_threads", {})))


def _names(engine: Path) -> list[Names]:
    """Reads the nodes of the engine file; none without ``onnx_ir``, which boards do not have."""
    with suppress(ImportError):
        import onnx_ir as ir

        return [_names_of(node) for node in ir.load(engine).graph]
    return []


def _names_of(node: ir.Node) -> Names:
    return Names(
        node=node.name or "",
        reads=tuple(value.name or "" for value in node.inputs if value is not None and not value.is_initializer()),
        writes=tuple(value.name or "" for value in node.outputs),
    )
