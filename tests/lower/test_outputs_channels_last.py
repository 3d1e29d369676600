from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from small_graphs import rewritten, run_unfused, stays

from edgekit.lower.outputs_channels_last import OutputsChannelsLast

FIRST = (0, 3, 1, 2)

CONSTANTS = {
    "scale": np.float32(0.02),
    "zero": np.uint8(100),
    "none": np.int8(0),
    "weight": np.random.default_rng(1).integers(-127, 128, (3, 4, 1, 1), dtype=np.int8),
    "float": np.random.default_rng(2).standard_normal((3, 4, 1, 1)).astype(np.float32),
    "axes": np.array([3]),
}
PAIRS = """<ir_version: 10, opset_import: ["" : 20]>
g (uint8[N, 4, 2, 5] x) => (float[N, 3, 2, 5] y) {
  a = DequantizeLinear(x, scale, zero)
  w = DequantizeLinear(weight, scale, none)
  %s
}"""


def _model(nodes: str) -> onnx.ModelProto:
    model = onnx.parser.parse_model(PAIRS % nodes)
    used = {name for node in model.graph.node for name in node.input}
    given = [numpy_helper.from_array(np.asarray(v), name) for name, v in CONSTANTS.items() if name in used]
    model.graph.initializer.extend(given)
    return model


@pytest.mark.parametrize(
    "nodes", ["y = Conv(a, w)", "p = Conv(a, w)  q = Conv(a, w)  y = Add(p, q)"], ids=["a convolution", "a sum of two"]
)
def test_transposed_back_the_output_is_unchanged(nodes: str) -> None:
    model = _model(nodes)
    x = np.random.default_rng(0).integers(0, 256, (2, 4, 2, 5), dtype=np.uint8)
    expected = run_unfused(model, {"x": x})[0]
    one = OutputsChannelsLast()
    model, modified = rewritten(model, one)
    assert modified and one.turned == ["y"]
    onnx.checker.check_model(model, full_check=True)
    (output,) = model.graph.output
    sizes = [size.dim_param or size.dim_value for size in output.type.tensor_type.shape.dim]
    assert (output.name, sizes) == ("y", ["N", 2, 5, 3])
    last = run_unfused(model, {"x": x})[0]
    assert last.shape == (2, 2, 5, 3)
    assert np.array_equal(last.transpose(FIRST), expected)


def test_other_consumers_of_an_output_are_unchanged() -> None:
    model = _model("y = Conv(a, w)  other = Relu(y)")
    model.graph.output.append(helper.make_tensor_value_info("other", TensorProto.FLOAT, ["N", 3, 2, 5]))
    x = np.random.default_rng(0).integers(0, 256, (1, 4, 2, 5), dtype=np.uint8)
    expected = run_unfused(model, {"x": x})
    model, _ = rewritten(model, OutputsChannelsLast())
    got = run_unfused(model, {"x": x})
    assert np.array_equal(got[0].transpose(FIRST), expected[0]) and np.array_equal(got[1], expected[1])


@pytest.mark.parametrize("nodes", ["y = Conv(a, float)", "p = Conv(a, w)  y = Relu(p)"])
def test_others_stay(nodes: str) -> None:
    model = _model(nodes)
    one = OutputsChannelsLast()
    assert stays(model, one) and one.turned == []


def test_convolutions_of_one_dimension_stay() -> None:
    model = _model("y = Conv(a, w)")
    for value in (model.graph.input[0], model.graph.output[0]):
        del value.type.tensor_type.shape.dim[3]
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "weight")
    weight.CopyFrom(numpy_helper.from_array(CONSTANTS["weight"][..., 0], "weight"))
    onnx.checker.check_model(model, full_check=True)
    assert stays(model, OutputsChannelsLast())


def test_a_branch_still_reads_it() -> None:
    model = _model("y = Conv(a, w)")
    inside = helper.make_tensor_value_info("z", TensorProto.FLOAT, ["N", 3, 2, 5])
    branch = helper.make_graph([helper.make_node("Identity", ["y"], ["z"])], "b", [], [inside])
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    model.graph.node.append(helper.make_node("If", ["yes"], ["both"], then_branch=branch, else_branch=branch))
    model.graph.output.append(helper.make_tensor_value_info("both", TensorProto.FLOAT, ["N", 3, 2, 5]))
    x = np.random.default_rng(0).integers(0, 256, (1, 4, 2, 5), dtype=np.uint8)
    expected = run_unfused(model, {"x": x})
    model, _ = rewritten(model, OutputsChannelsLast())
    got = run_unfused(model, {"x": x})
    assert np.array_equal(got[0].transpose(FIRST), expected[0]) and np.array_equal(got[1], expected[1])
