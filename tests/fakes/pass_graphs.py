"""Graphs of any opset and element type, and a comparison of their outputs before and after the passes.

The reference is the same graph in FP32 with the numbers that the file's type has, run without optimizations.
"""

from __future__ import annotations

import math

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgekit.graph.load.onnx_file import graph_from_onnx
from edgekit.graph.passes import optimize

OPSETS = (7, 9, 11, 13, 17, 18, 20, 21, 24)
TYPES = {"fp32": np.float32, "fp16": np.float16, "fp64": np.float64}
IR_VERSIONS = {7: 4, 9: 4, 11: 6, 13: 7, 17: 8, 18: 8, 20: 9, 21: 10, 24: 13}
SHAPE = (2, 4, 3, 5)


class Builder:
    """Writes a graph of one input operator by operator, in the form that an opset wants."""

    def __init__(self, opset, dtype, shape=SHAPE, seed=0):
        self.opset, self.dtype, self.shape = opset, np.dtype(dtype), list(shape)
        self.random = np.random.default_rng(seed)
        self.nodes, self.weights = [], {}

    def op(self, operator, *inputs, **attributes):
        name = f"v{len(self.nodes)}"
        inputs = [each if isinstance(each, str) else self.constant(each) for each in inputs]
        self.nodes.append(helper.make_node(operator, inputs, [name], name=f"n{len(self.nodes)}", **attributes))
        return name

    def constant(self, array):
        array = np.asarray(array)
        array = array.astype(self.dtype) if array.dtype.kind == "f" else array.astype(np.int64)
        name = f"c{len(self.weights)}"
        self.weights[name] = array
        return name

    def normal(self, *shape, scale=1.0):
        return self.random.standard_normal(shape) * scale

    def with_axes(self, operator, x, axes, since, **attributes):
        """An operator whose axes are an input from an opset on, and an attribute before."""
        if self.opset >= since:
            return self.op(operator, x, np.array(axes), **attributes)
        return self.op(operator, x, axes=axes, **attributes)

    def mean(self, x, axes, keepdims=1):
        return self.with_axes("ReduceMean", x, axes, 18, keepdims=keepdims)

    def clip(self, x, low, high):
        if self.opset >= 11:
            return self.op("Clip", x, float(low), float(high))
        return self.op("Clip", x, min=float(low), max=float(high))

    def model(self, y):
        kind = helper.np_dtype_to_tensor_dtype(self.dtype)
        graph = helper.make_graph(
            [*self.nodes, helper.make_node("Identity", [y], ["y"])],
            "g",
            [helper.make_tensor_value_info("x", kind, self.shape)],
            [helper.make_tensor_value_info("y", kind, None)],
            [numpy_helper.from_array(array, name) for name, array in self.weights.items()],
        )
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=IR_VERSIONS[self.opset]
        )
        del model.graph.output[0].type.tensor_type.shape.dim[:]
        model.graph.output[0].type.tensor_type.ClearField("shape")
        return onnx.shape_inference.infer_shapes(model)


def in_float32(model):
    """The same graph in FP32; its numbers are those of the file, and finite where they are."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    others = (TensorProto.FLOAT16, TensorProto.DOUBLE)
    largest = np.finfo(np.float32).max
    for weight in model.graph.initializer:
        if weight.data_type in others:
            array = numpy_helper.to_array(weight)
            numbers = np.where(np.isinf(array), array, np.clip(array, -largest, largest)).astype(np.float32)
            weight.CopyFrom(numpy_helper.from_array(numbers, weight.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT
    del model.graph.value_info[:]
    return model


def decibels(expected, got):
    noise = np.square(got - expected).sum()
    return math.inf if noise == 0 else 10 * math.log10(np.square(expected).sum() / noise)


def optimized(model, tmp_path):
    onnx.save(model, tmp_path / "m.onnx")
    return optimize(graph_from_onnx(tmp_path / "m.onnx"))


def require_unchanged(run_in_onnxruntime, model, tmp_path, shape=SHAPE):
    """The outputs of the optimized graph are those of the original; returns the optimized operators."""
    x = (np.random.default_rng(1).standard_normal(shape) * 2).astype(np.float16).astype(np.float32)
    (expected,) = run_in_onnxruntime(in_float32(model), {"x": x})
    graph = optimized(model, tmp_path)
    (got,) = run_in_onnxruntime(graph, {"x": x})
    operators = [node.op_type for node in graph.graph]
    finite = np.isfinite(expected)
    assert got.shape == expected.shape
    np.testing.assert_array_equal(got[~finite], expected[~finite], str(operators))
    assert decibels(expected[finite].astype(np.float64), got[finite]) > 80, operators
    return operators
