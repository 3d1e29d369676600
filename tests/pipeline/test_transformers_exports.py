"""Detectors of the package transformers are recognized: recorded graphs here, and fresh exports where it is installed.

`tools/record_transformers.py` has made the graphs and the results, with transformers 5.24.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from edgekit.config import ModelConfig
from edgekit.engine.bundle.manifest import FORMAT, Machine, Manifest, Source
from edgekit.kernels.preprocess.geometry import placement
from edgekit.pipeline.load_model import load_model
from edgekit.pipeline.loaded_model import LoadedModel
from edgekit.progress import Silent
from edgekit.recipe.heads import Detr
from edgekit.recipe.schema import Postprocess, Preprocess
from edgekit.runtime.tasks.detector import detections_from_outputs
from edgekit.specs import Precision, TensorSpec
from tools.record_transformers import (
    MODELS,
    PICTURE,
    QUERIES,
    RESULTS,
    SIDE,
    STRUCTURES,
    THRESHOLD,
    export,
    filled,
    made_outputs,
)

STRETCHED = Preprocess(resize="stretch")
SOFTMAX = ("detr", "yolos")
"""Their last slot is the background."""


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))


def head_of(name: str) -> Detr:
    if name in SOFTMAX:
        return Detr(boxes="pred_boxes", logits="logits", activation="softmax", background="last")
    return Detr(boxes="pred_boxes", logits="logits", activation="sigmoid", multi_label=True)


def require_recognized(name: str, found: LoadedModel) -> None:
    if name not in SOFTMAX:
        assert found.postprocess is not None, found.recognized
        assert isinstance(found.postprocess.head, Detr) and found.postprocess.head.activation == "sigmoid"
    else:
        # With random weights, logits do not tell their activation: no head, or the right one.
        head = found.postprocess.head if found.postprocess is not None else None
        assert head is None or (isinstance(head, Detr) and head.activation == "softmax")


@pytest.mark.parametrize("name", MODELS)
def test_a_recorded_export_is_recognized(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(filled(STRUCTURES / f"{name}.onnx.gz"), path)
    require_recognized(name, load_model(ModelConfig(model=str(path)), Silent()))


@pytest.mark.parametrize("name", SOFTMAX)
def test_a_recorded_export_takes_the_activation_that_is_named(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(filled(STRUCTURES / f"{name}.onnx.gz"), path)
    config = ModelConfig(model=str(path), head="detr", head_option={"activation": "softmax"})
    found = load_model(config, Silent()).postprocess
    assert found is not None and isinstance(found.head, Detr)
    assert (found.head.activation, found.head.boxes, found.head.logits) == ("softmax", "pred_boxes", "logits")


@pytest.mark.parametrize("name", MODELS)
def test_detections_are_those_of_the_package(name: str) -> None:
    outputs = made_outputs(name)
    manifest = Manifest(
        format=FORMAT,
        edgekit="0",
        created="2026-01-01T00:00:00Z",
        name=name,
        task="detect",
        backend="null",
        backend_version="0",
        precision=Precision.FP32,
        layers={},
        engine="engine.null",
        machine=Machine(arch="x86_64", cpu="", features=(), system=""),
        source=Source(kind="onnx", name=name),
        build_command="edgekit build model.onnx",
        inputs=(TensorSpec("pixel_values", "float32", (1, 3, SIDE, SIDE)),),
        outputs=tuple(TensorSpec(key, "float32", array.shape) for key, array in outputs.items()),
        preprocess=STRETCHED,
        postprocess=Postprocess(head=head_of(name), score_threshold=THRESHOLD, max_detections=QUERIES),
    )
    place = placement(STRETCHED, PICTURE, (SIDE, SIDE)).placement
    got = detections_from_outputs(outputs, manifest, place)
    recorded = np.load(RESULTS)
    scores, labels, boxes = (recorded[f"{name}/{key}"] for key in ("scores", "labels", "boxes"))
    assert len(scores) > 20
    boxes = np.clip(boxes, 0, np.tile(PICTURE, 2))
    np.testing.assert_array_equal(got.classes, labels)
    np.testing.assert_allclose(got.scores, scores, rtol=1e-5)
    np.testing.assert_allclose(got.boxes, boxes, atol=1e-3)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MODELS)
def test_a_fresh_export_is_recognized(name: str, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    path = tmp_path / "model.onnx"
    export(name, path)
    require_recognized(name, load_model(ModelConfig(model=str(path)), Silent()))
