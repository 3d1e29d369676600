"""Slices of every second pixel before a convolution, against unoptimized ONNX Runtime on the graph as it was."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from edgekit.graph.passes import optimize

BIG = 2**31 - 1
ORDERS = {
    "columns last (YOLOX)": [(0, 0), (1, 0), (0, 1), (1, 1)],
    "rows last": [(0, 0), (0, 1), (1, 0), (1, 1)],
}


def model(
    cells=ORDERS["columns last (YOLOX)"], *, opset=17, step=2, size=(12, 8), conv="pads = [1, 1, 1, 1]", ends=(BIG, BIG)
):
    """One Slice of both axes for cells of the first row, and two for the others."""
    lines, names, weights = [], [], {}
    for index, (row, column) in enumerate(cells):
        names.append(f"c{index}")
        numbers = {"row": [row], "column": [column], "both": [row, column]}
        for name, array in numbers.items():
            weights[f"{name}{index}"] = np.array(array, np.int64)
        if row == 0:
            lines.append(f"c{index} = Slice (x, both{index}, ends, axes, steps)")
        else:
            lines.append(f"r{index} = Slice (x, row{index}, end_row, rows, step)")
            lines.append(f"c{index} = Slice (r{index}, column{index}, end_column, columns, step)")
    weights |= {"ends": np.array(ends), "end_row": np.array(ends[:1]), "end_column": np.array(ends[1:])}
    weights |= {"axes": np.array([2, -1]), "rows": np.array([2]), "columns": np.array([3])}
    weights |= {"steps": np.array([step, step]), "step": np.array([step])}
    random = np.random.default_rng(0)
    weights["w"] = random.standard_normal((5, 3 * len(cells), 3, 3)).astype(np.float32)
    weights["b"] = random.standard_normal(5).astype(np.float32)
    body = "\n".join(lines)
    text = f"""<ir_version: 8, opset_import: ["" : {opset}]>
        g (float[1, 3, {size[0]}, {size[1]}] x) => (float[n, c, h, w0] y) {{
        {body}
        focus = Concat <axis = 1> ({", ".join(names)})
        y = Conv <{conv}> (focus, w, b) }}"""
    proto = onnx.parser.parse_model(text)
    for name, array in weights.items():
        array = np.asarray(array)
        array = array if name in "wb" else array.astype(np.int64)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    onnx.checker.check_model(proto)
    return proto


def operators_of_the_same(proto, size=(12, 8)):
    """Optimizes the graph, compares outputs, and returns the operators that are left."""
    x = np.random.default_rng(1).standard_normal((1, 3, *size)).astype(np.float32)

    def run(graph):
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        return onnxruntime.InferenceSession(graph.SerializeToString(), options).run(None, {"x": x})[0]

    graph = optimize(ir.from_proto(proto))
    np.testing.assert_allclose(run(ir.to_proto(graph)), run(proto), rtol=1e-5, atol=1e-5)
    return [node.op_type for node in graph.graph]


@pytest.mark.parametrize("opset", [13, 17, 18, 19, 21])
@pytest.mark.parametrize("order", ORDERS)
def test_slices_of_all_pixels_become_a_larger_convolution(opset, order):
    assert operators_of_the_same(model(ORDERS[order], opset=opset)) == ["Conv"]


@pytest.mark.parametrize(
    "conv", ["pads = [0, 0, 0, 0]", "pads = [2, 1, 0, 1], strides = [1, 2]", 'auto_pad = "VALID", strides = [2, 1]']
)
def test_strides_and_pads_are_those_of_cells(conv):
    assert operators_of_the_same(model(conv=conv)) == ["Conv"]


def test_cells_of_three_pixels_are_folded_too():
    cells = list(itertools.product(range(3), range(3)))[::-1]
    assert operators_of_the_same(model(cells, step=3, size=(12, 9)), (12, 9)) == ["Conv"]


@pytest.mark.parametrize(
    ("changed", "size"),
    [
        pytest.param({"cells": [(0, 0), (1, 0), (0, 1), (0, 1)]}, (12, 8), id="a cell twice"),
        pytest.param({"cells": [(0, 0), (1, 0), (0, 1)]}, (12, 8), id="a cell is missing"),
        pytest.param({"conv": "dilations = [2, 1]"}, (12, 8), id="dilated"),
        pytest.param({"conv": 'auto_pad = "SAME_UPPER"'}, (12, 8), id="padded by size"),
        pytest.param({"ends": (10, BIG)}, (12, 8), id="the last rows are cut off"),
    ],
)
def test_other_slices_stay(changed, size):
    assert "Slice" in operators_of_the_same(model(**changed, size=size), size)
