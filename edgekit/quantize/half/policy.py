"""Chooses the nodes that stay in float32, by their ranges and their operators, because half precision is too coarse."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from edgekit.graph.operators import PRODUCTS
from edgekit.quantize.half.types import HalfPlaces, HalfType, half_places, is_float
from edgekit.quantize.plan import matching
from edgekit.quantize.selections import selects

__all__ = ["PrecisionPolicy", "lost_in_half"]

Range = tuple[float, float]

SUMS = "it sums many values"
SQUARES = "it sums squares"
OPERATORS = {
    "BitCast": "it reads the bits of its input",
    "Cos": "it reduces an angle modulo a full turn",
    "CumSum": SUMS,
    "Exp": "it amplifies errors",
    "GroupNormalization": SQUARES,
    "InstanceNormalization": SQUARES,
    "LayerNormalization": SQUARES,
    "LpNormalization": SQUARES,
    "MeanVarianceNormalization": SQUARES,
    "Pow": "it squares",
    "RMSNormalization": SQUARES,
    "Range": "it counts",
    "Reciprocal": "it turns small values into large ones",
    "ReduceL1": SUMS,
    "ReduceL2": SQUARES,
    "ReduceLogSum": SUMS,
    "ReduceLogSumExp": SUMS,
    "ReduceMean": SUMS,
    "ReduceProd": "it multiplies many values",
    "ReduceSum": SUMS,
    "ReduceSumSquare": SQUARES,
    "Sin": "it reduces an angle modulo a full turn",
    "Sqrt": "it reads squares",
    "Sum": SUMS,
}
"""Operators that stay in float32 whatever their ranges are: calibration does not see their intermediate values."""

EXPONENTIALS = frozenset({"Exp", "LogSoftmax", "Softmax"})

HEADROOM = 4.0
"""Values may be this many times as large as in calibration."""

MAX_LOSS_STEPS = 4.0
"""Max relative rounding error of constants, in units of the half type's ``step``; subnormal numbers lose more."""

MAX_EXPONENT_ERROR = 2.0**-5
"""Max rounding error of the input of an exponential, and so the max relative error of its output."""

INTEGERS = frozenset(t for t in ir.DataType if t.is_integer())


