"""ONNX Runtime's waiting threads keep their processor, until other work shares it."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from edgekit.engine.backend import BuildOptions, backend
from edgekit.errors import RunError
from edgekit.runtime.stream import SharesProcessors
from edgekit.specs import Precision

TEXT = """<ir_version: 8, opset_import: ["" : 17]>
g (float[1, 32, 64, 64] x) => (float[1, 32, 64, 64] y) { c = Conv <pads = [1, 1, 1, 1]> (x, w) y = Relu (c) }"""
ARRAY = np.random.default_rng(0).normal(0, 1, (1, 32, 64, 64)).astype(np.float32)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    model = onnx.parser.parse_model(TEXT)
    weights = np.random.default_rng(1).normal(0, 0.1, (32, 32, 3, 3)).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    onnx.save(model, tmp_path / "graph.onnx")
    return tmp_path / "graph.onnx"


def spun_s(engine) -> float:  # type: ignore[no-untyped-def]
    """Returns the processor time that passes while nothing is asked of the engine, directly after a run."""
    engine.run({"x": ARRAY})
    started = time.process_time()
    time.sleep(0.02)
    return time.process_time() - started


def test_threads_sleep_between_runs_once_the_processors_are_shared(file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "engine"
    folder.mkdir()
    built = backend("cpu").build(file, folder, BuildOptions(precision=Precision.FP32))
    engine = backend("cpu").load(folder / built.engine, threads=2)
    expected = ort.InferenceSession(file, providers=["CPUExecutionProvider"]).run(None, {"x": ARRAY})[0]
    before = min(spun_s(engine) for _ in range(3))
    assert isinstance(engine, SharesProcessors)
    engine.share_processors()
    engine.share_processors()
    after = min(spun_s(engine) for _ in range(5))
    np.testing.assert_allclose(engine.run({"x": ARRAY})["y"], expected, atol=1e-4)
    assert after < 0.002
    assert after < before or before < 0.002  # on a busy machine, a spinning thread may not get a processor
    engine.close()
    with pytest.raises(RunError, match="closed"):
        engine.share_processors()
