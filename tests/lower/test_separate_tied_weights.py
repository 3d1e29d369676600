from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from small_graphs import run_unfused

from edgekit.engine.backend import BuildOptions, backend
from edgekit.errors import GraphError
from edgekit.lower.separate_tied_weights import SeparateTiedWeights
from edgekit.specs import Precision

HEADER = '<ir_version: 10, opset_import: ["" : 20]>\n'
TIED = {
    "convolutions": (
        "g (float[1, 8, 7, 8] x) => (float[1, 8, 7, 8] y) { a = Conv (x, w) y = ConvTranspose (a, w) }",
        4,
    ),
    "matrices": ("g (float[3, 8] x) => (float[3, 8] y) { a = Gemm (x, w) y = Gemm <transB = 1> (a, w) }", 2),
    "product": ("g (float[3, 8] x) => (float[3, 8] y) { a = MatMul (x, w) y = Gemm <transB = 1> (a, w) }", 2),
}


def tied(text: str, rank: int) -> onnx.ModelProto:
    model = onnx.parser.parse_model(HEADER + text)
    shape = (8, 8, 3, 3)[:rank]
    weight = (np.random.default_rng(1).standard_normal(shape) / 8).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    return model


@pytest.mark.parametrize("name", TIED)
def test_products_of_one_weight_compute_what_onnx_says(name: str, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    model = tied(*TIED[name])
    onnx.save(model, tmp_path / "graph.onnx")
    feeds = {"x": np.random.default_rng(0).standard_normal((1, 8, 7, 8) if name == "convolutions" else (3, 8))}
    feeds = {key: array.astype(np.float32) for key, array in feeds.items()}
    library = backend("openvino")
    result = library.build(tmp_path / "graph.onnx", tmp_path, BuildOptions(precision=Precision.FP32, threads=1))
    got = library.load(tmp_path / result.engine, threads=1).run(feeds)["y"]
    np.testing.assert_allclose(got, run_unfused(model, feeds)[0], rtol=1e-4, atol=1e-5)


def test_products_that_read_a_weight_alike_keep_it() -> None:
    text = "g (float[3, 8] x) => (float[3, 8] y) { a = Gemm <transB = 1> (x, w) y = Gemm <transB = 1> (a, w) }"
    assert not SeparateTiedWeights()(ir.from_proto(tied(text, 2))).modified


def test_a_grouped_transposed_convolution_is_refused_by_name() -> None:
    text = """g (float[1, 16, 7, 8] x) => (float[1, 16, 7, 8] y) {
        a = Conv <group = 2> (x, w) [decode] y = ConvTranspose <group = 2> (a, w) }"""
    with pytest.raises(GraphError, match="node 'decode'.*groups"):
        SeparateTiedWeights()(ir.from_proto(tied(text, 4)))
