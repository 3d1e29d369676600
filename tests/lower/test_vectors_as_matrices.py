"""Matrix products of vectors: OpenVINO beside ONNX Runtime without optimizations, on the graph as it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from small_graphs import rewritten, run_unfused, stays

import edgekit
from edgekit.engine.bundle.manifest import read_manifest
from edgekit.lower.vectors_as_matrices import VectorsAsMatrices

HEADER = '<ir_version: 8, opset_import: ["" : 17]>'
RNG = np.random.default_rng(0)
MATRIX, VECTOR = RNG.standard_normal((5, 4)).astype(np.float32), RNG.standard_normal(4).astype(np.float32)
BODIES = {
    "behind": "g (float[2, 3, 4] x) => (float[2, 3] y) { p = MatMul (x, v)  y = Neg (p) }",
    "behind, one row": """g (float[1, 1, 4] x) => (float y)
        { p = MatMul (x, v)  n = Neg (p)  y = ReduceL1 <axes = [0, 1], keepdims = 0> (n) }""",
    "in front": "g (float[2, 4, 3] x) => (float[2, 3] y) { p = MatMul (v, x)  y = Mul (p, two) }",
    "both": "g (float[4] x) => (float y) { p = MatMul (v, x)  y = Mul (p, two) }",
    "computed": "g (float[4] x) => (float[5] y) { p = MatMul (m, x)  y = Mul (p, two) }",
}


def model(text: str) -> onnx.ModelProto:
    made = onnx.parser.parse_model(f"{HEADER} {text}")
    constants = {"v": VECTOR, "m": MATRIX, "two": np.float32(2)}
    words = text.replace(",", " ").replace(")", " ").replace("(", " ").split()
    made.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items() if name in words
    )
    return made


def feeds_of(made: onnx.ModelProto) -> dict[str, np.ndarray]:
    shape = [size.dim_value for size in made.graph.input[0].type.tensor_type.shape.dim]
    return {"x": np.random.default_rng(1).standard_normal(shape).astype(np.float32)}


@pytest.mark.parametrize("name", BODIES)
def test_results_and_shapes_stay(name: str) -> None:
    made = model(BODIES[name])
    changed, modified = rewritten(made, VectorsAsMatrices())
    assert modified
    got, expected = (run_unfused(each, feeds_of(made))[0] for each in (changed, made))
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_products_of_matrices_stay() -> None:
    text = "g (float[2, 4] x) => (float[2, 5] y) { t = Transpose <perm = [1, 0]> (m)  y = MatMul (x, t) }"
    assert stays(model(text), VectorsAsMatrices())


@pytest.mark.parametrize("name", BODIES)
def test_openvino_computes_them(name: str, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    made = model(BODIES[name])
    onnx.save(made, tmp_path / "model.onnx")
    engine = edgekit.build(
        tmp_path / "model.onnx", precision="fp32", target="openvino", profile=False, output=tmp_path / "engine"
    )
    assert read_manifest(engine).verification is not None
    with edgekit.load(engine) as session:
        got = session.run(feeds_of(made))["y"]
    expected = run_unfused(made, feeds_of(made))[0]
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=1e-5)
