"""Ranges are made by the method that keeps more of the outputs, where nobody names one."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

import edgekit
from tests.decibels import signal_to_noise_db

SHAPE = (1, 8, 64, 64)
LAYERS = 2
LARGE = 100.0


@pytest.fixture(autouse=True)
def _in_an_empty_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def chain(channels: int = SHAPE[1], layers: int = LAYERS) -> Path:
    """Writes convolutions with a bounded activation, so that a large input hardly matters behind the first."""
    shape = (1, channels, *SHAPE[2:])
    random = np.random.default_rng(0)
    nodes, weights, value = [], [], "x"
    for index in range(layers):
        kernel = random.normal(0, 1 / np.sqrt(9 * channels), (channels, channels, 3, 3)).astype(np.float32)
        weights.append(numpy_helper.from_array(kernel, f"w{index}"))
        nodes.append(helper.make_node("Conv", [value, f"w{index}"], [f"c{index}"], name=f"c{index}", pads=[1] * 4))
        nodes.append(helper.make_node("Tanh", [f"c{index}"], [f"t{index}"], name=f"t{index}"))
        nodes.append(helper.make_node("Mul", [f"t{index}", "gain"], [f"m{index}"], name=f"m{index}"))
        value = f"m{index}"
    weights.append(numpy_helper.from_array(np.float32(1.5), "gain"))
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(value, TensorProto.FLOAT, shape)],
        weights,
    )
    path = Path("chain.onnx")
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def arrays(seed: int, large: float = 0.0, channels: int = SHAPE[1]) -> list[np.ndarray]:
    """Normal noise; one value of the first array is ``large``, if it is not 0."""
    found = np.random.default_rng(seed).normal(0, 1, (8, 1, channels, *SHAPE[2:])).astype(np.float32)
    if large:
        found[0, 0, 0, 20, 20] = large
    return list(found)


def kept_db(bundle: Path, model: Path, feeds: Sequence[np.ndarray]) -> float:
    """Signal-to-noise ratio against the original file, in ONNX Runtime without optimizations."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    original = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    with edgekit.load(bundle, threads=1) as session:
        name = session.outputs[0].name
        expected = np.stack([original.run(None, {"x": feed})[0] for feed in feeds])
        got = np.stack([session.run({"x": feed})[name] for feed in feeds])
    return signal_to_noise_db(expected, got)


def built(
    model: Path, output: str, large: float, method: Literal["minmax"] | None = None, channels: int = SHAPE[1]
) -> str:
    """Builds INT8, and returns the method by which its ranges were made."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        edgekit.build(
            model,
            target="cpu",
            calib=arrays(0, large, channels),
            calib_method=method,
            output=output,
            profile=False,
            progress=False,
        )
    return str(json.loads(Path(output, "calibration.json").read_text())["method"])


def test_the_better_method_is_chosen() -> None:
    model, held_out = chain(), arrays(1)
    assert built(model, "minmax", LARGE, "minmax") == "minmax"
    assert built(model, "chosen", LARGE) == "percentile"
    minmax_db, chosen_db = (kept_db(Path(name), model, held_out) for name in ("minmax", "chosen"))
    assert minmax_db < 20 and chosen_db > minmax_db + 10


def test_what_keeps_enough_stays_as_it_is() -> None:
    assert built(chain(), "chosen", large=0.0) == "minmax"


def test_a_choice_is_told() -> None:
    with pytest.warns(edgekit.EdgeKitWarning, match="ranges are chosen by 'percentile', which keeps .* 'minmax' keeps"):
        edgekit.build(chain(), target="cpu", calib=arrays(0, LARGE), output="told", profile=False, progress=False)


def test_random_weights_of_an_onnx_file_are_not_worth_a_choice() -> None:
    """With so many numbers it shows that they are random."""
    assert built(chain(24, 3), "random", LARGE, channels=24) == "minmax"
