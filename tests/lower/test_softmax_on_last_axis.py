from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from small_graphs import rewritten, run_unfused, stays

from edgekit.engine.backend import BuildOptions, backend
from edgekit.lower.softmax_on_last_axis import SoftmaxOnLastAxis
from edgekit.specs import Precision

DFL = """g (float[2, 12, 7] x) => (float[b, d, n] out) {{
    r = Reshape (x, split)
    t = Transpose <perm = [{perm}]> (r)
    p = Softmax <axis = {axis}> (t)
    c = Conv <kernel_shape = [1, 1], strides = [{stride}, 1]> (p, w{bias})
    out = Reshape (c, joined)
    {tail}
}}"""


def model_of(
    perm: str = "0, 2, 1, 3",
    axis: int = 1,
    stride: int = 1,
    bias: bool = False,
    tail: str = "",
    weight: np.ndarray | None = None,
    joined: tuple[int, ...] = (2, 4, 7),
) -> onnx.ModelProto:
    text = DFL.format(perm=perm, axis=axis, stride=stride, bias=", b" if bias else "", tail=tail)
    model = onnx.parser.parse_model('<ir_version: 10, opset_import: ["" : 20]>\n' + text)
    constants = {
        "split": np.array([2, 4, 3, 7]),
        "joined": np.array(joined),
        "w": np.arange(3, dtype=np.float32).reshape(1, 3, 1, 1) if weight is None else weight,
    }
    constants |= {"b": np.ones(1, np.float32)} if bias else {}
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
    if tail:
        model.graph.output.append(onnx.helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, None))
    return onnx.shape_inference.infer_shapes(model)


X = np.random.default_rng(0).standard_normal((2, 12, 7)).astype(np.float32) * 4


@pytest.mark.parametrize("form", ["YOLOv8", "PP-YOLOE"])
def test_mean_of_a_distribution_is_computed_along_the_last_axis(form):
    model = model_of() if form == "YOLOv8" else model_of("0, 2, 3, 1", -3, joined=(2, 7, 4))
    after, _ = rewritten(model, SoftmaxOnLastAxis())
    operators = [node.op_type for node in after.graph.node]
    assert operators == ["Reshape", "Transpose", "Softmax", "MatMul", "Squeeze", "Unsqueeze", "Reshape"]
    assert after.graph.node[2].attribute[0].i == -1
    # The definition: sum of k * exp(x_k) / sum of exp(x_k), over the three channels of each side.
    e = np.exp(X.reshape(2, 4, 3, 7).astype(np.float64))
    mean = (np.arange(3).reshape(3, 1) * e).sum(2) / e.sum(2)
    expected = mean if form == "YOLOv8" else mean.transpose(0, 2, 1)
    for each in (model, after):
        np.testing.assert_allclose(run_unfused(each, {"x": X})[0], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"axis": 2}, "it is not along the second of four axes"),
        ({"stride": 2, "joined": (2, 2, 7)}, "the convolution behind it is not of single pixels"),
        ({"bias": True}, "no convolution without a bias alone reads it"),
        ({"tail": "z = Relu (p)"}, "no convolution without a bias alone reads it"),
        ({"tail": "z = Relu (t)"}, "its input is not that of a Transpose alone"),
        (
            {"weight": np.ones((2, 3, 1, 1), np.float32), "joined": (2, 8, 7)},
            "the convolution has no constant weights, or more than one output channel",
        ),
    ],
)
def test_other_softmaxes_stay(change, reason, reasons):
    assert stays(model_of(**change), SoftmaxOnLastAxis())
    assert any(reason in told for told in reasons())


def test_engine_of_cpu_has_the_softmax_on_its_last_axis(tmp_path: Path):
    model = model_of()
    onnx.save(model, tmp_path / "m.onnx")
    onnxruntime = backend("cpu")
    onnxruntime.build(tmp_path / "m.onnx", tmp_path, BuildOptions(precision=Precision.FP32))
    built = onnx.load(tmp_path / "engine.onnx")
    softmax = next(node for node in built.graph.node if node.op_type == "Softmax")
    assert {a.name: a.i for a in softmax.attribute}["axis"] in (-1, 3)
    assert sum(node.op_type == "Transpose" for node in built.graph.node) == 1
    engine = onnxruntime.load(tmp_path / "engine.onnx")
    np.testing.assert_allclose(engine.run({"x": X})["out"], run_unfused(model, {"x": X})[0], rtol=1e-5, atol=1e-5)
