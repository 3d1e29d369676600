from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from small_graphs import run_unfused

from edgekit.engine.backend import BuildOptions, backend
from edgekit.graph.evaluator import Evaluator
from edgekit.graph.file import save_graph
from edgekit.graph.load.onnx_file import graph_from_onnx
from edgekit.specs import Precision

X = np.random.default_rng(0).standard_normal((1, 6, 5, 4)).astype(np.float32)
KINDS = {
    "pads of two axes": ("Pad", "", "pads, none, axes", {"pads": [1, 2, 0, 3], "axes": [-1, 1]}),
    "computed pads": ("Pad", "", "sum, none, axes", {"pads": [1, 2, 0, 3], "axes": [3, 2]}),
    "cubic": ("Resize", '<mode = "cubic">', "none, none, sizes", {"sizes": [1, 4, 9, 7]}),
    "axes with scales": ("Resize", '<mode = "linear", axes = [-1, 2]>', "none, scales", {"scales": [1.5, 0.6]}),
    "axes with sizes": ("Resize", "<axes = [3]>", "none, none, sizes", {"sizes": [8]}),
    "one size for both axes": (
        "Resize",
        '<mode = "linear", axes = [2, 3], keep_aspect_ratio_policy = "not_larger">',
        "none, none, sizes",
        {"sizes": [9, 12]},
    ),
}


def model_of(kind: str) -> onnx.ModelProto:
    operator, attributes, inputs, constants = KINDS[kind]
    between = "sum = Add (pads, pads)" if "sum" in inputs else ""
    model = onnx.parser.parse_model(f"""<ir_version: 10, opset_import: ["" : 20]>
        g (float[1, 6, 5, 4] x) => (float[n, h, w, c] y) {{
            t = Transpose <perm = [0, 3, 1, 2]> (x)
            {between}
            r = {operator} {attributes} (t, {inputs.replace("none", "")})
            y = Transpose <perm = [0, 2, 3, 1]> (r)
        }}""")
    for name, numbers in constants.items():
        array = np.array(numbers, np.float32 if name == "scales" else np.int64)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_transposes_are_not_moved_across_an_operator_of_one_layout(kind: str, tmp_path: Path) -> None:
    model = model_of(kind)
    onnx.save(model, tmp_path / "model.onnx")
    expected = run_unfused(model, {"x": X})[0]
    graph = graph_from_onnx(tmp_path / "model.onnx")
    save_graph(graph, tmp_path / "graph.onnx")
    result = backend("cpu").build(tmp_path / "graph.onnx", tmp_path, BuildOptions(precision=Precision.FP32, threads=1))
    engine = backend("cpu").load(tmp_path / result.engine, threads=1)
    assert np.allclose(engine.run({"x": X})["y"], expected, atol=1e-5)
    # As graphs are run in calibration.
    assert np.allclose(Evaluator(graph, optimized=True).run({"x": X})["y"], expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["axes with scales", "pads of two axes"])
def test_constant_numbers_of_some_axes_become_numbers_of_all(kind: str, tmp_path: Path) -> None:
    onnx.save(model_of(kind), tmp_path / "model.onnx")
    save_graph(graph_from_onnx(tmp_path / "model.onnx"), tmp_path / "graph.onnx")
    backend("cpu").build(tmp_path / "graph.onnx", tmp_path, BuildOptions(precision=Precision.FP32, threads=1))
    assert [node.op_type for node in onnx.load(tmp_path / "engine.onnx").graph.node] == [KINDS[kind][0]]
