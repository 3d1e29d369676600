"""Small graphs of one operator each, over its attributes; many in one model, so that a backend builds them at once."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

OPSET = 20
IMAGE = (2, 8, 9, 10)
WINDOWS = ((2, 2, 0, 0), (3, 2, 0, 0), (3, 2, 1, 1), (3, 1, 1, 1), (2, 3, 1, 1), (3, 3, 0, 1), (2, 1, 1, 0))
"""Kernel, stride, and pads at the start and end of a pooling's axes."""


def floats(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def weights(*shape: int, seed: int = 1) -> np.ndarray:
    """Weights that keep activations near 1."""
    return (floats(*shape, seed=seed) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


class Graph(NamedTuple):
    """Nodes with the arrays that they read; ``inputs`` are the graph's inputs, ``constants`` its initializers."""

    name: str
    nodes: tuple[onnx.NodeProto, ...]
    inputs: dict[str, np.ndarray]
    constants: dict[str, np.ndarray]
    outputs: tuple[str, ...] = ("y",)


def merged(graphs: Sequence[Graph]) -> onnx.ModelProto:
    """One model of several graphs; the names of graph i start with ``gi.``."""
    nodes, inputs, outputs, constants = [], [], [], []
    for index, graph in enumerate(graphs):
        for node in graph.nodes:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copy.name = f"g{index}.{node.name or node.output[0]}"
            for names in (copy.input, copy.output):
                names[:] = [f"g{index}.{name}" if name else "" for name in names]
            nodes.append(copy)
        inputs += [_input(f"g{index}.{name}", array) for name, array in graph.inputs.items()]
        outputs += [helper.make_empty_tensor_value_info(f"g{index}.{name}") for name in graph.outputs]
        constants += [numpy_helper.from_array(array, f"g{index}.{name}") for name, array in graph.constants.items()]
    graph_proto = helper.make_graph(nodes, "merged", inputs, outputs, constants)
    model = helper.make_model(graph_proto, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    types = {value.name: value.type.tensor_type.elem_type for value in inferred.graph.output}
    for value in model.graph.output:
        value.type.tensor_type.elem_type = types[value.name]
    return model


def feeds_of(graphs: Sequence[Graph]) -> dict[str, np.ndarray]:
    """The inputs of `merged`."""
    return {f"g{index}.{name}": array for index, graph in enumerate(graphs) for name, array in graph.inputs.items()}


def _input(name: str, array: np.ndarray) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)


def single(
    operator: str,
    attributes: dict[str, Any],
    inputs: dict[str, np.ndarray],
    constants: dict[str, np.ndarray] | None = None,
    order: Sequence[str] = (),
) -> Graph:
    """A graph of one operator; its inputs are in the order of ``inputs`` and ``constants`` unless given."""
    fixed = constants or {}
    node = helper.make_node(operator, list(order or (*inputs, *fixed)), ["y"], **attributes)
    settings = ",".join(f"{name}={value}" for name, value in attributes.items()).replace(" ", "")
    sizes = ",".join("x".join(map(str, array.shape)) for array in inputs.values())
    small = ",".join(str(array.tolist()).replace(" ", "") for array in fixed.values() if 0 < array.size < 9)
    return Graph(f"{operator}({sizes})[{settings}]{small}", (node,), inputs, fixed)


def float_graphs() -> dict[str, list[Graph]]:
    """Graphs for FP32, by group."""
    return {
        "poolings": list(_poolings()),
        "resizes": list(_resizes()),
        "reductions": list(_reductions()),
        "products": list(_products()),
        "normalizations": list(_normalizations()),
        "elements": list(_elements()),
        "transforms": list(_transforms()),
    }


def _pooling_settings(rank: int) -> Iterator[tuple[str, dict[str, Any]]]:
    for operator in ("MaxPool", "AveragePool", "LpPool"):
        for (kernel, stride, begin, end), ceil in itertools.product(WINDOWS, (0, 1)):
            window = {"kernel_shape": [kernel] * rank, "strides": [stride] * rank, "ceil_mode": ceil}
            window["pads"] = [begin] * rank + [end] * rank
            for counted in (0, 1) if operator == "AveragePool" else (None,):
                yield operator, window if counted is None else {**window, "count_include_pad": counted}
        for how in ("SAME_UPPER", "SAME_LOWER", "VALID"):
            yield operator, {"kernel_shape": [3] * rank, "strides": [2] * rank, "auto_pad": how}


def _poolings() -> Iterator[Graph]:
    for shape in ((1, 2, 7, 8), (2, 3, 9)):
        for operator, settings in _pooling_settings(len(shape) - 2):
            yield single(operator, settings, {"x": floats(*shape)})
            if settings.get("kernel_shape", [0])[0] == 3 and "auto_pad" not in settings:
                wide = {**settings, "dilations": [2] * (len(shape) - 2)}
                yield single(operator, wide, {"x": floats(*shape)})
        for operator in ("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"):
            yield single(operator, {}, {"x": floats(*shape)})


def _resizes() -> Iterator[Graph]:
    x = {"x": floats(2, 3, 6, 8)}
    plain = ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel", "half_pixel_symmetric")
    for mode, where, scales in itertools.product(
        ("nearest", "linear", "cubic"), plain, ((2, 2), (0.5, 0.4), (1.7, 0.6))
    ):
        settings = {"mode": mode, "coordinate_transformation_mode": where}
        whole = {"s": np.asarray((1, 1, *scales), np.float32)}
        yield single("Resize", settings, x, whole, ("x", "", "s"))
        if mode != "nearest":
            yield single("Resize", {**settings, "antialias": 1}, x, whole, ("x", "", "s"))
    for how in ("round_prefer_ceil", "floor", "ceil"):
        yield single(
            "Resize", {"nearest_mode": how}, x, {"s": np.asarray((1, 1, 1.7, 0.6), np.float32)}, ("x", "", "s")
        )
    crop = {"coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": 9.0}
    for mode in ("nearest", "linear", "cubic"):
        roi = {"roi": np.asarray((0, 0, 0.1, -0.2, 1, 1, 0.9, 1.3), np.float32)}
        yield single("Resize", {"mode": mode, **crop}, x, {**roi, "s": np.asarray((1, 1, 2, 2), np.float32)})
        for policy in ("not_larger", "not_smaller"):
            kept = {"mode": mode, "axes": [2, 3], "keep_aspect_ratio_policy": policy}
            yield single("Resize", kept, x, {"z": np.asarray((9, 5))}, ("x", "", "", "z"))
        sizes = {"z": np.asarray((2, 3, 11, 5))}
        yield single("Resize", {"mode": mode}, x, sizes, ("x", "", "", "z"))
    small = {"s": np.asarray((1, 1, 1.6, 0.7), np.float32)}
    yield single("Resize", {"mode": "cubic", "exclude_outside": 1}, x, small, ("x", "", "s"))
    yield single("Resize", {"mode": "cubic", "cubic_coeff_a": -0.5}, x, small, ("x", "", "s"))
    for shape, scales in (((6, 8), (1.5, 2)), ((2, 3, 9), (1, 1, 1.7)), ((1, 2, 3, 4, 5), (1, 1, 2, 1.5, 0.6))):
        for mode in ("nearest", "linear"):
            whole = {"s": np.asarray(scales, np.float32)}
            yield single("Resize", {"mode": mode}, {"x": floats(*shape)}, whole, ("x", "", "s"))


def _reductions() -> Iterator[Graph]:
    for name in "L1 L2 LogSum LogSumExp Max Mean Min Prod Sum SumSquare".split():
        data = np.abs(floats(2, 3, 6, 8)) + 0.5
        data = data if name == "LogSum" else data * np.sign(floats(2, 3, 6, 8))
        for axes, kept in itertools.product(([0], [1], [3], [0, 1], [2, 3], [0, 2, 3], [-2, -1], [0, 1, 2, 3]), (0, 1)):
            yield single(f"Reduce{name}", {"keepdims": kept}, {"x": data}, {"a": np.asarray(axes)})
        for shape in ((4,), (2, 3), (2, 3, 4), (1, 2, 3, 4, 2)):
            vector = np.abs(floats(*shape)) + 0.5
            yield single(f"Reduce{name}", {"keepdims": 0}, {"x": vector}, {"a": np.asarray([0])})
        yield single(f"Reduce{name}", {}, {"x": data})
        yield single(f"Reduce{name}", {"noop_with_empty_axes": 1}, {"x": data})
    ties = np.asarray([[1, 3, 3, 2], [2, 2, 1, 2]], np.float32)
    for operator, axis, last in itertools.product(("ArgMax", "ArgMin"), (0, 1, -1), (0, 1)):
        yield single(operator, {"axis": axis, "select_last_index": last}, {"x": ties})
    for axis, exclusive, reverse in itertools.product((0, -1), (0, 1), (0, 1)):
        settings = {"exclusive": exclusive, "reverse": reverse}
        yield single("CumSum", settings, {"x": floats(2, 3, 4)}, {"a": np.asarray(axis)})


def _products() -> Iterator[Graph]:
    pairs = [((4,), (4,)), ((4,), (4, 3)), ((3, 4), (4,)), ((2, 3, 4), (4,)), ((4,), (2, 4, 3)), ((2, 3, 4), (4, 5))]
    for a, b in (*pairs, ((3, 4), (2, 4, 5)), ((2, 1, 3, 4), (5, 4, 2))):
        yield single("MatMul", {}, {"a": floats(*a), "b": floats(*b, seed=1)})
        yield single("MatMul", {}, {"a": floats(*a)}, {"b": floats(*b, seed=1)})
        yield single("MatMul", {}, {"b": floats(*b)}, {"a": floats(*a, seed=1)}, ("a", "b"))
    for left, right, added in itertools.product((0, 1), (0, 1), ((5,), (3, 5), (3, 1), (1,), ())):
        a, b = floats(*((4, 3) if left else (3, 4))), floats(*((5, 4) if right else (4, 5)), seed=1)
        settings = {"transA": left, "transB": right, "alpha": 0.5, "beta": 2.0}
        yield single("Gemm", settings, {"a": a}, {"b": b, "c": floats(*added, seed=2)})
    x = {"x": floats(2, 3, 6, 8)}
    for settings, shape in _convolutions(3):
        yield single("Conv", settings, x, {"w": floats(*shape, seed=1), "b": floats(shape[0], seed=2)})
    for settings, shape in _transposed_convolutions(3):
        yield single("ConvTranspose", settings, x, {"w": floats(*shape, seed=6)})
    for shape, kernel in (((2, 3, 9), (4, 3, 3)), ((1, 2, 5, 6, 7), (3, 2, 3, 3, 3))):
        for how in ("NOTSET", "SAME_UPPER", "SAME_LOWER"):
            settings = {"auto_pad": how, "strides": [2] * (len(shape) - 2)}
            yield single("Conv", settings, {"x": floats(*shape)}, {"w": floats(*kernel, seed=1)})


def _convolutions(channels: int) -> Iterator[tuple[dict[str, Any], tuple[int, ...]]]:
    c = channels
    yield {}, (8, c, 3, 3)
    yield {"group": c}, (2 * c, 1, 3, 3)
    yield {"dilations": [2, 1]}, (8, c, 3, 2)
    for how in ("SAME_UPPER", "SAME_LOWER", "VALID"):
        yield {"auto_pad": how, "strides": [2, 2]}, (8, c, 3, 2)
    yield {"pads": [1, 0, 2, 1]}, (8, c, 3, 3)
    yield {"strides": [3, 2], "pads": [2, 2, 2, 2]}, (8, c, 5, 5)
    yield {"strides": [2, 2]}, (8, c, 1, 1)
    yield {"pads": [1, 1, 1, 1]}, (8, c, 1, 1)


def _transposed_convolutions(channels: int) -> Iterator[tuple[dict[str, Any], tuple[int, ...]]]:
    c = channels
    yield {}, (c, 4, 3, 3)
    yield {"group": c}, (c, 2, 3, 3)
    yield {"dilations": [2, 1]}, (c, 4, 3, 2)
    for how in ("SAME_UPPER", "SAME_LOWER"):
        yield {"auto_pad": how, "strides": [2, 2]}, (c, 4, 3, 3)
    yield {"pads": [1, 0, 2, 1]}, (c, 4, 3, 3)
    yield {"strides": [3, 2], "pads": [2, 2, 2, 2], "output_padding": [1, 1]}, (c, 4, 5, 5)
    yield {"strides": [2, 2]}, (c, 4, 2, 2)


def _normalizations() -> Iterator[Graph]:
    for shape in ((3, 4), (2, 3, 4), (2, 3, 4, 5)):
        x = {"x": floats(*shape)}
        for axis in range(-len(shape), len(shape)):
            for operator in ("Softmax", "LogSoftmax", "Hardmax"):
                yield single(operator, {"axis": axis}, x)
            part = shape[axis:]
            parts = {"s": floats(*part, seed=1), "b": floats(*part, seed=2)}
            yield single("LayerNormalization", {"axis": axis}, x, parts)
            yield single("LpNormalization", {"axis": axis, "p": 1}, x)
            yield single("LpNormalization", {"axis": axis}, x)
        if len(shape) > 2:
            parts = {"s": floats(3, seed=1), "b": floats(3, seed=2)}
            yield single("InstanceNormalization", {}, x, parts)
    for size in (1, 3, 5):
        yield single("LRN", {"size": size, "alpha": 0.5}, {"x": floats(2, 5, 4, 4) * 9})


def _elements() -> Iterator[Graph]:
    edge = np.asarray([-9, -3.5, -2.5, -1.5, -0.5, -0.3, 0, 0.3, 0.5, 1.5, 2.5, 3.5, 9, 40], np.float32)
    for operator in (
        "Abs Atan Ceil Celu Cos Elu Erf Floor Gelu HardSigmoid HardSwish LeakyRelu Mish Neg Relu Round Selu Shrink "
        "Sigmoid Sign Sin Softplus Softsign Tanh ThresholdedRelu"
    ).split():
        yield single(operator, {}, {"x": edge})
    yield single("HardSigmoid", {"alpha": 0.4, "beta": 0.0}, {"x": edge})
    x = {"x": floats(2, 3, 6, 8)}
    for mode in ("constant", "reflect", "edge"):
        for pads in ([0, 0, 1, 2, 0, 0, 2, 1], [0, 0, 0, -1, 0, 0, -2, 0], [1, 1, 0, 0, 0, 1, 0, 0]):
            yield single("Pad", {"mode": mode}, x, {"p": np.asarray(pads)})
    for start, end, axis, step in ((0, 3, 1, 1), (-1, -9, 2, -1), (5, 0, 3, -2), (-100, 100, 2, 3)):
        cut = {"s": [start], "e": [end], "a": [axis], "t": [step]}
        yield single("Slice", {}, x, {name: np.asarray(numbers) for name, numbers in cut.items()})
    for axis in (0, 1, -1):
        yield single("Concat", {"axis": axis}, {"a": floats(2, 3, 4), "b": floats(2, 3, 4, seed=1)})
        yield single("Flatten", {"axis": axis}, {"x": floats(2, 3, 4)})
    numbers = {"x": np.asarray([-4, 7, 5, 4, -7, 8]), "b": np.asarray([2, -3, 8, -2, 3, 5])}
    yield single("Mod", {}, numbers)
    yield single("Max", {}, {"x": floats(2, 3)})
    yield single("Sum", {}, {"x": floats(2, 3)})


def _transforms() -> Iterator[Graph]:
    real, both = {"x": floats(2, 6, 5, 1)}, {"x": floats(2, 6, 5, 2)}
    for axis in (0, 1, 2, -2, -3):
        along = {"a": np.asarray(axis)}
        for data, settings in ((real, {}), (both, {}), (both, {"inverse": 1}), (real, {"onesided": 1})):
            yield single("DFT", settings, data, along, ("x", "", "a"))
            for length in (4, 8):
                yield single("DFT", settings, data, {"n": np.asarray(length), **along}, ("x", "n", "a"))
    yield single("DFT", {}, {"x": floats(3, 8, 1)})
    yield single("STFT", {}, {"x": floats(1, 32, 1)}, {"step": np.asarray(4), "w": np.hanning(8).astype(np.float32)})


def quantized_graphs() -> dict[str, list[Graph]]:
    """Graphs for INT8, by group: a convolution, an activation function, an operator, and another product."""
    return {
        "poolings": list(_quantized_poolings()),
        "reductions": list(_quantized_reductions()),
        "resizes": list(_quantized_resizes()),
        "selections": list(_quantized_selections()),
        "elements": list(_quantized_elements()),
        "products": list(_quantized_products()),
    }


def chain(
    operator: str,
    attributes: dict[str, Any],
    constants: dict[str, np.ndarray] | None = None,
    *,
    shape: tuple[int, ...] = IMAGE,
    activation: str = "Relu",
    second: str = "",
    outputs: int = 1,
) -> Graph:
    """``x -> Conv -> activation -> operator -> product``; ``second`` is another input: x, branch or itself."""
    rank, fixed = len(shape) - 2, constants or {}
    arrays = {"w1": weights(8, shape[1], *[3] * rank), "b1": weights(8, seed=3), **fixed}
    nodes = [helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], pads=[1] * 2 * rank)]
    slope = {"alpha": 0.2} if activation == "LeakyRelu" else {}
    nodes.append(helper.make_node(activation, ["c1"], ["r1"], **slope))
    inputs = ["r1"]
    if second == "branch":
        arrays["w2"] = weights(8, shape[1], *[3] * rank, seed=5)
        nodes.append(helper.make_node("Conv", ["x", "w2", "b1"], ["c2"], pads=[1] * 2 * rank))
    if second:
        inputs.append({"branch": "c2", "input": "x", "itself": "r1"}[second])
    results = [f"o{index}" for index in range(outputs)]
    nodes.append(helper.make_node(operator, [*inputs, *fixed], results, name="op", **attributes))
    graph = Graph("", tuple(nodes), {"x": floats(*shape, seed=7)}, arrays, tuple(results))
    tails = _tails(graph, rank)
    settings = ",".join(f"{name}={value}" for name, value in attributes.items()).replace(" ", "")
    small = ",".join(str(array.tolist()).replace(" ", "") for array in fixed.values() if 0 < array.size < 9)
    name = f"{operator}({'x'.join(map(str, shape))},{activation},{second})[{settings}]{small}"
    return graph._replace(name=name, nodes=(*nodes, *tails[0]), constants={**arrays, **tails[1]}, outputs=tails[2])


