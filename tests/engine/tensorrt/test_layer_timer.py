"""Times of layers through TensorRT's profiler and inspector, on a fake GPU."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fake_tensorrt
import numpy as np
import pytest
from fake_cuda import FakeDriver

from edgekit.engine.layer_timer import TimedLayer, TimesLayers
from edgekit.engine.tensorrt.runtime import TensorRtEngine, load_engine
from edgekit.errors import RunError

FEEDS = {"x": np.ones((2, 3), np.float32)}


def tensor(words: str, *shape: int) -> dict[str, Any]:
    return {"Name": "t", "Location": "Device", "Dimensions": shape, "Format/Datatype": words}


# The fields are those of NVIDIA's documentation of the engine inspector.
REFORMAT = {
    "Name": "Reformatting CopyNode for Input Tensor 0 to conv1 + relu1",
    "LayerType": "Reformat",
    "Inputs": [tensor("Row major linear FP32", 1, 3, 8, 8)],
    "Outputs": [tensor("Thirty-two wide channel vectorized row major Int8 format", 1, 3, 8, 8)],
    "Metadata": "",
    "ms": 0.5,
}
CONV = {
    "Name": "conv1 + relu1",
    "LayerType": "CaskConvolution",
    "Inputs": [tensor("Thirty-two wide channel vectorized row major Int8 format", 1, 3, 8, 8)],
    "Outputs": [tensor("Channel major FP16 format where channel % 8 == 0", 1, 4, 8, 8)],
    "Weights": {"Type": "Int8", "Count": 108},
    "TacticName": "ampere_imma_conv",
    "Metadata": "[ONNX Layer: conv1]\x1e[ONNX Layer: relu1]",
    "ms": 2.0,
}
TWICE = {"Name": "myelin", "LayerType": "kgen", "Metadata": "[ONNX Layer: head]", "ms": 0.25}


@pytest.fixture
def gpu() -> Iterator[FakeDriver]:
    """A discrete GPU, on which no resource may leak."""
    driver = FakeDriver()
    yield driver
    gc.collect()
    assert not driver.leaks()


def load(driver: FakeDriver, folder: Path, *, rtx: bool = False, **more: Any) -> TensorRtEngine:
    plan = folder / "engine.plan"
    plan.write_text(json.dumps({"inputs": {"x": [2, 3]}, "layers": [REFORMAT, CONV, TWICE, TWICE], **more}))
    return load_engine(fake_tensorrt.library(driver, rtx=rtx), plan, name="tensorrt", cuda=driver)


@pytest.mark.parametrize("rtx", [False, True])
def test_each_layer_has_its_times_nodes_types_and_bytes(gpu: FakeDriver, tmp_path: Path, rtx: bool) -> None:
    engine = load(gpu, tmp_path, rtx=rtx)
    assert isinstance(engine, TimesLayers)
    timer = engine.layer_timer()
    for _ in range(3):
        np.testing.assert_array_equal(timer.run(FEEDS)["x_out"], 2 * FEEDS["x"] + 1)
    timings = timer.finish()
    timer.close()
    engine.close()
    # The copies are measured by events: each operation of the fake GPU takes 1 ms, and so does recording one.
    assert [layer.name for layer in timings.layers] == [
        "inputs to the device",
        REFORMAT["Name"],
        "conv1 + relu1",
        "myelin",
        "myelin",
        "outputs to the host",
    ]
    assert [row[1:-1] for row in timings.times_ms] == [(0.5, 2.0, 0.25, 0.25)] * 3
    assert all(row[0] > 0 and row[-1] > 0 for row in timings.times_ms)
    assert timings.starts_ms == ()
    assert timings.layers[2] == TimedLayer(
        name="conv1 + relu1",
        operator="CaskConvolution",
        nodes=("conv1", "relu1"),
        precision="int8",
        inputs=((1, 3, 8, 8),),
        outputs=((1, 4, 8, 8),),
        activation_bytes=1 * 3 * 8 * 8 + 2 * 4 * 8 * 8,
        kernel="ampere_imma_conv",
    )
    assert timings.layers[1].activation_bytes == (4 + 1) * 3 * 8 * 8
    assert timings.layers[1].nodes == ()


def test_an_engine_without_details_has_nodes_from_the_names_of_its_layers(gpu: FakeDriver, tmp_path: Path) -> None:
    engine = load(gpu, tmp_path, detailed=False)
    timer = engine.layer_timer()
    timer.run(FEEDS)
    assert timer.finish().layers[2] == TimedLayer(name="conv1 + relu1", operator="", nodes=("conv1", "relu1"))
    timer.close()
    engine.close()


def test_the_engine_itself_keeps_its_cuda_graphs_and_its_speed(gpu: FakeDriver, tmp_path: Path) -> None:
    engine = load(gpu, tmp_path)
    engine.run(FEEDS)
    before = engine.time_run(FEEDS)
    timer = engine.layer_timer()
    timer.run(FEEDS)
    timer.close()
    assert engine.use_graphs and engine.notes == []
    assert engine.time_run(FEEDS).gpu_ms == before.gpu_ms
    engine.close()


def test_error_when_nothing_was_reported(gpu: FakeDriver, tmp_path: Path) -> None:
    engine = load(gpu, tmp_path, layers=[])
    timer = engine.layer_timer()
    timer.run(FEEDS)
    with pytest.raises(RunError, match="reported no layers"):
        timer.finish()
    timer.close()
    timer.close()
    engine.close()
    with pytest.raises(RunError, match="closed"):
        engine.layer_timer()
