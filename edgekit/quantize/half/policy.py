"""Which nodes of a graph would lose too much in half precision, by the ranges of their numbers and by their kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from edgekit.graph.operators import PRODUCTS
from edgekit.quantize.half.types import HalfPlaces, HalfType, half_places, is_float
from edgekit.quantize.plan import matching, selects

__all__ = ["PrecisionPolicy", "lost_in_half"]

Range = tuple[float, float]

SUMS = "it adds up many numbers"
SQUARES = "it adds up squares"
KINDS = {
    "Cos": "it takes an angle modulo a turn",
    "CumSum": SUMS,
    "Exp": "it makes large errors of small ones",
    "GroupNormalization": SQUARES,
    "InstanceNormalization": SQUARES,
    "LayerNormalization": SQUARES,
    "LpNormalization": SQUARES,
    "MeanVarianceNormalization": SQUARES,
    "Pow": "it squares",
    "RMSNormalization": SQUARES,
    "Range": "it counts",
    "Reciprocal": "it makes large numbers of small ones",
    "ReduceL1": SUMS,
    "ReduceL2": SQUARES,
    "ReduceLogSum": SUMS,
    "ReduceLogSumExp": SUMS,
    "ReduceMean": SUMS,
    "ReduceProd": "it multiplies many numbers",
    "ReduceSum": SUMS,
    "ReduceSumSquare": SQUARES,
    "Sin": "it takes an angle modulo a turn",
    "Sqrt": "it reads squares",
    "Sum": SUMS,
}
"""Operators that stay in float32 whatever their ranges are: what they hold on the way, no calibration sees."""

EXPONENTIALS = frozenset({"Exp", "LogSoftmax", "Softmax"})

HEADROOM = 4.0
"""How many times as large as in calibration numbers may become."""

MOST_LOST = 4.0
"""Of the half type's ``step``, the part of constants that rounding may take; where digits are missing it takes more."""

MOST_OF_EXPONENT = 2.0**-5
"""How far rounding may move what an exponential reads, and so the part by which what it gives may be off."""

INTEGERS = frozenset(t for t in ir.DataType if t.is_integer())