def _tails(graph: Graph, rank: int) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray], tuple[str, ...]]:
    """Products that read the operator's outputs, as far as the shapes allow."""
    inferred = onnx.shape_inference.infer_shapes(merged([graph]), data_prop=True)
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in inferred.graph.output}
    nodes, arrays, outputs = [], {}, []
    for name in graph.outputs:
        sizes, tail = shapes[f"g0.{name}"], f"t_{name}"
        if len(sizes) == rank + 2 and all(sizes):
            arrays[f"w_{name}"] = weights(8, sizes[1], *[3] * rank, seed=9)
            nodes.append(helper.make_node("Conv", [name, f"w_{name}"], [tail], pads=[1] * 2 * rank))
        elif len(sizes) > 1 and sizes[-1]:
            arrays[f"w_{name}"] = weights(sizes[-1], 8, seed=9)
            nodes.append(helper.make_node("MatMul", [name, f"w_{name}"], [tail]))
        outputs.append(tail if f"w_{name}" in arrays else name)
    return nodes, arrays, tuple(outputs)


def _quantized_poolings() -> Iterator[Graph]:
    for shape in (IMAGE, (2, 8, 12)):
        for activation in ("Relu", "LeakyRelu"):
            for operator, settings in _pooling_settings(len(shape) - 2):
                some = activation == "Relu" and shape == IMAGE
                # ONNX Runtime cannot run what follows such windows: ONNX infers another shape than it computes.
                behind = (
                    settings.get("ceil_mode")
                    and settings["pads"][-1] + settings["strides"][0] > settings["kernel_shape"][0]
                )
                if operator != "LpPool" and not behind and (some or settings["kernel_shape"][0] == 3):
                    yield chain(operator, settings, shape=shape, activation=activation)
            for operator in ("GlobalAveragePool", "GlobalMaxPool"):
                yield chain(operator, {}, shape=shape, activation=activation)
    wide = {"kernel_shape": [3, 3], "dilations": [2, 2]}
    for operator, more in itertools.product(("MaxPool", "AveragePool"), ({}, {"ceil_mode": 1}, {"pads": [1, 1, 1, 1]})):
        yield chain(operator, {**wide, **more})


