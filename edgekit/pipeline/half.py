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
from edgekit.quantize.selections import selects
from edgekit.specs import EXACT_DB, Precision

__all__ = ["lost_in_rest", "safe_half_graph"]

INPUTS = 4
"""Number of inputs that the graphs are compared on."""
INPUTS_BESIDE_INTEGERS = 2
"""The same for what is not on integers in an INT8 graph: its noise is that of integers."""
MAX_STEPS = 24
"""How often something more becomes float32 before the search ends."""
ENOUGH_BESIDE_INTEGERS_DB = 40.0
"""What half precision should keep of the outputs beside integers, whose noise comes on top. basic_pitch keeps 31 dB
where the transform before its logarithm is FP16, and 42 dB where that is FP32."""
MORE_STEPS = 6
"""How often more becomes float32 for it, each time twice as many layers one behind the other."""
LEAST_GAIN_DB = 3.0
"""What that must gain."""
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
    search = _Search(model, calibration, precision, calibration.feeds[:INPUTS], keep_float=kept, io=io)
    return _found(search, LIMITS[precision].refused_db, 0, progress).half


def lost_in_rest(
    model: LoadedModel, calibration: Calibration, precision: Precision, percent: int, progress: Progress, *, io: bool
) -> Collection[str]:
    """Finds what half precision loses in the layers of an INT8 graph that are not on integers; notes these layers.

    It is found in the float graph: beside the noise of integers it would hardly be seen.

    Args:
        model: its graph is not modified.
        calibration: ranges, and inputs to compare on; without inputs, nothing is compared.
        precision: FP16 or BF16.
        percent: how much of the model's work may become float32 so that the outputs keep more than they have to.
        progress: receives a note.
        io: inputs and outputs of the graph are cast too.

    Returns:
        Names of the values that have to stay in float32; empty if that does not help.
    """
    search = _Search(model, calibration, precision, calibration.feeds[:INPUTS_BESIDE_INTEGERS], keep_float=(), io=io)
    return _found(search, ENOUGH_BESIDE_INTEGERS_DB, percent, progress).lost


class _Kept(NamedTuple):
    """What a graph in half precision keeps: the signal-to-noise ratio of the worst output, or part of one.

    Attributes:
        judged: as the check of an engine judges: probabilities by their logits.
        plain: of the outputs as they are, too: logits show small probabilities, and hide an error of large ones.
    """

    judged: float
    plain: float


class _Search:
    """Casts a graph to half precision with other values in float32, and compares what is left of the outputs."""

    def __init__(
        self,
        model: LoadedModel,
        calibration: Calibration,
        precision: Precision,
        feeds: Sequence[Feed],
        *,
        keep_float: Sequence[str],
        io: bool,
    ) -> None:
        assert calibration.table is not None
        self.model, self.precision = model, precision
        self._ranges, self._keep_float, self._io = calibration.table.ranges, keep_float, io
        self.plain = self.half(())
        self.feeds = [_in_half(feed, self.plain) if io else feed for feed in feeds]
        self._exact = _outputs(model.graph, self.feeds)

    def half(self, lost: Collection[str]) -> HalfGraph:
        return half_from_graph(
            self.model.graph, self.precision, self._ranges, keep_float=self._keep_float, io=self._io, lost=lost
        )

    def kept(self, half: HalfGraph) -> _Kept:
        """Compares the outputs; infinities and NaN count as -200 dB, and no inputs as equal outputs."""
        if not self.feeds:
            return _Kept(EXACT_DB, EXACT_DB)
        forms = forms_of_outputs(self.model.graph)
        got = _outputs(rounding_graph(half.graph), self.feeds)
        same = noise_of_same_rows(self.model.graph, half.graph, self.feeds, forms)
        judged = worst_db(with_noise_of_same_rows(noise_of_outputs(self._exact, got, forms), same))
        whole = [name for name in self._exact[0] if name not in forms or not forms[name].selected]
        exact, rounded = ([{name: each[name] for name in whole} for each in some] for some in (self._exact, got))
        return _Kept(judged, min(judged, worst_db(noise_of_outputs(exact, rounded))))

    def work(self, half: HalfGraph) -> int:
        """Returns the multiply-accumulates that are in float32, beyond those of the plain graph."""
        more = half.kept.keys() - self.plain.kept.keys()
        return sum(layer.macs for layer in self.model.stats.layers if layer.name in more)


