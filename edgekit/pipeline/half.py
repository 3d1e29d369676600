"""Half precision: types the graph, and keeps the layers in float32 at which its values are lost on real inputs.

Ranges show large values. What they do not show is a value that is rounded to zero before a logarithm or a division, or
an overflow within the inputs that were not observed alone. So the graph is computed as a GPU rounds it, and where an
output is lost, the first layer that loses its values and what it reads become float32, one step back at a time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from edgekit.arguments import argument
from edgekit.device.cpu import cpu
from edgekit.graph.evaluator import Evaluator
from edgekit.pipeline.calibrate import Calibration
from edgekit.pipeline.inputs import Feed
from edgekit.pipeline.loaded_model import LoadedModel
from edgekit.pipeline.selected_rows import noise_of_same_rows, with_noise_of_same_rows
from edgekit.pipeline.values import graph_values
from edgekit.progress import Progress
from edgekit.quantize.compare import LIMITS, noise_of_outputs, worst_db
from edgekit.quantize.half.cast import HalfGraph, half_from_graph
from edgekit.quantize.half.check import rounding_graph
from edgekit.quantize.half.types import HALF, is_float
from edgekit.quantize.layer_noise import Values, first_collapse, layer_noise
from edgekit.quantize.output_parts import forms_of_outputs
from edgekit.quantize.plan import selects
from edgekit.specs import EXACT_DB, Precision

__all__ = ["lost_in_rest", "safe_half_graph"]

INPUTS = 4
"""Number of inputs that the graphs are compared on."""
INPUTS_BESIDE_INTEGERS = 2
"""The same for what is not on integers in an INT8 graph: its noise is that of integers."""
MAX_STEPS = 24
"""How often something more becomes float32 before the search ends."""
LEAST_LOST_DB = 6.0
"""A layer that loses less is one of many whose rounding adds up, and float32 for it alone gains nothing."""
NAMED_LAYERS = 4


class _Found(NamedTuple):
    """What half precision loses of a model.

    Attributes:
        half: the graph in half precision, with ``lost`` in float32.
        lost: names of the values that half precision cannot hold; empty if that does not help.
    """

    half: HalfGraph
    lost: Collection[str]


def safe_half_graph(
    model: LoadedModel, calibration: Calibration, precision: Precision, progress: Progress, *, io: bool
) -> HalfGraph:
    """Casts the model's graph to half precision, with what would lose an output in float32; notes these layers.

    If that does not help, the graph is the plain one, which the check refuses.

    Args:
        model: its graph is not modified.
        calibration: ranges, and inputs to compare on; without inputs, nothing is compared.
        precision: FP16 or BF16.
        progress: receives a note.
        io: cast the inputs and outputs of the graph too.

    Raises:
        GraphError: the graph cannot be typed in this precision.
        UsageError: a pattern of ``keep_float`` matches no node.
    """
    kept = calibration.policy.keep_float
    return _found(model, calibration, precision, calibration.feeds[:INPUTS], progress, keep_float=kept, io=io).half


def lost_in_rest(
    model: LoadedModel, calibration: Calibration, precision: Precision, progress: Progress, *, io: bool
) -> Collection[str]:
    """Finds what half precision loses in the layers of an INT8 graph that are not on integers; notes these layers.

    It is found in the float graph: beside the noise of integers it would hardly be seen.

    Args:
        model: its graph is not modified.
        calibration: ranges, and inputs to compare on; without inputs, nothing is compared.
        precision: FP16 or BF16.
        progress: receives a note.
        io: inputs and outputs of the graph are cast too.

    Returns:
        Names of the values that have to stay in float32; empty if that does not help.
    """
    feeds = calibration.feeds[:INPUTS_BESIDE_INTEGERS]
    return _found(model, calibration, precision, feeds, progress, keep_float=(), io=io).lost


def _found(
    model: LoadedModel,
    calibration: Calibration,
    precision: Precision,
    feeds: Sequence[Feed],
    progress: Progress,
    *,
    keep_float: Sequence[str],
    io: bool,
) -> _Found:
    assert calibration.table is not None
    ranges = calibration.table.ranges
    plain = half_from_graph(model.graph, precision, ranges, keep_float=keep_float, io=io)
    feeds = [_in_half(feed, plain) if io else feed for feed in feeds]
    limit_db = LIMITS[precision].refused_db
    half, lost = plain, dict[str, None]()
    exact = _outputs(model.graph, feeds)
    before_db = found_db = _db_of_outputs(model.graph, plain.graph, feeds, exact)
    for _ in range(MAX_STEPS):
        if found_db >= limit_db:
            break
        more = _next_lost(model.graph, half, feeds, limit_db, lost)
        if not more:
            break
        lost |= dict.fromkeys(more)
        half = half_from_graph(model.graph, precision, ranges, keep_float=keep_float, io=io, lost=lost)
        found_db = _db_of_outputs(model.graph, half.graph, feeds, exact)
    if found_db < limit_db:
        return _Found(plain, ())
    if lost:
        progress.note(_note(half, plain, precision, before_db))
    return _Found(half, lost)


def _in_half(feed: Feed, half: HalfGraph) -> Feed:
    """Rounds inputs as the engine gets them."""
    types = {value.name: value.dtype.numpy() for value in half.graph.graph.inputs if value.dtype is not None}
    return {name: array.astype(types.get(name, array.dtype)).astype(array.dtype) for name, array in feed.items()}


def _outputs(graph: ir.Model, feeds: Sequence[Feed]) -> list[dict[str, np.ndarray]]:
    evaluator = Evaluator(graph, threads=cpu().compute_threads) if feeds else None
    return [evaluator.run(dict(feed)) for feed in feeds] if evaluator is not None else []


def _db_of_outputs(
    graph: ir.Model, half: ir.Model, feeds: Sequence[Feed], exact: Sequence[Mapping[str, np.ndarray]]
) -> float:
    """Returns the signal-to-noise ratio of the worst part of an output; infinities and NaN count as -200 dB."""
    if not feeds:
        return EXACT_DB
    forms = forms_of_outputs(graph)
    noise = noise_of_outputs(exact, _outputs(rounding_graph(half), feeds), forms)
    return worst_db(with_noise_of_same_rows(noise, noise_of_same_rows(graph, half, feeds, forms)))


def _next_lost(
    graph: ir.Model, half: HalfGraph, feeds: Sequence[Feed], limit_db: float, lost: dict[str, None]
) -> list[str]:
    """Returns what the first layer that collapses writes, if half precision cannot hold it, or else what it reads.

    If that is kept already, it is what the layers before read and write.
    """
    wide = rounding_graph(half.graph)
    exact, rounded = graph_values(graph, feeds), graph_values(wide, feeds)
    found = first_collapse(layer_noise(graph.graph, wide.graph, exact, rounded, until_db=limit_db), limit_db)
    nodes = {node.name: node for node in graph.graph}
    if found is None or found.lost_db < LEAST_LOST_DB or found.node not in nodes:
        return []
    written = nodes[found.node].outputs
    if found.value not in lost and not _holds(half.precision, found.value, exact, limit_db):
        return [str(value.name) for value in written if is_float(value)]
    kept = lost.keys() | {str(value.name) for value in written}
    level = [nodes[found.node]]
    seen = set(level)
    while level:
        new = {str(value.name): None for node in level for value in _values(node) if str(value.name) not in kept}
        if new:
            return list(new)
        before = [value.producer() for node in level for value in node.inputs if is_float(value) and value is not None]
        level = list(dict.fromkeys(node for node in before if node is not None and node not in seen))
        seen.update(level)
    return []


def _holds(precision: Precision, name: str, values: Values, limit_db: float) -> bool:
    """Whether a value keeps its signal-to-noise ratio if it is only stored in half precision."""
    exact = [{name: found[name]} for found in values([name])]
    with np.errstate(over="ignore"):
        stored = [{name: each[name].astype(HALF[precision].numpy).astype(np.float32)} for each in exact]
    return worst_db(noise_of_outputs(exact, stored)) >= limit_db


def _values(node: ir.Node) -> Iterator[ir.Value]:
    """Yields the float values that a node reads and writes, and those that these were selected from."""
    for value in (*node.inputs, *node.outputs):
        while value is not None and is_float(value) and value.const_value is None:
            yield value
            producer = value.producer()
            value = producer.inputs[0] if producer is not None and selects(producer) else None


def _note(half: HalfGraph, plain: HalfGraph, precision: Precision, before_db: float) -> str:
    names = [name for name in half.kept if name not in plain.kept]
    more = f" and {len(names) - NAMED_LAYERS} more" if len(names) > NAMED_LAYERS else ""
    was = "infinities or NaN" if before_db <= -EXACT_DB else f"{before_db:.1f} dB"
    return (
        f"kept in FP32, since {str(precision).upper()} loses an output there ({was}): "
        f"{', '.join(names[:NAMED_LAYERS])}{more}; {argument('keep_float', like='PATTERN')} keeps others"
    )
