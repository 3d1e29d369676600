"""The changes of operators from opset 7 to 20, each as a rewrite of one node; compared with ONNX Runtime in tests.

Operators that are not in the table take more types or attributes in opset 20, and compute the same without them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from edgekit.errors import GraphError

__all__ = ["CHANGES", "Names", "Rewriter"]

Attributes = Mapping[str, int | float | str | Sequence[int] | ir.TensorProtocol]

_EPSILON = 1e-5
"""Default ``epsilon`` of BatchNormalization."""
_BOOL_MASK = 10
"""First opset in which the mask of a Dropout is of bool."""


class Names:
    """Names of values that are unique in a graph and its subgraphs."""

    def __init__(self, graph: ir.Graph) -> None:
        self._taken = {value.name for part in (graph, *graph.subgraphs()) for value in _values_of(part)}

    def unique(self, stem: str) -> str:
        """Returns ``stem``, with underscores appended until it is unique."""
        while stem in self._taken:
            stem += "_"
        self._taken.add(stem)
        return stem


def _values_of(graph: ir.Graph) -> Sequence[ir.Value]:
    return [*graph.inputs, *graph.initializers.values(), *(value for node in graph for value in node.outputs)]


class Rewriter:
    """Rewrites one node; new nodes are placed in front of it, constants as Constant nodes.

    Attributes:
        node: the node.
        opset: the graph's opset before the upgrade.
    """

    def __init__(self, node: ir.Node, opset: int, names: Names) -> None:
        self.node, self.opset, self._names = node, opset, names
        self._stem = node.name or next((value.name for value in node.outputs if value.name), None) or node.op_type

    def add(self, operator: str, inputs: Sequence[ir.Value | None], attributes: Attributes | None = None) -> ir.Value:
        """Adds a node with one output in front of the node, and returns the output."""
        value = ir.Value(name=self._names.unique(f"{self._stem}_{operator.lower()}"))
        self._insert(ir.node(operator, inputs, attributes, name=value.name, outputs=[value]))
        return value

    def constant(self, array: np.ndarray) -> ir.Value:
        """Adds a Constant."""
        name = self._names.unique(f"{self._stem}_constant")
        value = ir.Value(
            name=name, type=ir.TensorType(ir.DataType.from_numpy(array.dtype)), shape=ir.Shape(array.shape)
        )
        self._insert(ir.node("Constant", [], {"value": ir.tensor(array, name=name)}, name=name, outputs=[value]))
        return value

    def number(self, number: float, like: ir.Value | None) -> ir.Value:
        """Adds a number of the element type of ``like``."""
        dtype = like.dtype if like is not None else None
        if dtype is not None:
            return self.constant(np.asarray(number, dtype.numpy()))
        return self.add("CastLike", [self.constant(np.asarray(number, np.float32)), like])

    def give(self, index: int, value: ir.Value | None) -> None:
        """Sets an input of the node; inputs before it that are missing are omitted ones."""
        if index >= len(self.node.inputs):
            self.node.resize_inputs(index + 1)
        self.node.replace_input_with(index, value)

    def replace(self, output: int, value: ir.Value) -> None:
        """Makes all users of an output read ``value``, which takes its name; `remove` has to follow."""
        old = self.node.outputs[output]
        name, value.type, value.shape = old.name, old.type, old.shape
        old.replace_all_uses_with(value, replace_graph_outputs=True)
        old.name = None
        value.name = name

    def remove(self) -> None:
        """Removes the node."""
        assert self.node.graph is not None
        self.node.graph.remove(self.node, safe=True)

    def used(self, output: int) -> bool:
        """Whether an output of the node exists, and is read or is an output of its graph."""
        value = self.node.outputs[output] if output < len(self.node.outputs) else None
        return value is not None and (bool(value.uses()) or value.is_graph_output())

    def popped(self, attribute: str) -> ir.Attr | None:
        """Removes an attribute of the node, and returns it."""
        return self.node.attributes.pop(attribute, None)

    def _insert(self, new: ir.Node) -> None:
        assert self.node.graph is not None
        self.node.graph.insert_before(self.node, new)


def _integers_as_input(attribute: str, index: int) -> Callable[[Rewriter], None]:
    """The attribute, a list of integers, is an input now."""

    def rewrite(change: Rewriter) -> None:
        numbers = change.popped(attribute)
        if numbers is not None and (index >= len(change.node.inputs) or change.node.inputs[index] is None):
            change.give(index, change.constant(np.asarray(numbers.as_ints(), np.int64)))

    return rewrite


def _split(change: Rewriter) -> None:
    _integers_as_input("split", 1)(change)
    if len(change.node.inputs) < 2 or change.node.inputs[1] is None:
        change.node.attributes["num_outputs"] = ir.AttrInt64("num_outputs", len(change.node.outputs))


def _slice(change: Rewriter) -> None:
    for index, attribute in enumerate(("starts", "ends", "axes"), start=1):
        _integers_as_input(attribute, index)(change)


def _top_k(change: Rewriter) -> None:
    count = change.popped("k")
    if count is not None:
        change.give(1, change.constant(np.asarray([count.as_int()], np.int64)))


def _pad(change: Rewriter) -> None:
    _integers_as_input("pads", 1)(change)
    fill = change.popped("value")
    if fill is not None and change.node.attributes.get_string("mode", "constant") == "constant":
        change.give(2, change.number(fill.as_float(), change.node.inputs[0]))


def _clip(change: Rewriter) -> None:
    for index, attribute in enumerate(("min", "max"), start=1):
        limit = change.popped(attribute)
        if limit is not None:
            change.give(index, change.number(limit.as_float(), change.node.inputs[0]))


def _dropout(change: Rewriter) -> None:
    """Before opset 12 there was inference alone. Its mask was zeros, before 10 of the type of the data, then bool."""
    data = change.node.inputs[0]
    if change.used(1):
        zero = np.zeros(1, bool)
        if change.opset < _BOOL_MASK and data is not None and data.dtype is not None:
            zero = np.zeros(1, data.dtype.numpy())
        shape = change.add("Shape", [data])
        change.replace(1, change.add("ConstantOfShape", [shape], {"value": ir.tensor(zero)}))
    change.replace(0, change.add("Identity", [data]))
    change.remove()


def _batch_normalization(change: Rewriter) -> None:
    node = change.node
    if any(change.used(index) for index in range(1, len(node.outputs))):
        raise GraphError(
            f"node '{node.name or node.outputs[0].name}': the training outputs of BatchNormalization are used",
            hint="export the model in evaluation mode",
        )
    node.resize_outputs(1)
    spatial = change.popped("spatial")
    if spatial is None or spatial.as_int() != 0:
        return
    # Before opset 9, spatial = 0 meant one mean and variance for each element instead of each channel.
    data, scale, shift, mean, variance = node.inputs[:5]
    epsilon = change.number(node.attributes.get_float("epsilon", _EPSILON), variance)
    deviation = change.add("Sqrt", [change.add("Add", [variance, epsilon])])
    normal = change.add("Div", [change.add("Sub", [data, mean]), deviation])
    change.replace(0, change.add("Add", [change.add("Mul", [normal, scale]), shift]))
    change.remove()


def _softmax(change: Rewriter) -> None:
    """Before opset 13, the axes from ``axis`` (default 1) on were one: ``(a_0 * ... , a_axis * ...)``."""
    node = change.node
    data, axis = node.inputs[0], node.attributes.get_int("axis", 1)
    rank = len(data.shape) if data is not None and data.shape is not None else None
    if axis == -1 or (rank is not None and axis % rank == rank - 1):
        node.attributes["axis"] = ir.AttrInt64("axis", -1)
        return
    flat = change.add("Flatten", [data], {"axis": axis})
    result = change.add(node.op_type, [flat], {"axis": -1})
    change.replace(0, change.add("Reshape", [result, change.add("Shape", [data])]))
    change.remove()


def _upsample(change: Rewriter) -> None:
    scales = change.popped("scales")
    if scales is not None:
        change.give(1, change.constant(np.asarray(scales.as_floats(), np.float32)))
    _resize(change)


def _resize(change: Rewriter) -> None:
    """Before opset 11, coordinates were divided by the scales; nearest rounded down, and up where an axis shrinks."""
    node = change.node
    data, scales = node.inputs[0], node.inputs[1]
    mode = node.attributes.get_string("mode", "nearest")
    attributes: dict[str, str] = {"mode": mode, "coordinate_transformation_mode": "asymmetric"}
    if mode != "nearest":
        result = change.add("Resize", [data, None, scales], attributes)
    else:
        one = change.constant(np.ones(1, np.float32))
        known = ir.convenience.get_const_tensor(scales) if scales is not None else None
        array = known.numpy() if known is not None else None
        result = change.add("Identity", [data])
        for bound, rounding, needed in (
            ("Max", "floor", array is None or bool((array > 1).any())),
            ("Min", "ceil", array is None or bool((array < 1).any())),
        ):
            if needed:
                limited = change.add(bound, [scales, one])
                attributes["nearest_mode"] = rounding
                result = change.add("Resize", [result, None, limited], attributes)
    change.replace(0, result)
    change.remove()


def _scatter(change: Rewriter) -> None:
    change.node.op_type = "ScatterElements"


def _roi_align(change: Rewriter) -> None:
    name = "coordinate_transformation_mode"
    change.node.attributes[name] = ir.AttrString(name, "output_half_pixel")


def _grid_sample(change: Rewriter) -> None:
    mode = change.node.attributes.get_string("mode", "bilinear")
    names = {"bilinear": "linear", "bicubic": "cubic"}
    change.node.attributes["mode"] = ir.AttrString("mode", names.get(mode, mode))


def _dft(change: Rewriter) -> None:
    axis = change.popped("axis")
    change.give(2, change.constant(np.asarray(axis.as_int() if axis is not None else 1, np.int64)))


def _scan(change: Rewriter) -> None:
    raise GraphError(
        f"node '{change.node.name or change.node.outputs[0].name}': Scan of opset 8 has a batch axis, which no later "
        "opset has",
        hint="export the model again with opset 9 or newer",
    )


_AXES = _integers_as_input("axes", 1)

CHANGES: Mapping[str, tuple[int, Callable[[Rewriter], None]]] = {
    "BatchNormalization": (14, _batch_normalization),
    "Clip": (11, _clip),
    "DFT": (20, _dft),
    "Dropout": (12, _dropout),
    "GridSample": (20, _grid_sample),
    "Hardmax": (13, _softmax),
    "LogSoftmax": (13, _softmax),
    "Pad": (11, _pad),
    "ReduceL1": (18, _AXES),
    "ReduceL2": (18, _AXES),
    "ReduceLogSum": (18, _AXES),
    "ReduceLogSumExp": (18, _AXES),
    "ReduceMax": (18, _AXES),
    "ReduceMean": (18, _AXES),
    "ReduceMin": (18, _AXES),
    "ReduceProd": (18, _AXES),
    "ReduceSum": (13, _AXES),
    "ReduceSumSquare": (18, _AXES),
    "Resize": (11, _resize),
    "RoiAlign": (16, _roi_align),
    "Scan": (9, _scan),
    "Scatter": (11, _scatter),
    "Slice": (10, _slice),
    "Softmax": (13, _softmax),
    "Split": (18, _split),
    "Squeeze": (13, _AXES),
    "TopK": (10, _top_k),
    "Unsqueeze": (13, _AXES),
    "Upsample": (10, _upsample),
}
"""By operator, the first opset in which it has its form of opset 20, and the rewrite of the form before."""