def _found(search: _Search, enough_db: float, percent: int, progress: Progress) -> _Found:
    """Repairs what half precision loses, and then goes on until the outputs as they are keep enough."""
    limit_db = LIMITS[search.precision].refused_db
    half, lost = search.plain, dict[str, None]()
    before = kept = search.kept(half)
    for _ in range(MAX_STEPS):
        if kept.judged >= limit_db:
            break
        more = _next_lost(search, half, limit_db, lost)
        if not more:
            break
        lost |= dict.fromkeys(more)
        half = search.half(lost)
        kept = search.kept(half)
    if kept.judged < limit_db:
        return _Found(search.plain, ())
    found = _clearer(search, _Found(half, lost), kept, enough_db, percent)
    if found.lost:
        progress.note(_note(found.half, search.plain, before))
    return found


def _clearer(search: _Search, found: _Found, kept: _Kept, enough_db: float, percent: int) -> _Found:
    """Keeps more in float32 until the outputs have enough, if that gains much for little work."""
    room = search.model.stats.macs * percent / 100
    half, lost = found.half, dict.fromkeys(found.lost)
    best, best_db = found, kept.plain + LEAST_GAIN_DB
    for step in range(MORE_STEPS):
        if best_db >= enough_db + LEAST_GAIN_DB:
            break
        more = _next_lost(search, half, enough_db, lost, levels=2**step)
        if not more:
            break
        lost |= dict.fromkeys(more)
        half = search.half(lost)
        if search.work(half) > room:
            break
        found_db = search.kept(half).plain
        if found_db >= best_db:
            best, best_db = _Found(half, dict(lost)), found_db + LEAST_GAIN_DB
    return best


def _in_half(feed: Feed, half: HalfGraph) -> Feed:
    """Rounds inputs as the engine gets them."""
    types = {value.name: value.dtype.numpy() for value in half.graph.graph.inputs if value.dtype is not None}
    return {name: array.astype(types.get(name, array.dtype)).astype(array.dtype) for name, array in feed.items()}


def _outputs(graph: ir.Model, feeds: Sequence[Feed]) -> list[dict[str, np.ndarray]]:
    evaluator = Evaluator(graph, threads=cpu().compute_threads) if feeds else None
    return [evaluator.run(dict(feed)) for feed in feeds] if evaluator is not None else []


def _next_lost(
    search: _Search, half: HalfGraph, limit_db: float, lost: Mapping[str, None], *, levels: int = 1
) -> list[str]:
    """Returns what the first layer that collapses writes, if half precision cannot hold it, or else what it reads.

    If that is kept already, it is what the layers before read and write, so many of them one behind the other as
    ``levels`` says.
    """
    graph, wide = search.model.graph, rounding_graph(half.graph)
    exact, rounded = graph_values(graph, search.feeds), graph_values(wide, search.feeds)
    found = first_collapse(layer_noise(graph.graph, wide.graph, exact, rounded, until_db=limit_db), limit_db)
    nodes = {node.name: node for node in graph.graph}
    if found is None or found.lost_db < LEAST_LOST_DB or found.node not in nodes:
        return []
    written = nodes[found.node].outputs
    if found.value not in lost and not _holds(half.precision, found.value, exact, limit_db):
        return [str(value.name) for value in written if is_float(value)]
    kept = lost.keys() | {str(value.name) for value in written}
    return _read_before(nodes[found.node], kept, levels)


def _read_before(node: ir.Node, kept: Collection[str], levels: int) -> list[str]:
    """Returns the float values before a node that are not kept, of the first ``levels`` steps back that have any."""
    level, seen, found = [node], {node}, dict[str, None]()
    while level and levels:
        new = [str(value.name) for each in level for value in _values(each) if str(value.name) not in kept]
        levels -= any(name not in found for name in new)
        found |= dict.fromkeys(new)
        before = [value.producer() for each in level for value in each.inputs if is_float(value) and value is not None]
        level = list(dict.fromkeys(each for each in before if each is not None and each not in seen))
        seen.update(level)
    return list(found)


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


def _note(half: HalfGraph, plain: HalfGraph, before: _Kept) -> str:
    names = [name for name in half.kept if name not in plain.kept]
    more = f" and {len(names) - NAMED_LAYERS} more" if len(names) > NAMED_LAYERS else ""
    was = "infinities or NaN" if before.plain <= -EXACT_DB else f"{before.plain:.1f} dB"
    return (
        f"kept in FP32, since {str(half.precision).upper()} loses an output there ({was}): "
        f"{', '.join(names[:NAMED_LAYERS])}{more}; {argument('keep_float', like='PATTERN')} keeps others"
    )
