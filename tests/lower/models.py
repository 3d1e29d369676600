"""Makes models from ONNX's text form, and builds graphs for the targets that a lowering is for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import ArrayLike
from onnx import numpy_helper

from edgekit.engine.backend import BuildOptions, BuildResult, backend
from edgekit.errors import BackendUnavailable
from edgekit.graph.file import save_graph
from edgekit.specs import Precision

__all__ = ["built_for_rtx", "model_of_text", "run_in_openvino"]


def model_of_text(nodes: str, inputs: str, outputs: str, constants: Mapping[str, ArrayLike]) -> onnx.ModelProto:
    """Returns a checked model of opset 20 with inferred shapes."""
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 20]> g ({inputs}) => ({outputs}) {{ {nodes} }}'
    )
    used = {name for node in model.graph.node for name in node.input}
    given = [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items() if name in used]
    model.graph.initializer.extend(given)
    onnx.checker.check_model(model, full_check=True)
    return onnx.shape_inference.infer_shapes(model, strict_mode=True)


def run_in_openvino(
    graph: ir.Model, feed: Mapping[str, np.ndarray], folder: Path, options: BuildOptions
) -> tuple[BuildResult, dict[str, np.ndarray]]:
    """Builds a graph for ``openvino``, and runs the engine with one thread; returns how it was built, and outputs."""
    save_graph(graph, folder / "graph.onnx")
    result = backend("openvino").build(folder / "graph.onnx", folder, options)
    engine = backend("openvino").load(folder / result.engine, threads=1)
    try:
        return result, engine.run(dict(feed))
    finally:
        engine.close()


def built_for_rtx(graph: ir.Model, folder: Path, precision: Precision) -> BuildResult:
    """Builds a graph for ``tensorrt-rtx``; the test is skipped without it."""
    rtx = backend("tensorrt-rtx")
    try:
        rtx.require()
    except BackendUnavailable as e:
        pytest.skip(e.message)
    save_graph(graph, folder / "graph.onnx")
    return rtx.build(folder / "graph.onnx", folder, BuildOptions(precision=precision, threads=1))
