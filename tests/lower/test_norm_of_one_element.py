"""Normalization of a channel of one element is its bias; ONNX Runtime computes the right values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgekit.engine.backend import BuildOptions, backend
from edgekit.errors import BackendUnavailable
from edgekit.graph.evaluator import Evaluator
from edgekit.graph.file import save_graph
from edgekit.graph.passes import InferShapes
from edgekit.lower.norm_of_one_element import NormOfOneElement
from edgekit.lower.rewriting import lower
from edgekit.specs import Precision

TEXT = """<ir_version: 9, opset_import: ["" : 20]>
g (float[2, 3, {sizes}] x) => (float[2, 3, {sizes}] y) <float[3] s = {{1.0, 2.0, 3.0}}, float[3] b = {{-1.0, 0.5, 4.0}}>
{{ a = Neg (x)  y = InstanceNormalization (a, s, b) }}"""


def graph_of(sizes: str) -> ir.Model:
    graph = ir.from_proto(onnx.parser.parse_model(TEXT.format(sizes=sizes)))
    InferShapes()(graph)
    return graph


@pytest.mark.parametrize("sizes", ["1", "1, 1"])
def test_it_computes_the_same(sizes: str) -> None:
    graph = graph_of(sizes)
    x = np.asarray([[0.5, -3, 2], [np.nan, 7, -0.25]], np.float32).reshape(2, 3, *map(int, sizes.split(",")))
    expected = Evaluator(graph).run({"x": x})["y"]
    assert lower(graph, [NormOfOneElement()])
    assert "InstanceNormalization" not in {node.op_type for node in graph.graph}
    np.testing.assert_allclose(Evaluator(graph).run({"x": x})["y"], expected, atol=1e-3)


def test_a_norm_of_several_elements_stays() -> None:
    assert not lower(graph_of("1, 2"), [NormOfOneElement()])


def test_tensorrt_rtx_builds_it(tmp_path: Path) -> None:
    rtx, graph = backend("tensorrt-rtx"), graph_of("1")
    try:
        rtx.require()
    except BackendUnavailable as e:
        pytest.skip(e.message)
    lower(graph, [NormOfOneElement()])
    save_graph(graph, tmp_path / "graph.onnx")
    assert rtx.build(tmp_path / "graph.onnx", tmp_path, BuildOptions(precision=Precision.FP32, threads=1)).engine
