"""A Resize of the last axes, counted from the end; ONNX Runtime computes the right values with axes from the start."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import edgekit
from edgekit.graph.original import OnnxOriginal

TEXT = """<ir_version: 9, opset_import: ["" : 20]>
g (float[1, 2, 16, 12] x) => (float[1, 2, h, w_] y) <int64[2] sizes = {{24, 9}}> {{
    a = Neg (x)
    y = Resize <mode = "linear", axes = [{axes}], keep_aspect_ratio_policy = "{policy}"> (a, , , sizes) }}"""


def saved(path: Path, axes: str, policy: str) -> Path:
    onnx.save(onnx.parser.parse_model(TEXT.format(axes=axes, policy=policy)), path)
    return path


@pytest.mark.parametrize("target", ["cpu", "openvino"])
@pytest.mark.parametrize("policy", ["stretch", "not_larger", "not_smaller"])
def test_negative_axes_are_those_from_the_end(policy: str, target: str, tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((1, 2, 16, 12)).astype(np.float32)
    (expected,) = OnnxOriginal(saved(tmp_path / "positive.onnx", "2, 3", policy)).run([{"x": x}])
    size = {"stretch": (24, 9), "not_larger": (12, 9), "not_smaller": (24, 18)}[policy]
    assert expected["y"].shape == (1, 2, *size)
    path = saved(tmp_path / "negative.onnx", "-2, -1", policy)
    (original,) = OnnxOriginal(path).run([{"x": x}])
    np.testing.assert_array_equal(original["y"], expected["y"])
    engine = edgekit.build(
        path, precision="fp32", target=target, output=tmp_path / "engine", profile=False, progress=False
    )
    with edgekit.load(engine) as session:
        np.testing.assert_allclose(session.run({"x": x})["y"], expected["y"], atol=1e-5)
