"""A build is refused if the outputs of its INT8 engine are noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import edgekit
from edgekit.errors import AccuracyError
from edgekit.measure import compare as side_by_side

GRAPH = """
<ir_version: 10, opset_import: ["" : 20]>
offset (float[1, 3, 16, 16] x) => (float[1, N] y) {
    a = Conv <pads = [1, 1, 1, 1]> (x, stem, up)
    b = Conv (a, mix, down)
    y = Flatten (b)
}
"""


@pytest.fixture
def offset(tmp_path: Path) -> Path:
    """A model that adds a large number to small ones and subtracts it again: 8 bits hold only the large number."""
    random = np.random.default_rng(0)
    mix = np.abs(random.standard_normal((8, 32, 1, 1)))
    weights = {
        "stem": random.standard_normal((32, 3, 3, 3)),
        "up": np.full(32, 1e4),
        "mix": mix,
        "down": -1e4 * mix.sum((1, 2, 3)),
    }
    model = onnx.parser.parse_model(GRAPH)
    for name, array in weights.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(array.astype(np.float32), name))
    onnx.save(model, tmp_path / "offset.onnx")
    return tmp_path / "offset.onnx"


def test_a_build_that_collapses_in_int8_is_refused(
    offset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(side_by_side, "MEASURE_S", 0.05)
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    np.save(inputs / "x.npy", np.random.default_rng(1).standard_normal((1, 3, 16, 16)).astype(np.float32))
    output = tmp_path / "engine"
    with pytest.raises(AccuracyError, match="is lost in noise: expected .* of at least 0 dB against ONNX") as error:
        edgekit.build(offset, calib=inputs, output=output)
    assert "keep_float" in error.value.hint
    assert not output.exists()
    edgekit.build(offset, output=output, precision="fp32")
    assert output.exists()