def _quantized_reductions() -> Iterator[Graph]:
    for operator, kept in itertools.product(("ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum"), (0, 1)):
        for axes in ([0], [1], [2], [3], [2, 3], [0, 1], [0, 2, 3], [1, 2, 3], [-2, -1]):
            yield chain(operator, {"keepdims": kept}, {"a": np.asarray(axes)}, activation="LeakyRelu")
    for operator in ("ReduceMean", "ReduceMax"):
        yield chain(operator, {}, {"a": np.asarray([2, 3])}, activation="Gelu")


def _quantized_resizes() -> Iterator[Graph]:
    where = ("half_pixel", "asymmetric", "align_corners")
    for coordinates, how, scales in itertools.product(
        where, ("round_prefer_floor", "floor", "ceil"), ((2, 2), (1.7, 0.6))
    ):
        settings = {"mode": "nearest", "coordinate_transformation_mode": coordinates, "nearest_mode": how}
        fixed = {"r": np.empty(0, np.float32), "s": np.asarray((1, 1, *scales), np.float32)}
        yield chain("Resize", settings, fixed)
    shrunk = {"r": np.empty(0, np.float32), "s": np.asarray((1, 1, 0.6, 0.5), np.float32)}
    for antialias in (0, 1):
        yield chain("Resize", {"mode": "linear", "antialias": antialias}, shrunk)
    beyond = {"r": np.asarray((0, 0, -0.5, -0.5, 1, 1, 1.5, 1.5), np.float32), "s": np.ones(4, np.float32)}
    for mode, number in itertools.product(("nearest", "linear"), (0.0, 9.0)):
        crop = {"coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": number}
        yield chain("Resize", {"mode": mode, **crop}, beyond)