class PrecisionPolicy:
    """The nodes that stay in float32, each with the reason, and the inputs and outputs of the others that may be half.

    Attributes:
        why: reason by node that stays in float32, in no order.
        places: half-precision inputs and outputs, by node of the main graph that has any.
    """

    def __init__(
        self,
        graph: ir.Model,
        half: HalfType,
        ranges: Mapping[str, Range],
        keep_float: Sequence[str],
        *,
        io: bool,
        lost: Collection[str] = (),
    ) -> None:
        self.why: dict[ir.Node, str] = {}
        self.places: dict[ir.Node, HalfPlaces] = {}
        self._half, self._ranges, self._io, self._lost = half, ranges, io, frozenset(lost)
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
            self._keep_producers(node)
        while self._fill_gaps():
            pass

    def _reason(self, node: ir.Node) -> str | None:
        """Returns why ``node`` stays in float32, regardless of other nodes; None if it need not."""
        if node.op_type in OPERATORS:
            return OPERATORS[node.op_type]
        for value in (*node.inputs, *node.outputs):
            if is_float(value) and value is not None and not self.places[node].of_any_type:
                reason = self._of_range(value) if value.const_value is None else self._of_constant(node, value)
                if reason:
                    return reason
        return None

    def _of_range(self, value: ir.Value) -> str | None:
        if value.name in self._lost:
            return f"'{value.name}' loses its values"
        measured = self._range(value)
        if measured is None:
            return None
        size = max(-measured[0], measured[1])
        if size * HEADROOM > self._half.largest:
            return f"'{value.name}' reaches {size:.2g}"
        if 0 < size < self._half.smallest_normal:
            return f"'{value.name}' reaches no more than {size:.2g}"
        return None

    def _of_constant(self, node: ir.Node, value: ir.Value) -> str | None:
        array = _finite(value)
        size = float(np.abs(array).max(initial=0.0))
        if size > self._half.largest:
            return f"its constant '{value.name}' reaches {size:.2g}"
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            return self._of_scale(value, array, size)
        if node.op_type in PRODUCTS and value in node.inputs[2:]:
            return None  # a bias of small values hardly matters
        if 0 < size < self._half.smallest_normal or lost_in_half(value, self._half) > MAX_LOSS_STEPS * self._half.step:
            return f"its constant '{value.name}' reaches no more than {size:.2g}"
        return None

    def _of_scale(self, value: ir.Value, scales: np.ndarray, size: float) -> str | None:
        if size * 128 > self._half.largest:
            return f"its scale '{value.name}' reaches {size:.2g}"
        lost = np.abs(scales.astype(self._half.numpy).astype(np.float32) - scales)
        if (lost > MAX_LOSS_STEPS * self._half.step * scales).any():  # a scale of zero is invalid; TensorRT rejects it
            return f"its scale '{value.name}' is as small as {scales.min():.2g}"
        return None

    def _range(self, value: ir.Value) -> Range | None:
        """Returns the measured range of ``value``, or of the tensor that it was selected or quantized from."""
        while (measured := self._ranges.get(str(value.name))) is None:
            node = value.producer()
            if node is None or not (selects(node) or node.op_type in ("QuantizeLinear", "DequantizeLinear")):
                return None
            first = node.inputs[0]
            if first is None:
                return None
            value = first
        return measured

    def _keep_producers(self, node: ir.Node) -> None:
        """Keeps the nodes that compute large exponents or integers in float32."""
        if node.op_type in EXPONENTIALS:
            size = self._exponent(node)
            if size is None:
                self.why.setdefault(node, "the range of its input is unknown")
            elif size * self._half.step / 2 > MAX_EXPONENT_ERROR:
                self.why.setdefault(node, f"it reads values up to {size:.2g}")
                self._keep_back(node, f"it feeds '{node.name}', which reads values up to {size:.2g}", products=True)
        elif node.op_type == "Cast" and node.outputs[0].dtype in INTEGERS:
            self._keep_back(node, f"it feeds '{node.name}', which outputs integers", products=False)

    def _exponent(self, node: ir.Node) -> float | None:
        """Returns the magnitude of the largest inputs of an exponential; those far below do not matter."""
        value = node.inputs[0]
        measured = self._range(value) if value is not None else None
        if measured is None:
            return None
        return measured[1] if measured[1] > 0 else -measured[0]

    def _keep_back(self, node: ir.Node, reason: str, *, products: bool) -> None:
        limits = OPERATORS.keys() | EXPONENTIALS | {"DequantizeLinear"} | (frozenset() if products else PRODUCTS)
        seen: set[ir.Node] = set()
        stack = list(node.inputs)
        while stack:
            value = stack.pop()
            before = value.producer() if is_float(value) and value is not None else None
            if before is None or before in seen or before.op_type in limits:
                continue
            seen.add(before)
            self.why.setdefault(before, reason)
            if before.op_type not in PRODUCTS:
                stack += before.inputs

    def _fill_gaps(self) -> bool:
        """Keeps nodes between float32 nodes in float32 if half precision would only add two casts."""
        found = [node for node in self._nodes if node not in self.why and self._is_gap(node)]
        self.why.update(dict.fromkeys(found, "it is between float32 nodes"))
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
    """Computes a constant's relative rounding error in half precision; subnormals exceed ``half.step / 2``."""
    array = _finite(value)
    size = float(np.linalg.norm(array))
    with np.errstate(over="ignore"):
        rounded = array.astype(half.numpy).astype(np.float32)
    return float(np.linalg.norm(rounded - array)) / size if size else 0.0


def _finite(value: ir.Value) -> np.ndarray:
    assert value.const_value is not None
    array = value.const_value.numpy().reshape(-1)
    return np.asarray(array[np.isfinite(array)])
