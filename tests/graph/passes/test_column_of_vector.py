from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from edgekit.engine.backend import BuildOptions, backend
from edgekit.graph.file import save_graph
from edgekit.graph.passes import optimize
from edgekit.specs import Precision

CASES = {
    "column": ("float[3, 5, 8] x", "t = Transpose <perm = [0, 2, 1]> (x) y = MatMul (t, v)", (5,)),
    "matrix": ("float[5, 8] x", "t = Transpose <perm = [1, 0]> (x) y = MatMul (t, v)", (5,)),
    "row": ("float[3, 8, 5] x", "t = Transpose <perm = [0, 2, 1]> (x) y = MatMul (v, t)", (5,)),
    "computed": ("float[3, 5, 8] x", "t = Transpose <perm = [0, 2, 1]> (x) r = Relu (v) y = MatMul (t, r)", (5,)),
}


@pytest.mark.parametrize("case", CASES)
def test_an_engine_multiplies_a_transposed_matrix_by_a_vector(graph_of, run_in_onnxruntime, tmp_path, case):
    inputs, text, shape = CASES[case]
    random = np.random.default_rng(0)
    graph = graph_of(f"g ({inputs}) => (float[a] y) {{ {text} }}", v=random.standard_normal(shape).astype(np.float32))
    size = list(graph.graph.inputs[0].shape)
    feeds = {"x": random.standard_normal(size).astype(np.float32)}
    for output in graph.graph.outputs:
        output.shape = None
    expected = run_in_onnxruntime(graph, feeds)[0]
    save_graph(optimize(graph), tmp_path / "graph.onnx")
    result = backend("cpu").build(tmp_path / "graph.onnx", tmp_path, BuildOptions(precision=Precision.FP32, threads=1))
    engine = backend("cpu").load(tmp_path / result.engine, threads=1)
    got = engine.run(feeds)["y"]
    engine.close()
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_onnx_runtime_still_needs_it(graph_of):
    """If this fails, ONNX Runtime is right, and the pass can go."""
    inputs, text, shape = CASES["column"]
    random = np.random.default_rng(0)
    graph = graph_of(
        f"g ({inputs}) => (float[3, 8] y) {{ {text} }}", v=random.standard_normal(shape).astype(np.float32)
    )
    x = random.standard_normal((3, 5, 8)).astype(np.float32)
    session = onnxruntime.InferenceSession(ir.to_proto(graph).SerializeToString(), providers=["CPUExecutionProvider"])
    vector = graph.graph.initializers["v"].const_value.numpy()
    assert not np.allclose(session.run(None, {"x": x})[0], x.transpose(0, 2, 1) @ vector, atol=1e-2)
