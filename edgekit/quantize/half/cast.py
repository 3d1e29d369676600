"""Casts a graph to FP16 or BF16, with explicit casts around the nodes that stay in float32."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgekit.arguments import argument
from edgekit.errors import GraphError
from edgekit.graph.insert import inserted_cast
from edgekit.graph.operators import PRODUCTS
from edgekit.graph.opset import raise_opset
from edgekit.graph.passes import NameNodes, RemoveDead
from edgekit.quantize.half.policy import PrecisionPolicy, lost_in_half
from edgekit.quantize.half.types import HALF, HalfType, is_float
from edgekit.specs import Precision

__all__ = ["HalfGraph", "half_from_graph"]

BF16_OPSET = 22
"""The first opset in which convolutions and poolings may be BF16."""


@dataclass(frozen=True)
class HalfGraph:
    """The result of `half_from_graph`: a graph in half precision.

    Attributes:
        graph: the new graph; weights that stay in float32 are shared with the float graph.
        precision: the half precision.
        halved: number of nodes that compute in half precision.
        kept: name of each node that stays in float32, with the reason.
        lost: name of each weight that lost digits because its values are too small, with the fraction of its
            Euclidean norm that was lost.
        casts: number of casts between float32 and half precision.
    """

    graph: ir.Model
    precision: Precision
    halved: int
    kept: Mapping[str, str]
    lost: Mapping[str, float]
    casts: int


def half_from_graph(
    graph: ir.Model,
    precision: Precision,
    ranges: Mapping[str, tuple[float, float]] = {},  # noqa: B006  # it is read only
    *,
    keep_float: Sequence[str] = (),
    io: bool = False,
    lost: Collection[str] = (),
) -> HalfGraph:
    """Casts weights and activations to half precision, except for nodes that would lose too much accuracy.

    These stay in float32: nodes whose ranges or constants exceed the range of half precision; sums, squares and
    exponentials (`edgekit.quantize.half.policy`); operators without half precision in ONNX; and nodes with subgraphs.
    Q/DQ have the type of the values around them: DequantizeLinear outputs half precision. Integer biases become half
    precision, since TensorRT takes no others.

    Args:
        graph: float32, or with Q/DQ; shapes and types are inferred; not modified. BF16 upgrades the new graph to
            opset 22.
        precision: FP16 or BF16.
        ranges: min and max of each tensor of the float graph, from calibration.
        keep_float: patterns of names of nodes that stay in float32.
        io: cast the graph's inputs and outputs too; else their types stay.
        lost: names of values that half precision cannot hold; nodes that read or write them stay in float32.

    Raises:
        GraphError: BF16, and an operator that changed in opset 22.
        UsageError: a pattern matches no node.
    """
    half = HALF[precision]
    graph = graph.clone(deep_copy=False)
    if precision is Precision.BF16:
        _upgrade(graph)
    _fold_integer_biases(graph)
    policy = PrecisionPolicy(graph, half, ranges, keep_float, io=io, lost=lost)
    caster = _Caster(graph, half, policy, io=io)
    caster.type_values()
    caster.insert_casts()
    caster.set_outputs()
    _remove_redundant_casts(graph, half)
    RemoveDead()(graph)
    NameNodes()(graph)
    return HalfGraph(
        graph=graph,
        precision=precision,
        halved=sum(node not in policy.why for node in policy.places),
        kept={node.name or "": reason for node, reason in policy.why.items()},
        lost=caster.lost,
        casts=sum(_is_cast(node, half) for node in graph.graph),
    )


class _Caster:
    """Sets the types of values, and inserts casts for consumers that need another type."""

    def __init__(self, graph: ir.Model, half: HalfType, policy: PrecisionPolicy, *, io: bool) -> None:
        self._graph, self._half, self._policy, self._io = graph.graph, half, policy, io
        self._places = {node: places for node, places in policy.places.items() if node not in policy.why}
        self._constants = [value for value in self._graph.initializers.values() if is_float(value)]
        self._inputs = [value for value in self._graph.inputs if is_float(value)]
        self._computed = [value for node in self._graph for value in node.outputs if is_float(value)]
        self.lost: dict[str, float] = {}

    def type_values(self) -> None:
        """Sets the type of half-precision outputs, and of the graph inputs if ``io``."""
        for node, places in self._places.items():
            for index in places.outputs:
                node.outputs[index].type = ir.TensorType(self._half.dtype)
        for value in self._inputs if self._io else ():
            value.type = ir.TensorType(self._half.dtype)

    def insert_casts(self) -> None:
        """Casts values for each consumer that needs another type."""
        for value in self._constants:
            uses = [(use.node, use.idx) for use in value.uses()]
            halves = [use for use in uses if self._wants_half(*use)]
            if halves and not value.is_graph_input():
                self._halve_constant(value, halves, alone=len(halves) == len(uses) and not value.is_graph_output())
        for value in (*self._inputs, *self._computed):
            others = [
                (use.node, use.idx)
                for use in value.uses()
                if not self._takes_any(use.node) and self._wants_half(use.node, use.idx) != self._is_half(value)
            ]
            if others:
                cast = self._cast(value, None)
                for node, index in others:
                    node.replace_input_with(index, cast)

    def set_outputs(self) -> None:
        """Casts graph outputs to their final type; they keep their names."""
        computed = set(self._computed)
        for index, value in enumerate(self._graph.outputs):
            if value in computed and self._is_half(value) != self._io:
                name, value.name = value.name, f"{value.name}_{_name(self._type_of(value))}"
                self._graph.outputs[index] = self._cast(value, name)

    def _wants_half(self, node: ir.Node, index: int) -> bool:
        places = self._places.get(node)
        return places is not None and index in places.inputs

    def _takes_any(self, node: ir.Node) -> bool:
        places = self._places.get(node)
        return places is not None and places.of_any_type

    def _is_half(self, value: ir.Value) -> bool:
        return value.dtype == self._half.dtype

    def _type_of(self, value: ir.Value) -> ir.DataType:
        return self._half.dtype if self._is_half(value) else ir.DataType.FLOAT

    def _halve_constant(self, value: ir.Value, uses: Iterable[tuple[ir.Node, int]], *, alone: bool) -> None:
        assert value.const_value is not None
        part = lost_in_half(value, self._half)
        if part > self._half.step / 2 and any(node.op_type in PRODUCTS for node, _ in uses):
            self.lost[str(value.name)] = part
        name = value.name if alone else self._free(f"{value.name}_{_name(self._half.dtype)}")
        with np.errstate(over="ignore"):  # infinities that mean "no limit"
            tensor = ir.tensor(value.const_value.numpy().astype(self._half.numpy), name=name)
        if alone:
            value.const_value, value.type = tensor, ir.TensorType(self._half.dtype)
            return
        halved = ir.Value(name=name, type=ir.TensorType(self._half.dtype), shape=value.shape, const_value=tensor)
        self._graph.register_initializer(halved)
        for node, index in uses:
            node.replace_input_with(index, halved)

    def _free(self, name: str) -> str:
        while name in self._graph.initializers:
            name += "_"
        return name

    def _cast(self, value: ir.Value, name: str | None) -> ir.Value:
        """Inserts a cast of ``value`` to the other type."""
        dtype = ir.DataType.FLOAT if self._is_half(value) else self._half.dtype
        kind = _name(dtype)
        return inserted_cast(self._graph, value, dtype, f"{value.name}_to_{kind}", name or f"{value.name}_{kind}")


def _name(dtype: ir.DataType) -> str:
    return {ir.DataType.FLOAT: "fp32", ir.DataType.FLOAT16: "fp16", ir.DataType.BFLOAT16: "bf16"}[dtype]


def _upgrade(graph: ir.Model) -> None:
    reason = raise_opset(graph.graph, BF16_OPSET)
    if reason:
        raise GraphError(
            f"BF16 needs opset {BF16_OPSET}, and {reason}",
            hint=f"export the model with opset {BF16_OPSET}, or build it with {argument('precision', 'fp16')}",
        )


def _fold_integer_biases(graph: ir.Model) -> None:
    """Folds int32 biases, which other quantizers write, into floats: half precision cannot represent their scales."""
    for node in list(graph.graph):
        constants = [value.const_value if value is not None else None for value in node.inputs]
        if node.op_type != "DequantizeLinear" or constants[0] is None or constants[1] is None:
            continue
        if constants[0].dtype != ir.DataType.INT32 or constants[1].dtype != ir.DataType.FLOAT:
            continue
        zero = constants[2].numpy() if len(constants) > 2 and constants[2] is not None else 0
        array = ((constants[0].numpy().astype(np.float64) - zero) * constants[1].numpy()).astype(np.float32)
        output = node.outputs[0]
        name = f"{output.name}_folded"
        tensor = ir.tensor(array, name=name)
        bias = ir.Value(name=name, type=output.type, shape=ir.Shape(array.shape), const_value=tensor)
        graph.graph.register_initializer(bias)
        ir.convenience.replace_all_uses_with(output, bias)
    RemoveDead()(graph)


def _is_cast(node: ir.Node, half: HalfType) -> bool:
    if node.op_type != "Cast" or node.inputs[0] is None:
        return False
    return {node.inputs[0].dtype, node.outputs[0].dtype} == {half.dtype, ir.DataType.FLOAT}


def _remove_redundant_casts(graph: ir.Model, half: HalfType) -> None:
    """Removes casts from half to half, and from half to float32 and back."""
    for node in list(graph.graph):
        if node.op_type != "Cast" or node.outputs[0].dtype != half.dtype or node.outputs[0].is_graph_output():
            continue
        source = node.inputs[0]
        before = source.producer() if source is not None else None
        if source is not None and source.dtype != half.dtype and before is not None and _is_cast(before, half):
            source = before.inputs[0]
        if source is not None and source.dtype == half.dtype:
            ir.convenience.replace_all_uses_with(node.outputs[0], source)