def _quantized_selections() -> Iterator[Graph]:
    for activation in ("Relu", "LeakyRelu"):
        for axis, second in itertools.product((0, 1, 2, -1), ("branch", "itself", "input")):
            yield chain("Concat", {"axis": axis}, second=second, activation=activation)
        for order in ([0, 2, 3, 1], [1, 0, 2, 3], [0, 1, 3, 2]):
            yield chain("Transpose", {"perm": order}, activation=activation)
        for axis in (1, 2, 3):
            yield chain("Flatten", {"axis": axis}, activation=activation)
        for shape in ([2, -1], [0, 4, 2, 9, 10], [0, -1, 10]):
            yield chain("Reshape", {}, {"s": np.asarray(shape)}, activation=activation)
        for start, end, axis, step in ((0, 3, 1, 1), (-1, -9, 2, -1), (1, 100, 3, 2)):
            cut = {"s": [start], "e": [end], "a": [axis], "t": [step]}
            yield chain("Slice", {}, {name: np.asarray(each) for name, each in cut.items()}, activation=activation)
        for axis, sizes in ((1, [3, 5]), (2, [4, 5]), (0, [1, 1])):
            yield chain("Split", {"axis": axis}, {"s": np.asarray(sizes)}, activation=activation, outputs=2)
        for mode, pads in itertools.product(
            ("constant", "reflect"), ([0, 0, 1, 1, 0, 0, 1, 1], [0, 1, 0, 0, 0, 0, 0, 0])
        ):
            yield chain("Pad", {"mode": mode}, {"p": np.asarray(pads)}, activation=activation)


