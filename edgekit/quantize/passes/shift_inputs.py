"""Subtracts a constant from the input of matrix products, where its values have mostly one sign.

Without a zero point, half of the integers of a GELU's or a ReLU's output are not used. ``x W = (x - c) W + c W``: with
``c`` in the middle of the range, the difference uses all of them, and its step is half as large, which is 6 dB. The
subtraction is one more operation on each element, in the kernel that computes and rounds the tensor; ``c W`` is added
to the bias. MiniLM's typed graph for TensorRT keeps 25.7 dB instead of 22.4 so; on a GPU its time is not yet measured.
The zeros around a padded convolution would be ``-c`` then, so that only matrix products are changed.

The rounded weights W' are in ``c W'`` too (`with_rounded_offsets`). Else their error would be multiplied by ``c``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from edgekit.graph.evaluator import Evaluator
from edgekit.graph.insert import float_node, insert_behind, new_initializer, pass_on
from edgekit.graph.stats import CONSTANT_INPUTS
from edgekit.quantize.passes.correct_bias import Limits
from edgekit.quantize.passes.smooth_channels import input_matrix, is_matrix_product
from edgekit.quantize.plan import Plan
from edgekit.quantize.qdq import FloatFactors
from edgekit.quantize.selections import range_source

__all__ = ["Shifted", "bias_place", "shift_inputs", "with_rounded_offsets"]

Range = tuple[float, float]

LEAST_GAIN_DB = 3.0
"""How much smaller the rounding error becomes, at least: it is 6 dB for values of one sign."""
ENOUGH_DB = 33.0
"""An input that keeps more, in the median of its rows, adds nothing to the noise of the others. Of all rows together, a
few large ones would hide what the others lose."""
INPUTS = 4
"""Number of inputs that the error is measured on."""


class Shifted(NamedTuple):
    """What `shift_inputs` returns.

    Attributes:
        ranges: of all tensors, with those of the new ones.
        offsets: what was subtracted from the input of each matrix product.
    """

    ranges: dict[str, Range]
    offsets: dict[ir.Node, float]


def shift_inputs(
    graph: ir.Model,
    plan: Plan,
    ranges: Mapping[str, Range],
    limits: Mapping[ir.Node, Limits],
    feeds: Sequence[Mapping[str, np.ndarray]],
    *,
    threads: int = 0,
) -> Shifted:
    """Subtracts constants from inputs of matrix products of a plan, in place.

    Args:
        graph: the float graph, with named nodes; its results stay the same.
        plan: what will be quantized, without zero points; to be made again if the ranges have changed.
        ranges: min and max of each tensor.
        limits: how the first input of each product would be rounded.
        feeds: inputs of the graph; the first `INPUTS` are used. Empty: nothing changes.
        threads: for ONNX Runtime; 0: its default.
    """
    new, offsets = dict(ranges), dict[ir.Node, float]()
    found = {data: nodes for data, nodes in _readers(plan).items() if feeds and _gain_db(data, ranges) >= LEAST_GAIN_DB}
    noisy = _noisy(graph, found, limits, feeds[:INPUTS], threads)
    bounds = {data: ranges[str(range_source(data).name)] for data in noisy}
    sums: dict[ir.Value, ir.Value] = {}
    for data, (lo, hi) in bounds.items():
        # A number that FP16 has too, so that the constant does not depend on where it is rounded.
        offset = float(np.float16((lo + hi) / 2))
        difference = _subtract(graph, sums.get(data, data), offset)
        new[str(difference.name)] = lo - offset, hi - offset
        for node in found[data]:
            node.replace_input_with(0, difference)
            added = offset * input_matrix(node).sum(0, dtype=np.float64)
            result = str(node.outputs[0].name)
            total = _add(graph, node, added)
            if total is not None:
                sums[node.outputs[0]] = total
            if result in ranges and node.op_type == "MatMul":
                if total is not None:
                    new[str(total.name)] = ranges[result]
                # What the MatMul computes now is smaller by what is added behind it.
                low, high = ranges[result]
                new[str(node.outputs[0].name)] = low - float(added.max()), high - float(added.min())
            offsets[node] = offset
    return Shifted(new, offsets)


def _readers(plan: Plan) -> dict[ir.Value, list[ir.Node]]:
    """Returns the tensors that only matrix products read as integers, with these."""
    found: dict[ir.Value, list[ir.Node]] = {}
    others: set[ir.Value] = set()
    for node in plan.nodes:
        if is_matrix_product(node) and node.inputs[0] is not None and not _has_computed_bias(node):
            found.setdefault(node.inputs[0], []).append(node)
            others.update(value for value in node.inputs[1:] if value is not None)
        else:
            others.update(value for value in node.inputs if value is not None)
    unfit = others | plan.integers | plan.signed
    return {
        data: nodes
        for data, nodes in found.items()
        if data in plan.tensors and data not in unfit and data.producer() is not None
    }


def _has_computed_bias(node: ir.Node) -> bool:
    """Whether a Gemm has a bias that is not constant, so that nothing can be added to it."""
    if node.op_type != "Gemm" or len(node.inputs) < 3 or node.inputs[2] is None:
        return False
    return node.inputs[2].const_value is None


def _gain_db(data: ir.Value, ranges: Mapping[str, Range]) -> float:
    lo, hi = ranges.get(str(range_source(data).name), (0.0, 0.0))
    return float(20 * np.log10(2 * max(-lo, hi) / (hi - lo))) if hi > lo else 0.0


def _noisy(
    graph: ir.Model,
    found: Mapping[ir.Value, Sequence[ir.Node]],
    limits: Mapping[ir.Node, Limits],
    feeds: Sequence[Mapping[str, np.ndarray]],
    threads: int,
) -> list[ir.Value]:
    """Returns the tensors that keep less than `ENOUGH_DB` when they are rounded, in the median of rows."""
    if not found:
        return []
    names = {data: str(data.name) for data in found}
    evaluator = Evaluator(graph, also=sorted(names.values()), threads=threads, optimized=True)
    results = [evaluator.run(dict(feed)) for feed in feeds]
    noisy = []
    for data, nodes in found.items():
        arrays = (each[names[data]] for each in results)
        energies = np.concatenate([np.square(each, dtype=np.float64).mean(-1).ravel() for each in arrays])
        noise = limits[nodes[0]].step ** 2 / 12
        if 0 < float(np.median(energies)) < noise * 10 ** (ENOUGH_DB / 10):
            noisy.append(data)
    return noisy


def _subtract(graph: ir.Model, data: ir.Value, offset: float) -> ir.Value:
    constant = new_initializer(graph, f"{data.name}_offset", np.array(offset, np.float32))
    node = float_node("Sub", [data, constant], f"{data.name}_shifted", data.shape, constants="1")
    insert_behind(graph.graph, data, [node])
    return node.outputs[0]


def bias_place(node: ir.Node) -> tuple[ir.Node, int] | None:
    """Returns the node that adds the bias of a product, and the number of that input; None if it has none.

    A MatMul's is a constant that the only reader of its result adds.
    """
    if node.op_type != "MatMul":
        return (node, 2) if len(node.inputs) > 2 and node.inputs[2] is not None else None
    readers = [use.node for use in node.outputs[0].uses()]
    if node.outputs[0].is_graph_output() or len(readers) != 1 or readers[0].op_type != "Add":
        return None
    width = _width(node)
    places = (index for index, value in enumerate(readers[0].inputs) if _is_vector(value, width))
    return next(((readers[0], index) for index in places), None)


def _width(node: ir.Node) -> int:
    weight = node.inputs[1]
    assert weight is not None and weight.shape is not None
    return int(weight.shape.numpy()[-1])


def _is_vector(value: ir.Value | None, width: int) -> bool:
    if value is None or value.const_value is None:
        return False
    shape = tuple(value.const_value.shape.numpy())
    return shape[-1:] == (width,) and all(size == 1 for size in shape[:-1])


def _add(graph: ir.Model, node: ir.Node, added: np.ndarray) -> ir.Value | None:
    """Adds a vector to the bias of a product; it gets one if it has none.

    Returns:
        What the readers of the product read now; None if they read the same as before.
    """
    place = bias_place(node)
    if place is not None:
        adding, index = place
        before = adding.inputs[index]
        assert before is not None and before.const_value is not None
        array = before.const_value.numpy() + added.astype(np.float32)
        adding.replace_input_with(index, new_initializer(graph, f"{before.name}_of_{node.name}", array))
        return None
    bias = new_initializer(graph, f"{node.name}_bias", added.astype(np.float32))
    if node.op_type == "Gemm":
        node.resize_inputs(3)
        node.replace_input_with(2, bias)
        node.metadata_props[CONSTANT_INPUTS] = "2"
        return None
    result = node.outputs[0]
    add = float_node("Add", [result, bias], f"{node.name}_biased", result.shape, constants="1")
    pass_on(graph.graph, result, [add], renamed=f"{result.name}_without_bias")
    return add.outputs[0]


def with_rounded_offsets(
    graph: ir.Model, offsets: Mapping[ir.Node, float], exact: Mapping[str, FloatFactors]
) -> dict[str, FloatFactors]:
    """Replaces ``c W`` in the biases of MatMuls by ``c W'``, with the rounded weights, in place.

    The biases of other products are corrected for it with the rest of the error of their weights
    (`edgekit.quantize.passes.correct_bias`).

    Args:
        graph: with Q/DQ pairs.
        offsets: what was subtracted from the input of each matrix product.
        exact: the factors of products before they were rounded, by name.

    Returns:
        ``exact``, with the biases of these MatMuls before.
    """
    found = dict(exact)
    for node, offset in offsets.items():
        name, place = str(node.name), bias_place(node)
        if node.op_type != "MatMul" or name not in exact or place is None:
            continue
        adding, index = place
        bias = adding.inputs[index]
        assert bias is not None and bias.const_value is not None
        array = bias.const_value.numpy()
        error = (_rounded(node) - exact[name].weight).sum(0, dtype=np.float64)
        corrected = (array + offset * error).astype(np.float32)
        adding.replace_input_with(index, new_initializer(graph, f"{bias.name}_corrected", corrected))
        found[name] = exact[name]._replace(bias=array)
    return found


def _rounded(node: ir.Node) -> np.ndarray:
    """Returns the weights that a MatMul reads from a DequantizeLinear, with a scale for each column or one for all."""
    weight = node.inputs[1]
    dequantize = weight.producer() if weight is not None else None
    assert dequantize is not None
    integers, scales = (value.const_value for value in dequantize.inputs[:2] if value is not None)
    assert integers is not None and scales is not None
    return np.asarray(integers.numpy().astype(np.float64) * scales.numpy())
