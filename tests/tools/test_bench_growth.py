"""The benchmark of growth fits exponents, and makes files with weights of a size, in the file or beside it."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest

from tools.bench.growth import exponent, file_with_weights


def test_the_exponent_is_that_of_the_time_above_the_smallest_graph() -> None:
    seconds = {size: 2.5 + 1e-4 * size**1.25 for size in (3000, 12_000, 40_000)}
    assert exponent({10: 2.5, **seconds}) == 1.25
    assert exponent({10: 2.5, 3000: 4.0}) is None


@pytest.mark.parametrize("external", [False, True])
def test_a_file_has_weights_of_the_size(external: bool, tmp_path) -> None:
    file = file_with_weights(tmp_path / "w", 1 << 20, external=external)
    assert sum(each.stat().st_size for each in file.parent.iterdir()) == pytest.approx(1 << 20, rel=0.01)
    assert (file.stat().st_size < 10_000) is external
    onnx.checker.check_model(file)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {"x": np.ones((1, 256), np.float32)})
    assert np.isfinite(result).all() and result.any()