class PrecisionPolicy:
    """The nodes that stay in float32, each with the reason, and where the others may be half.

    Attributes:
        why: reason by node, in no order.
        places: by node of the main graph that is no island.
    """

    def __init__(
        self, graph: ir.Model, half: HalfType, ranges: Mapping[str, Range], keep_float: Sequence[str], *, io: bool
    ) -> None:
        self.why: dict[ir.Node, str] = {}
        self.places: dict[ir.Node, HalfPlaces] = {}
        self._half, self._ranges, self._io = half, ranges, io
        self._nodes = [node for node in graph.graph if any(is_float(v) for v in (*node.inputs, *node.outputs))]
        opset = graph.opset_imports.get("", 1)
        kept = matching(list(graph.graph), keep_float)
        for node in self._nodes:
            places = half_places(node, opset, half)
            if isinstance(places, HalfPlaces):
                self.places[node] = places
            reason = kept.get(node) or (places if isinstance(places, str) else self._reason(node))
            if reason:
                self.why[node] = reason
        for node in self._nodes:
            self._keep_what_leads_to(node)
        while self._fill_gaps():
            pass

    def _reason(self, node: ir.Node) -> str | None:
        """Why ``node`` stays in float32, seen by itself."""
        if node.op_type in KINDS:
            return KINDS[node.op_type]
        for value in (*node.inputs, *node.outputs):
            if is_float(value) and value is not None and not self.places[node].of_any_type:
                reason = self._of_range(value) if value.const_value is None else self._of_constant(node, value)
                if reason:
                    return reason
        return None

    def _of_range(self, value: ir.Value) -> str | None:
        measured = self._range(value)
        if measured is None:
            return None
        size = max(-measured[0], measured[1])
        if size * HEADROOM > self._half.largest:
            return f"'{value.name}' reaches {size:.2g}"
        if 0 < size < self._half.least:
            return f"'{value.name}' reaches no more than {size:.2g}"
        return None

    def _of_constant(self, node: ir.Node, value: ir.Value) -> str | None:
        index = node.inputs.index(value)
        array = _finite(value)
        size = float(np.abs(array).max(initial=0.0))
        if size > self._half.largest:
            return f"its constant '{value.name}' reaches {size:.2g}"
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            return self._of_scale(value, array, size)
        if node.op_type in PRODUCTS and index == 2:
            return None  # a bias of small numbers counts for little
        if 0 < size < self._half.least or lost_in_half(value, self._half) > MOST_LOST * self._half.step:
            return f"its constant '{value.name}' reaches no more than {size:.2g}"
        return None

    def _of_scale(self, value: ir.Value, scales: np.ndarray, size: float) -> str | None:
        if size * 128 > self._half.largest:
            return f"its scale '{value.name}' reaches {size:.2g}"
        lost = np.abs(scales.astype(self._half.numpy).astype(np.float32) - scales)
        if (lost > MOST_LOST * self._half.step * scales).any():  # one of zero is none, and TensorRT refuses it
            return f"its scale '{value.name}' goes down to {scales.min():.2g}"
        return None

    def _range(self, value: ir.Value) -> Range | None:
        """As measured, of ``value`` or of what it was picked or quantized of."""
        while (measured := self._ranges.get(str(value.name))) is None:
            node = value.producer()
            if node is None or not (selects(node) or node.op_type in ("QuantizeLinear", "DequantizeLinear")):
                return None
            first = node.inputs[0]
            if first is None:
                return None
            value = first
        return measured

    def _keep_what_leads_to(self, node: ir.Node) -> None:
        """Keeps in float32 what computes exponents, if they are large, or whole numbers."""
        if node.op_type in EXPONENTIALS:
            size = self._exponent(node)
            if size is None:
                self.why.setdefault(node, "nothing is known of what it reads")
            elif size * self._half.step / 2 > MOST_OF_EXPONENT:
                self.why.setdefault(node, f"it reads numbers up to {size:.2g}")
                self._keep_back(node, f"it leads to '{node.name}', which reads numbers up to {size:.2g}", products=True)
        elif node.op_type == "Cast" and node.outputs[0].dtype in INTEGERS:
            self._keep_back(node, f"it leads to the whole numbers of '{node.name}'", products=False)

    def _exponent(self, node: ir.Node) -> float | None:
        """The size of the largest numbers that are raised; those far below them count for nothing."""
        value = node.inputs[0]
        measured = self._range(value) if value is not None else None
        if measured is None:
            return None
        return measured[1] if measured[1] > 0 else -measured[0]

    def _keep_back(self, node: ir.Node, reason: str, *, products: bool) -> None:
        ends = KINDS.keys() | EXPONENTIALS | {"DequantizeLinear"} | (frozenset() if products else PRODUCTS)
        seen: set[ir.Node] = set()
        stack = list(node.inputs)
        while stack:
            value = stack.pop()
            before = value.producer() if is_float(value) and value is not None else None
            if before is None or before in seen or before.op_type in ends:
                continue
            seen.add(before)
            self.why.setdefault(before, reason)
            if before.op_type not in PRODUCTS:
                stack += before.inputs

    def _fill_gaps(self) -> bool:
        """Keeps what stands between islands in float32, where half would be two casts and nothing else."""
        found = [node for node in self._nodes if node not in self.why and self._is_gap(node)]
        self.why.update(dict.fromkeys(found, "it stands between nodes in float32"))
        return bool(found)

    def _is_gap(self, node: ir.Node) -> bool:
        if node.op_type in PRODUCTS or self.places[node].of_any_type:
            return False
        before = [value for value in node.inputs if is_float(value) and value is not None and value.const_value is None]
        if node.op_type == "QuantizeLinear":
            return all(map(self._is_written_in_float, before))
        if node.op_type != "DequantizeLinear" and not (before and all(map(self._is_written_in_float, before))):
            return False
        return all(self._is_read_in_float(value) for value in node.outputs)

    def _is_written_in_float(self, value: ir.Value) -> bool:
        producer = value.producer()
        return not self._io if producer is None else producer in self.why

    def _is_read_in_float(self, value: ir.Value) -> bool:
        if value.is_graph_output() and self._io:
            return False
        return all(use.node in self.why or use.node not in self.places for use in value.uses())


def lost_in_half(value: ir.Value, half: HalfType) -> float:
    """The part of a constant's size that rounding takes; more than ``half.step / 2`` where digits are missing."""
    array = _finite(value)
    size = float(np.linalg.norm(array))
    with np.errstate(over="ignore"):
        rounded = array.astype(half.numpy).astype(np.float32)
    return float(np.linalg.norm(rounded - array)) / size if size else 0.0


def _finite(value: ir.Value) -> np.ndarray:
    assert value.const_value is not None
    array = value.const_value.numpy().reshape(-1)
    return np.asarray(array[np.isfinite(array)])
