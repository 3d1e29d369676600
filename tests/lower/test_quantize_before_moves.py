from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from small_graphs import rewritten, run_unfused, stays

from edgekit.lower.quantize_before_moves import QuantizeBeforeMoves
from tests.lower.models import model_of_text

RNG = np.random.default_rng(0)
CONSTANTS = {
    "matrix": RNG.standard_normal((6, 4)).astype(np.float32),
    "kernel": RNG.integers(-127, 128, (3, 4, 1, 1), dtype=np.int8),
    "float_kernel": RNG.standard_normal((3, 4, 1, 1)).astype(np.float32),
    "weights": RNG.integers(-127, 128, (5, 3), dtype=np.int8),
    "image": np.array([0, 4, 2, 5]),
    "step": np.float32(0.05),
    "steps": np.full(4, 0.05, np.float32),
    "zero": np.uint8(100),
    "zeros": np.full(4, 100, np.uint8),
    "none": np.int8(0),
}
MOVED = "m = MatMul (x, matrix)  t = Transpose <perm = [0, 2, 1]> (m)  i = Reshape (t, image)"
PAIR = "q = QuantizeLinear (i, step, zero)  d = DequantizeLinear (q, step, zero)"
CONV = "k = DequantizeLinear (kernel, step, none)  y = Conv (d, k)"


def _model(nodes: str, sizes: str = "2, 10, 6") -> onnx.ModelProto:
    return model_of_text(nodes, f"float[{sizes}] x", "float[A, B, C, D] y", CONSTANTS)


def _x() -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(1).standard_normal((2, 10, 6)).astype(np.float32)}


def _makers(model: onnx.ModelProto) -> dict[str, str]:
    """Returns, by operator, the operator that computes its first input."""
    made = {node.output[0]: node.op_type for node in model.graph.node}
    return {node.op_type: made.get(node.input[0], "") for node in model.graph.node}


def test_tokens_are_quantized_before_they_become_an_image() -> None:
    model = _model(f"{MOVED} {PAIR} {CONV}")
    expected = run_unfused(model, _x())[0]
    model, modified = rewritten(model, QuantizeBeforeMoves())
    assert modified
    onnx.checker.check_model(model, full_check=True)
    makers = _makers(model)
    assert makers["QuantizeLinear"] == "MatMul" and makers["Conv"] == "Reshape"
    assert np.array_equal(run_unfused(model, _x())[0], expected)


def test_other_readers_of_the_tokens_read_them_unrounded() -> None:
    model = _model(f"{MOVED} {PAIR} {CONV} other = Relu (m)")
    model.graph.output.append(helper.make_tensor_value_info("other", TensorProto.FLOAT, [2, 10, 4]))
    expected = run_unfused(model, _x())
    model, modified = rewritten(model, QuantizeBeforeMoves())
    assert modified
    for got, right in zip(run_unfused(model, _x()), expected, strict=True):
        assert np.array_equal(got, right)


@pytest.mark.parametrize(
    "nodes",
    [
        f"m = MatMul (x, matrix)  t = Reshape (m, image)  i = Relu (t)  {PAIR} {CONV}",
        f"{MOVED} {PAIR} y = Conv (d, float_kernel)",
        f"{MOVED} {PAIR} w = DequantizeLinear (weights, step, none)  y = MatMul (d, w)",
        f"{MOVED} {PAIR} {CONV.replace('y =', 'c =')}  r = ReduceMax (i)  y = Add (c, r)",
        f"{MOVED} {PAIR} {CONV.replace('y =', 'c =')}  r = ReduceMax (d)  y = Add (c, r)",
        f"{MOVED} {PAIR.replace('step, zero', 'steps, zeros')} {CONV}",
    ],
    ids=["no move", "float weights", "a matrix product", "two readers of the image", "two of the pair", "two scales"],
)
def test_others_stay(nodes: str) -> None:
    assert stays(_model(nodes), QuantizeBeforeMoves())


def test_an_input_of_the_graph_stays() -> None:
    assert stays(_model(f"i = Reshape (x, image)  {PAIR} {CONV}", "2, 10, 4"), QuantizeBeforeMoves())
