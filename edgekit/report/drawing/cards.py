"""Writes the text of a box in a drawn graph: name, operators, shape, figures, and colours by precision or operator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from edgekit.measure.inspection import LayerRow
from edgekit.measure.layer_times import LayerTimes
from edgekit.quantize.compare import LayerNoise
from edgekit.report.drawing.contents import Drawing
from edgekit.report.drawing.tree import Block
from edgekit.report.wording import decibels, milliseconds, short_figure

__all__ = ["Card", "Painter"]

PRECISIONS = {
    "int8": ("int8", "INT8"), "uint8": ("int8", "INT8"), "float16": ("half", "FP16"), "bfloat16": ("half", "BF16"),
    "float32": ("float", "FP32"), "float64": ("float", "FP64"),
}  # fmt: skip
KINDS = {
    "conv": ("convolution", "Conv ConvInteger ConvTranspose QLinearConv"),
    "matmul": (
        "matrix product",
        "Attention Einsum GRU Gemm LSTM MatMul MatMulInteger MatMulIntegerToFloat QLinearMatMul RNN",
    ),
    "pool": (
        "pool or resize",
        "AveragePool GlobalAveragePool GlobalMaxPool LpPool MaxPool ReduceMax ReduceMean Resize Upsample",
    ),
    "join": ("sum, product or join", "Add Concat Div Mul Sub Sum"),
    "norm": ("normalization", "BatchNormalization GroupNormalization InstanceNormalization LRN LayerNormalization "
             "LpNormalization LogSoftmax RMSNormalization Softmax"),
}  # fmt: skip
KIND_OF = {operator: kind for kind, (_, operators) in KINDS.items() for operator in operators.split()}
OTHER = ("other", "other")
HEAT = (
    (0.10, "heat4", "10 % of the time or more"),
    (0.05, "heat3", "5 %"),
    (0.02, "heat2", "2 %"),
    (0.005, "heat1", "0.5 %"),
)
COLD = ("other", "less")
NOISE = (
    (0.0, "heat4", "below 0 dB"),
    (10.0, "heat3", "below 10 dB"),
    (20.0, "heat2", "below 20 dB"),
    (30.0, "heat1", "below 30 dB"),
)
QUIET = ("other", "less noise")


@dataclass(frozen=True)
class Card:
    """The text of a box.

    Attributes:
        title: name of the block.
        copies: number of repetitions, such as ``×8``; empty for one.
        operators: its operators.
        shape: shape of its output.
        figures: parameters and multiply-accumulates; empty if it has none.
        tip: tooltip with the full name, all operators and exact figures.
        colours: classes of the style sheet and their shares, which add up to 1.
        time: time and share of the total, or signal-to-noise ratio, if they were measured.
    """

    title: str
    copies: str
    operators: str
    shape: str
    figures: str
    tip: str
    colours: tuple[tuple[str, float], ...]
    time: str = ""


class Painter:
    """Makes the cards of one drawing.

    Colours show noise or times if there are any, precisions in an engine, else operators.
    """

    def __init__(
        self, drawing: Drawing, times: LayerTimes | None = None, noise: Sequence[LayerNoise] | None = None
    ) -> None:
        self._noise_db = {each.node: each.sqnr_db for each in noise or ()}
        self._drawing = drawing
        self._times_ms = _times_ms(drawing.found.layers, times) if times else {}
        self._total_ms = times.sum_ms if times else 0.0
        layers = drawing.found.layers
        quantized = any(PRECISIONS.get(layer.precision, OTHER)[0] == "int8" and layer.macs for layer in layers)
        self._by_precision = quantized or drawing.found.manifest is not None

    def card(self, block: Block) -> Card:
        """Returns the card of a block, folded or not."""
        rows = [self._drawing.found.layers[row] for row in block.rows]
        shape = "×".join(map(str, self._drawing.shape(block)))
        parameters, macs = (sum(getattr(row, name) or 0 for row in rows) for name in ("parameters", "macs"))
        figures = [f"{short_figure(value)} {unit}" for value, unit in ((parameters, "params"), (macs, "MACs")) if value]
        operators = _operators(rows) if block.parts else " + ".join(map(_operator, rows))
        tip = [block.path, operators, shape]
        tip += [f"{parameters:,} parameters, {macs:,} MACs"] if figures else []
        tip += [", ".join(f"{name} {share:.0%}" for name, share in self._shares(rows).items())]
        time_ms = sum(self._times_ms.get(row, 0.0) for row in block.rows)
        share = time_ms / self._total_ms if self._total_ms else 0.0
        time = f"{milliseconds(time_ms)} ms, {100 * share:.1f} %" if time_ms else ""
        colours = tuple((self._class(name), share) for name, share in self._shares(rows).items())
        if self._times_ms:
            colours = ((next((colour for least, colour, _ in HEAT if share >= least), COLD[0]), 1.0),)
            tip += [time or "no time of its own"]
        ratios = [self._noise_db[row.name] for row in rows if row.name in self._noise_db]
        if self._noise_db:
            colours = ((next((name for most, name, _ in NOISE if ratios and min(ratios) < most), QUIET[0]), 1.0),)
            time = decibels(min(ratios)) if ratios else ""
            tip += [f"signal to noise: {time}"] if time else []
        return Card(
            title=block.label,
            copies=f"×{block.copies}" if block.copies > 1 else "",
            operators=operators,
            shape=shape,
            figures=" · ".join(figures),
            tip="\n".join(filter(None, tip)),
            colours=colours,
            time=time,
        )

    def legend(self) -> list[tuple[str, str]]:
        """Returns the classes of the style sheet that the drawing uses, and their names."""
        if self._noise_db:
            return [*((colour, words) for _, colour, words in NOISE), QUIET]
        if self._times_ms:
            return [*((colour, words) for _, colour, words in HEAT), COLD]
        names = self._shares(self._drawing.found.layers)
        layers = [self._name(layer) for layer in self._drawing.found.layers]
        ordered = [name for name in (*self._names(), OTHER[1]) if name in names or name in layers]
        return [(self._class(name), name) for name in dict.fromkeys(ordered)]

    def _names(self) -> list[str]:
        pairs = PRECISIONS.values() if self._by_precision else ((kind, name) for kind, (name, _) in KINDS.items())
        return [name for _, name in pairs]

    def _name(self, layer: LayerRow) -> str:
        if self._by_precision:
            return PRECISIONS.get(layer.precision, OTHER)[1]
        kind = KIND_OF.get(layer.operator)
        return KINDS[kind][0] if kind else OTHER[1]

    def _class(self, name: str) -> str:
        pairs = list(PRECISIONS.values()) + [(kind, words) for kind, (words, _) in KINDS.items()]
        return next((kind for kind, words in pairs if words == name), OTHER[0])

    def _shares(self, rows: Sequence[LayerRow]) -> dict[str, float]:
        """Returns the share of multiply-accumulates by colour; without any, the colour of the first layer."""
        weights: Counter[str] = Counter()
        for row in rows:
            weights[self._name(row)] += row.macs or 0
        total = sum(weights.values())
        if not total:
            return {self._name(rows[0]): 1.0}
        return {name: weight / total for name, weight in weights.most_common() if weight}


def _times_ms(rows: Sequence[LayerRow], times: LayerTimes) -> dict[int, float]:
    """Returns the time of each row; that of a fused layer belongs to its row with the most multiply-accumulates."""
    index = {row.name: place for place, row in enumerate(rows)}
    found: dict[int, float] = {}
    for layer in times.layers:
        own = [index[node] for node in layer.nodes if node in index]
        if own:
            largest = max(own, key=lambda place: rows[place].macs or 0)
            found[largest] = found.get(largest, 0.0) + layer.median_ms
    return found


def _operator(layer: LayerRow) -> str:
    """Formats an operator with kernel and strides: ``Conv 3×3 /2``."""
    words = [layer.operator]
    if layer.kernel:
        words.append("×".join(map(str, layer.kernel)))
    if layer.strides:
        same = len(set(layer.strides)) == 1
        words.append(f"/{layer.strides[0]}" if same else f"/{'×'.join(map(str, layer.strides))}")
    return " ".join(words)


def _operators(rows: Sequence[LayerRow]) -> str:
    """Formats the operators of a block, the most frequent first and data movement last: ``16 Conv, 8 Add``."""
    counts = Counter(row.operator for row in rows)
    moves = {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Cast", "Slice", "Split", "Expand"}
    ordered = sorted(counts.items(), key=lambda item: (item[0] in moves, -item[1]))
    return ", ".join(f"{count} {name}" if count > 1 else name for name, count in ordered)
