"""Graphs of one operator in older opsets, over the settings in which the operator's meaning could change."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


class Case(NamedTuple):
    """One operator with its arrays; ``constants`` are initializers, ``inputs`` are inputs of the graph."""

    operator: str
    opset: int
    inputs: dict[str, np.ndarray]
    order: tuple[str, ...]
    attributes: dict[str, Any]
    constants: dict[str, np.ndarray]
    outputs: int = 1
    used: tuple[int, ...] = (0,)

    def __str__(self) -> str:
        settings = ",".join(f"{name}={value}" for name, value in self.attributes.items()).replace(" ", "")
        sizes = ",".join("x".join(map(str, array.shape)) for array in self.inputs.values())
        fixed = ",".join(str(a.tolist()).replace(" ", "") for a in self.constants.values() if a.size < 9)
        return f"{self.operator}-{self.opset}({sizes})[{settings}]{fixed}"

    def model(self) -> onnx.ModelProto:
        """The model; outputs have a type and no shape."""
        names = [f"y{index}" for index in range(self.outputs)]
        node = helper.make_node(self.operator, list(self.order), names, name="the_node", **self.attributes)
        graph = helper.make_graph(
            [node],
            "g",
            [
                helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
                for name, array in self.inputs.items()
            ],
            [helper.make_empty_tensor_value_info(names[index]) for index in self.used],
            [numpy_helper.from_array(array, name) for name, array in self.constants.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)
        inferred = onnx.shape_inference.infer_shapes(model)
        types = {value.name: value.type.tensor_type.elem_type for value in inferred.graph.output}
        for value in model.graph.output:
            value.type.tensor_type.elem_type = types[value.name] or FLOAT
        return model


def floats(*shape: int, seed: int = 0, dtype: type = np.float32) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def _versions(operator: str, first: int = 7, last: int = 19) -> list[int]:
    """The first and the last opset of each version of an operator, from opset 7 to 19."""
    since = [
        schema.since_version
        for schema in onnx.defs.get_all_schemas_with_history()
        if schema.name == operator and schema.domain == "" and not schema.deprecated
    ]
    starts = sorted({max(version, first) for version in since if version <= last})
    ends = [version - 1 for version in sorted(since) if first < version <= last]
    return sorted({*starts, *(end for end in ends if end >= starts[0]), last})


def _cases(
    operator: str,
    inputs: dict[str, np.ndarray],
    *settings: dict[str, Any],
    constants: dict[str, np.ndarray] | None = None,
    first: int = 7,
    last: int = 19,
    outputs: int = 1,
    used: tuple[int, ...] | None = None,
) -> Iterator[Case]:
    fixed = constants or {}
    order = (*inputs, *fixed)
    for opset in _versions(operator, first, last):
        for attributes in settings or ({},):
            yield Case(
                operator,
                opset,
                inputs,
                order,
                attributes,
                fixed,
                outputs,
                tuple(range(outputs)) if used is None else used,
            )


def all_cases() -> list[Case]:
    """The cases, in an order that does not change."""
    return [
        *_coerced(),
        *_resized(),
        *_elementwise(),
        *_indexed(),
        *_attributes_to_inputs(),
        *_pooled(),
        *_normalized(),
        *_recurrent(),
    ]


def _coerced() -> Iterator[Case]:
    for operator in ("Softmax", "LogSoftmax", "Hardmax"):
        for shape in ((5,), (3, 4), (2, 3, 4), (2, 3, 4, 2)):
            axes = ({}, *({"axis": axis} for axis in range(len(shape))))
            x = {"x": floats(*shape)}
            # axis -1 was allowed since opset 11; without the attribute it was 1 before 13, and a vector has no axis 1
            yield from _cases(operator, x, *(axes if len(shape) > 1 else axes[1:]), last=12)
            yield from _cases(operator, x, *({"axis": -1 - axis} for axis in range(len(shape))), first=11)
    yield from _cases("Flatten", {"x": floats(2, 3, 4)}, {}, {"axis": 0}, {"axis": 1}, {"axis": 2}, {"axis": 3})


def _resized() -> Iterator[Case]:
    x = {"x": floats(1, 2, 5, 6)}
    for mode in ("nearest", "linear"):
        for scales in ((2.0, 2.0), (1.7, 1.7), (1.0, 2.5), (1.0, 1.0), (3.0, 1.0)):
            whole = np.asarray((1.0, 1.0, *scales), np.float32)
            yield Case("Upsample", 7, x, ("x",), {"mode": mode, "scales": whole.tolist()}, {})
            yield Case("Upsample", 8, x, ("x",), {"mode": mode, "scales": whole.tolist()}, {})
            yield Case("Upsample", 9, x, ("x", "s"), {"mode": mode}, {"s": whole})
            yield Case("Upsample", 9, {**x, "s": whole}, ("x", "s"), {"mode": mode}, {})
        for scales in ((2.0, 2.0), (1.7, 1.7), (0.5, 0.5), (0.6, 1.7), (2.3, 0.4), (1.0, 0.35), (1.0, 1.0)):
            whole = np.asarray((1.0, 1.0, *scales), np.float32)
            yield Case("Resize", 10, x, ("x", "s"), {"mode": mode}, {"s": whole})
            yield Case("Resize", 10, {**x, "s": whole}, ("x", "s"), {"mode": mode}, {})
    yield Case("Resize", 10, {"x": floats(4, 6)}, ("x", "s"), {}, {"s": np.asarray((1.5, 0.7), np.float32)})
    yield from _cases(
        "Resize",
        x,
        *(
            {"mode": mode, "coordinate_transformation_mode": coordinates}
            for mode in ("nearest", "linear", "cubic")
            for coordinates in ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")
        ),
        *({"mode": "nearest", "nearest_mode": how} for how in ("floor", "ceil", "round_prefer_ceil")),
        constants={"roi": np.empty(0, np.float32), "s": np.asarray((1, 1, 1.7, 0.6), np.float32)},
        first=11,
    )
    roi = {"roi": np.asarray((0, 0, 0.1, -0.2, 1, 1, 0.9, 1.3), np.float32)}
    crop = {"coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": 9.0, "mode": "linear"}
    yield from _cases("Resize", x, crop, constants={**roi, "s": np.asarray((1, 1, 2, 2), np.float32)}, first=11)
    old = {"coordinate_transformation_mode": "tf_half_pixel_for_nn", "mode": "nearest"}
    yield Case(
        "Resize",
        11,
        x,
        ("x", "roi", "s"),
        old,
        {"roi": np.empty(0, np.float32), "s": np.asarray((1, 1, 1.7, 2), np.float32)},
    )
    grid = {"x": floats(1, 2, 4, 5), "g": np.random.default_rng(1).uniform(-1.2, 1.2, (1, 3, 4, 2)).astype(np.float32)}
    yield from _cases(
        "GridSample",
        grid,
        {},
        *(
            {"mode": mode, "align_corners": corners}
            for mode in ("bilinear", "nearest", "bicubic")
            for corners in (0, 1)
        ),
        *({"padding_mode": how} for how in ("border", "reflection")),
        first=16,
    )
    boxes = {"r": np.asarray([[0, 0, 3, 3], [1, 1, 4, 5]], np.float32), "b": np.zeros(2, np.int64)}
    sizes = {"output_height": 2, "output_width": 3, "spatial_scale": 0.7}
    yield from _cases(
        "RoiAlign",
        {"x": floats(1, 2, 6, 7)},
        *({**sizes, "sampling_ratio": n} for n in (0, 2)),
        constants=boxes,
        first=10,
    )


def _elementwise() -> Iterator[Case]:
    yield from _functions()
    yield from _broadcast()
    yield from _typed()


def _functions() -> Iterator[Case]:
    x, positive = {"x": floats(2, 3, 4)}, {"x": np.abs(floats(2, 3, 4)) + 0.1}
    for operator in (
        "Abs Ceil Exp Floor Identity LeakyRelu Neg Reciprocal Relu Sigmoid Tanh Elu Selu Softplus Softsign HardSigmoid"
    ).split():
        yield from _cases(operator, x)
    for operator in ("Log", "Sqrt"):
        yield from _cases(operator, positive)
    for operator in ("Erf", "Sign", "IsNaN"):
        yield from _cases(operator, x, first=9)
    odd = np.asarray([np.inf, -np.inf, np.nan, 1], np.float32)
    yield from _cases("IsInf", {"x": odd}, {}, {"detect_negative": 0}, first=10)
    yield from _cases("LeakyRelu", x, {"alpha": 0.3})


def _broadcast() -> Iterator[Case]:
    x, positive = {"x": floats(2, 3, 4)}, {"x": np.abs(floats(2, 3, 4)) + 0.1}
    for shape in ((2, 3, 4), (4,), (3, 1), (1,), ()):
        for operator in ("Add", "Sub", "Mul", "Div"):
            yield from _cases(operator, {**x, "b": floats(*shape, seed=1)})
        yield from _cases("Pow", {**positive, "b": floats(*shape, seed=1)})
        for operator in ("Greater", "Less"):
            yield from _cases(operator, {**x, "b": floats(*shape, seed=1)})
        for operator in ("GreaterOrEqual", "LessOrEqual"):
            yield from _cases(operator, {**x, "b": floats(*shape, seed=1)}, first=12)
        yield from _cases("Equal", {"x": np.arange(24).reshape(2, 3, 4) % 3, "b": np.ones(shape, np.int64)})
        for operator in ("Max", "Min", "Mean", "Sum"):
            yield from _cases(operator, {**x, "b": floats(*shape, seed=1)}, first=7 if shape == (2, 3, 4) else 8)
    for operator in ("Max", "Min", "Mean", "Sum"):
        yield from _cases(operator, {**x, "b": floats(2, 3, 4, seed=1), "c": floats(2, 3, 4, seed=2)})
        yield from _cases(operator, x)
    for shape in ((1,), (3, 1), (2, 3, 4)):
        yield from _cases("PRelu", x, constants={"s": floats(*shape, seed=2)})


def _typed() -> Iterator[Case]:
    x = {"x": floats(2, 3, 4)}
    yield from _cases("Clip", x, {}, {"min": -0.5}, {"max": 0.3}, {"min": 0.0, "max": 6.0}, last=10)
    yield from _cases("Clip", x, constants={"low": np.float32(-0.5) * np.ones((), np.float32)}, first=11)
    yield from _cases("Dropout", x, {}, {"ratio": 0.3}, last=11)
    yield from _cases("Dropout", x, {}, {"ratio": 0.3}, last=11, outputs=2, used=(0,))
    yield from _cases("Dropout", x, outputs=2)
    yield from _cases("Dropout", x, first=12)
    yield from _cases("Cast", x, {"to": INT64}, {"to": BOOL}, {"to": TensorProto.DOUBLE})
    yield from _cases("CastLike", {**x, "b": np.ones(1, np.int64)}, first=15)
    yield from _cases("Mod", {"x": np.asarray([5, -5, 7]), "b": np.asarray([3, 3, -4])}, {}, {"fmod": 1}, first=10)
    yield from _cases("Where", {"c": np.asarray([True, False]), "x": floats(2), "z": floats(2, seed=1)}, first=9)
    yield from _cases("CumSum", {**x, "axis": np.asarray(1)}, {}, {"exclusive": 1}, {"reverse": 1}, first=11)
    quantized = {"s": np.float32(0.03) * np.ones((), np.float32), "z": np.asarray(7, np.uint8)}
    yield from _cases("QuantizeLinear", x, constants=quantized, first=10)
    integers = {"x": np.arange(24, dtype=np.uint8).reshape(2, 3, 4)}
    yield from _cases("DequantizeLinear", integers, constants=quantized, first=10)
    by_channel = {"s": np.asarray([0.1, 0.2, 0.3], np.float32), "z": np.asarray([1, 2, 3], np.uint8)}
    yield from _cases("QuantizeLinear", x, {}, {"axis": -2}, constants=by_channel, first=13)
    yield from _cases("DequantizeLinear", integers, {}, {"axis": -2}, constants=by_channel, first=13)


def _indexed() -> Iterator[Case]:
    x, i64 = {"x": floats(3, 4, 5)}, np.int64
    ties = {"x": np.asarray([[1, 3, 3, 2], [2, 2, 1, 2]], np.float32)}
    for operator in ("ArgMax", "ArgMin"):
        for data in (x, ties):
            yield from _cases(operator, data, {}, {"axis": 1}, {"axis": 1, "keepdims": 0})
        yield from _cases(operator, ties, {"axis": -1, "select_last_index": 1}, first=12)
    yield from _cases("Gather", x, {}, {"axis": 1}, {"axis": 2}, constants={"i": np.asarray([[0, 2], [1, 1]])})
    yield from _cases("Gather", x, {"axis": -1}, constants={"i": np.asarray([-1, 0])}, first=11)
    yield from _cases("GatherElements", x, {"axis": 1}, constants={"i": np.zeros((3, 2, 5), i64)}, first=11)
    yield from _cases("GatherND", x, constants={"i": np.asarray([[0, 1], [2, 3]])}, first=11)
    put = {"i": np.asarray([[[1, 0, 2, 0, 1]]]), "u": floats(1, 1, 5, seed=3)}
    yield from _cases("Scatter", x, {}, {"axis": 1}, {"axis": 2}, constants=put, first=9, last=10)
    yield from _cases("ScatterElements", x, {}, {"axis": 1}, {"axis": -1}, constants=put, first=11)
    yield from _cases("ScatterND", x, constants={"i": np.asarray([[0], [2]]), "u": floats(2, 4, 5, seed=3)}, first=11)
    yield from _cases("Compress", x, {}, {"axis": 1}, constants={"c": np.asarray([True, False, True])}, first=9)
    one_hot = {"d": np.asarray(4), "v": np.asarray([-1.0, 2.0], np.float32)}
    yield from _cases("OneHot", {"i": np.asarray([0, 3, 7, -1, -2])}, {}, {"axis": 0}, constants=one_hot, first=9)
    yield from _cases("NonZero", {"x": np.asarray([[0, 1], [2, 0]], np.float32)}, first=9)
    boxes = np.asarray([[[0, 0, 1, 1], [0, 0.1, 1, 1.1], [0, 2, 1, 3]]], np.float32)
    limits = {"n": np.asarray([3]), "o": np.asarray([0.5], np.float32), "t": np.asarray([0.2], np.float32)}
    scores = {"b": boxes, "s": np.asarray([[[0.9, 0.8, 0.7], [0.1, 0.6, 0.3]]], np.float32)}
    yield from _cases("NonMaxSuppression", scores, {}, {"center_point_box": 1}, constants=limits, first=10)
    yield from _cases("Concat", {"a": floats(3, 4, 5), "b": floats(3, 4, 5, seed=1)}, {"axis": 0}, {"axis": 2})
    yield from _cases("Transpose", x, {}, {"perm": [2, 0, 1]})
    yield from _cases("Shape", x)
    yield from _cases("Shape", x, {"start": 1}, {"start": -2, "end": -1}, first=15)
    yield from _cases("Size", x)
    yield from _cases("Reshape", x, constants={"shape": np.asarray([0, -1])})
    yield from _cases("Expand", {"x": floats(3, 1)}, constants={"shape": np.asarray([2, 3, 4])}, first=8)
    yield from _cases("Tile", {"x": floats(3, 2)}, constants={"n": np.asarray([2, 3])})
    yield from _cases("ConstantOfShape", {}, {}, constants={"shape": np.asarray([2, 3])}, first=9)
    for operator, shape in (("DepthToSpace", (1, 8, 2, 3)), ("SpaceToDepth", (1, 2, 4, 6))):
        yield from _cases(operator, {"x": floats(*shape)}, {"blocksize": 2})
    yield from _cases("DepthToSpace", {"x": floats(1, 8, 2, 3)}, {"blocksize": 2, "mode": "CRD"}, first=11)
    yield from _cases("MatMul", {"a": floats(2, 3), "b": floats(3, 4)})
    yield from _cases("TopK", {"x": floats(3, 5)}, {"k": 2}, {"k": 3, "axis": 0}, last=9, outputs=2)
    yield from _cases(
        "TopK", {"x": floats(3, 5)}, {}, {"axis": 0}, constants={"k": np.asarray([2])}, first=10, outputs=2
    )
    yield from _cases(
        "TopK", {"x": floats(3, 5)}, {"largest": 0}, constants={"k": np.asarray([2])}, first=11, outputs=2
    )


def _attributes_to_inputs() -> Iterator[Case]:
    x = {"x": floats(3, 4, 5)}
    for operator in "L1 L2 LogSum LogSumExp Max Mean Min Prod Sum SumSquare".split():
        data = {"x": np.abs(x["x"]) + 0.5} if operator == "LogSum" else x
        settings = ({}, {"axes": [1]}, {"axes": [0, 2], "keepdims": 0}, {"keepdims": 0})
        yield from _cases(f"Reduce{operator}", data, *settings, last=12 if operator == "Sum" else 17)
        yield from _cases(f"Reduce{operator}", data, {"axes": [-1]}, first=11, last=12 if operator == "Sum" else 17)
        yield from _cases(
            f"Reduce{operator}",
            data,
            {},
            {"keepdims": 0},
            {"noop_with_empty_axes": 1},
            constants={"axes": np.asarray([0, -1])},
            first=13 if operator == "Sum" else 18,
        )
    yield from _cases("ReduceSum", x, {}, {"noop_with_empty_axes": 1}, first=13)
    for operator in ("Max", "Min"):
        yield from _cases(f"Reduce{operator}", {"x": np.arange(12).reshape(3, 4)}, {"axes": [1]}, last=17)
    ones = {"x": floats(1, 3, 1, 2)}
    yield from _cases("Squeeze", ones, {}, {"axes": [0]}, {"axes": [0, 2]}, last=12)
    yield from _cases("Squeeze", ones, {"axes": [-2]}, first=11, last=12)
    yield from _cases("Squeeze", ones, constants={"axes": np.asarray([-2])}, first=13)
    yield from _cases("Squeeze", ones, first=13)
    yield from _cases("Unsqueeze", x, {"axes": [0]}, {"axes": [1, 4]}, last=12)
    yield from _cases("Unsqueeze", x, {"axes": [-1]}, first=11, last=12)
    yield from _cases("Unsqueeze", x, constants={"axes": np.asarray([-1, 0])}, first=13)
    cuts = (
        {"starts": [1], "ends": [3]},
        {"starts": [0, 1], "ends": [9, -1], "axes": [0, 2]},
        {"starts": [-2], "ends": [9], "axes": [1]},
    )
    yield from _cases("Slice", x, *cuts, last=9)
    limits = {"starts": np.asarray([-1]), "ends": np.asarray([-9]), "axes": np.asarray([1]), "steps": np.asarray([-2])}
    yield from _cases("Slice", x, constants=limits, first=10)
    yield from _cases("Split", x, {"axis": 1}, {"axis": 1, "split": [2, 2]}, last=12, outputs=2)
    yield from _cases("Split", x, {"axis": 2, "split": [1, 4]}, last=12, outputs=2)
    yield from _cases("Split", x, {"axis": -2}, first=13, last=17, outputs=2)
    yield from _cases("Split", x, {"axis": -1}, constants={"split": np.asarray([1, 3, 1])}, first=13, outputs=3)
    yield from _cases("Split", x, {"axis": -1, "num_outputs": 3}, first=18, outputs=3)
    pads = [0, 1, 2, 0, 1, 0]
    for dtype in (np.float32, np.float64):
        data = {"x": floats(3, 4, 5, dtype=dtype)}
        yield from _cases(
            "Pad", data, {"pads": pads}, {"pads": pads, "value": 1.5}, {"pads": [0, -1, 0, 0, 0, -2]}, last=10
        )
    yield from _cases("Pad", x, *({"pads": pads, "mode": mode} for mode in ("reflect", "edge")), last=10)
    for mode in ("constant", "reflect", "edge"):
        yield from _cases("Pad", x, {"mode": mode}, constants={"pads": np.asarray(pads)}, first=11)
    signal = {"x": floats(2, 6, 4, 1)}
    yield from _cases("DFT", signal, {}, {"axis": 1}, {"axis": 2}, {"onesided": 1}, first=17)
    yield from _cases("DFT", {"x": floats(2, 6, 4, 2)}, {"inverse": 1}, {"axis": 2, "inverse": 1}, first=17)
    yield from _cases("DFT", signal, {"axis": 1}, constants={"n": np.asarray(8)}, first=17)


def _pooled() -> Iterator[Case]:
    x = {"x": floats(1, 2, 7, 8)}
    windows = (
        {"kernel_shape": [2, 2]},
        {"kernel_shape": [3, 3], "strides": [2, 2]},
        {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]},
        {"kernel_shape": [3, 2], "strides": [2, 3], "pads": [0, 1, 1, 0]},
        {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"},
        {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_LOWER"},
    )
    ceil = tuple({**window, "ceil_mode": 1} for window in windows[:4])
    for operator in ("MaxPool", "AveragePool"):
        yield from _cases(operator, x, *windows)
        yield from _cases(operator, x, *ceil, first=10)
    counted = tuple({**window, "count_include_pad": 1} for window in windows)
    yield from _cases("AveragePool", x, *counted)
    yield from _cases("AveragePool", x, *({**window, "count_include_pad": 1} for window in ceil), first=10)
    yield from _cases("MaxPool", x, {"kernel_shape": [2, 2], "dilations": [2, 2]}, first=10)
    yield from _cases("MaxPool", x, windows[2], first=8, outputs=2)
    yield from _cases("LpPool", x, *windows[:4], {**windows[1], "p": 3})
    unpool = {"x": floats(1, 1, 2, 2), "i": np.asarray([[[[0, 3], [9, 15]]]])}
    yield from _cases("MaxUnpool", unpool, {"kernel_shape": [2, 2], "strides": [2, 2]}, first=9)
    weight = {"w": floats(3, 2, 3, 3, seed=4)}
    same = ({"auto_pad": "SAME_UPPER", "strides": [2, 2]}, {"auto_pad": "SAME_LOWER", "strides": [2, 2]})
    yield from _cases("Conv", x, {}, {"pads": [1, 0, 1, 2]}, {"dilations": [2, 1]}, *same, constants=weight)
    weight = {"w": floats(2, 3, 3, 3, seed=4)}
    wide = {"strides": [2, 2], "output_padding": [1, 1]}
    shaped = {"strides": [2, 2], "output_shape": [14, 16]}
    yield from _cases("ConvTranspose", x, {}, {"pads": [1, 0, 1, 2]}, wide, shaped, *same, constants=weight)
    yield from _cases("Gemm", {"a": floats(3, 4), "b": floats(4, 5), "c": floats(5)}, {}, {"alpha": 0.5, "beta": 2.0})
    yield from _cases("Gemm", {"a": floats(4, 3), "b": floats(5, 4), "c": floats(3, 1)}, {"transA": 1, "transB": 1})
    yield from _cases("Gemm", {"a": floats(3, 4), "b": floats(4, 5)}, first=11)


def _normalized() -> Iterator[Case]:
    x = {"x": floats(2, 3, 4, 5)}

    def parameters(*shape: int) -> dict[str, np.ndarray]:
        return {
            **{name: floats(*shape, seed=seed) for seed, name in enumerate(("scale", "shift", "mean"), start=1)},
            "variance": np.abs(floats(*shape, seed=4)) + 0.1,
        }

    yield from _cases("BatchNormalization", x, {}, {"epsilon": 0.1, "momentum": 0.5}, constants=parameters(3))
    yield from _cases("BatchNormalization", x, {"spatial": 1}, constants=parameters(3), last=8)
    apart = ({"spatial": 0}, {"spatial": 0, "epsilon": 0.1})
    yield from _cases("BatchNormalization", x, *apart, constants=parameters(3, 4, 5), last=8)
    yield from _cases("LRN", x, {"size": 3}, {"size": 3, "alpha": 0.1, "beta": 0.5, "bias": 2.0})
    yield from _cases("MeanVarianceNormalization", x, {}, {"axes": [2, 3]}, first=9)
    yield from _cases("InstanceNormalization", x, constants={"s": floats(3), "b": floats(3, seed=1)})
    by_group = {"s": floats(2, seed=1), "b": floats(2, seed=2)}
    for shape in ((2, 4, 3, 5), (2, 6), (1, 8, 3)):
        settings = ({"num_groups": 2}, {"num_groups": 2, "epsilon": 0.1})
        yield from _cases("GroupNormalization", {"x": floats(*shape)}, *settings, constants=by_group, first=18)


def _recurrent() -> Iterator[Case]:
    x, hidden = {"x": floats(3, 2, 4)}, 5
    for operator, gates in (("RNN", 1), ("GRU", 3), ("LSTM", 4)):
        for direction, ways in (("forward", 1), ("reverse", 1), ("bidirectional", 2)):
            weights = {
                "w": floats(ways, gates * hidden, 4, seed=1),
                "r": floats(ways, gates * hidden, hidden, seed=2),
                "b": floats(ways, 2 * gates * hidden, seed=3),
            }
            settings = {"hidden_size": hidden, "direction": direction}
            outputs = 3 if operator == "LSTM" else 2
            yield from _cases(operator, x, settings, constants=weights, outputs=outputs)
            if operator == "GRU":
                yield from _cases(
                    operator, x, {**settings, "linear_before_reset": 1}, constants=weights, outputs=outputs
                )