def _quantized_elements() -> Iterator[Graph]:
    for activation in ("Relu", "LeakyRelu"):
        for operator, second in itertools.product(("Add", "Mul", "Sub", "Max"), ("branch", "input", "itself")):
            if (operator, second) != ("Sub", "itself"):
                yield chain(operator, {}, second=second, activation=activation)
        for operator, shape in itertools.product(("Add", "Mul", "Sub", "Div"), ((), (10,), (8, 1, 1), (1, 8, 1, 1))):
            constant = {"k": (np.abs(floats(*shape, seed=4)) + 0.5).astype(np.float32)}
            yield chain(operator, {}, constant, activation=activation)
        for operator, settings in (
            ("LeakyRelu", {"alpha": 0.1}),
            ("Sigmoid", {}),
            ("HardSwish", {}),
            ("HardSigmoid", {}),
            ("Gelu", {}),
            ("Tanh", {}),
            ("Softmax", {"axis": 1}),
            ("Softmax", {"axis": -1}),
        ):
            yield chain(operator, settings, activation=activation)
        for low, high in ((0, 6), (-1, 1), (0.5, 1)):
            yield chain("Clip", {}, {"l": np.float32(low), "h": np.float32(high)}, activation=activation)


def _quantized_products() -> Iterator[Graph]:
    for settings, shape in _convolutions(8):
        if shape[-1] > 1:  # with a window of 1 x 1 and a stride or pads, OpenVINO refuses integers
            for activation in ("Relu", "LeakyRelu"):
                yield chain("Conv", settings, {"w": weights(*shape)}, activation=activation)
    for settings, shape in _transposed_convolutions(8):
        yield chain("ConvTranspose", settings, {"w": weights(*shape, seed=6)})
    for shape in ((10,), (10, 5), (8, 10, 5), (2, 8, 10, 5)):
        yield chain("MatMul", {}, {"w": floats(*shape, seed=1) / 3})
    for shape in ((2, 8, 12), (1, 8, 5, 6, 7)):
        for more in ({}, {"strides": [2] * (len(shape) - 2)}, {"auto_pad": "SAME_UPPER"}):
            yield chain("Conv", more, {"w": weights(8, 8, *[3] * (len(shape) - 2))}, shape=shape)


def original_outputs(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Runs the model in ONNX Runtime without optimizations."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip((each.name for each in session.get_outputs()), session.run(None, feeds), strict=True))
