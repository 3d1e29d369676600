"""Stages run in order, and none of them modifies its inputs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

import edgekit
from edgekit.config import CalibrationConfig, ModelConfig, TargetConfig
from edgekit.engine.backend import backend
from edgekit.measure import compare
from edgekit.pipeline.calibrate import Calibration, calibrate
from edgekit.pipeline.inputs import model_inputs
from edgekit.pipeline.load_model import load_model
from edgekit.pipeline.loaded_model import LoadedModel
from edgekit.pipeline.precision import typed_graph
from edgekit.progress import Silent
from edgekit.quantize.half.cast import half_from_graph
from edgekit.quantize.plan import QuantPolicy
from edgekit.quantize.quantize import quantized_from_graph
from edgekit.specs import Precision

PACKAGE = Path(edgekit.__file__).parent
STAGES = ["build", "validate", "load_model", "inputs", "reference", "calibrate", "precision", "compile"]


@pytest.fixture(autouse=True)
def _in_an_empty_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(compare, "MEASURE_S", 0.05)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return load_model(ModelConfig(model="lenet"), Silent())


@pytest.fixture
def calibration(model: LoadedModel) -> Calibration:
    target = TargetConfig(precision=Precision.INT8, target="cpu")
    config = CalibrationConfig(calib_images=2)
    return calibrate(model, model_inputs(model, config, target, Silent()), config, target, Silent())


def content(graph: ir.Model) -> bytes:
    """All of a graph, weights included."""
    return ir.to_proto(graph).SerializeToString(deterministic=True)


def entered(run: Callable[[], Any]) -> Iterator[str]:
    """The files of EdgeKit whose functions ``run`` calls, in order of the calls."""
    seen: list[str] = []

    def look(frame: FrameType, event: str, argument: Any) -> None:
        file = frame.f_code.co_filename
        if event == "call" and file.startswith(str(PACKAGE)) and frame.f_code.co_name != "<module>":
            seen.append(file[len(str(PACKAGE)) + 1 :])

    sys.setprofile(look)
    try:
        run()
    finally:
        sys.setprofile(None)
    yield from seen


def test_a_build_enters_the_stages_in_their_order_once_each() -> None:
    edgekit.build("lenet", target="cpu", calib_images=2, output="warm", profile=False)  # imports are no part of it
    files = list(entered(lambda: edgekit.build("lenet", target="cpu", calib_images=2, output="out")))
    pipeline = [Path(file).stem for file in files if file.startswith("pipeline/")]
    order = list(dict.fromkeys(stage for stage in pipeline if stage in STAGES))
    assert order == STAGES
    # Once each: between the first and the last call of a stage's file, no other stage is entered.
    inner = [stage for stage in pipeline if stage in STAGES[2:]]
    runs = [stage for index, stage in enumerate(inner) if index == 0 or inner[index - 1] != stage]
    assert runs == STAGES[2:]


@pytest.mark.parametrize("target", ["cpu", "openvino", "tensorrt"])
def test_one_graph_is_quantized_twice_and_stays_as_it_was(
    model: LoadedModel, calibration: Calibration, target: str
) -> None:
    before = content(model.graph)
    scheme = backend(target).scheme()
    assert calibration.table is not None
    whole = quantized_from_graph(model.graph, calibration.table, scheme)
    products = [node.name or "" for node in model.graph.graph if node.op_type in ("Conv", "Gemm")]
    partly = quantized_from_graph(model.graph, calibration.table, scheme, QuantPolicy(keep_float=(products[2],)))
    assert content(model.graph) == before
    assert len(partly.plan.skipped) == len(whole.plan.skipped) + 1
    assert content(whole.graph) != content(partly.graph)
    again = quantized_from_graph(model.graph, calibration.table, scheme)
    assert content(again.graph) == content(whole.graph)


@pytest.mark.parametrize("precision", [Precision.FP16, Precision.BF16])
def test_a_graph_cast_to_half_precision_stays_as_it_was(model: LoadedModel, precision: Precision) -> None:
    before, opset = content(model.graph), model.graph.opset_imports[""]
    half = half_from_graph(model.graph, precision, io=True)
    assert content(model.graph) == before and model.graph.opset_imports[""] == opset
    assert {value.dtype for value in half.graph.graph.inputs} != {value.dtype for value in model.graph.graph.inputs}


def test_weights_that_stay_in_float_are_shared_with_the_float_graph(
    model: LoadedModel, calibration: Calibration
) -> None:
    target = TargetConfig(precision=Precision.INT8, target="cpu")
    typed = typed_graph(model, calibration, target, Silent())
    shared = [
        name
        for name, value in typed.graph.graph.initializers.items()
        if name in model.graph.graph.initializers
        and value.const_value is model.graph.graph.initializers[name].const_value
    ]
    assert shared
    arrays = (graph.graph.initializers[shared[0]].const_value for graph in (typed.graph, model.graph))
    first, second = (array.numpy() for array in arrays if array is not None)
    assert np.shares_memory(first, second)
