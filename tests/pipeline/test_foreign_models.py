"""Builds models that other packages publish, if those packages are installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgekit
from edgekit.engine.bundle.manifest import read_manifest
from edgekit.errors import GraphError, UsageError

VOICE: dict[str, Any] = {"input": {"input": (1, 576), "state": (2, 1, 128)}}


@pytest.fixture(autouse=True)
def _in_an_empty_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def installed(file: str) -> Path:
    package, _, rest = file.partition("/")
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        pytest.skip(f"needs the package {package.replace('_', '-')}")
    path = Path(found.submodule_search_locations[0]) / rest
    if not path.is_file():
        pytest.skip(f"this version of {package.replace('_', '-')} has no {path.name}")
    return path


@pytest.mark.parametrize(
    ("file", "target", "options"),
    [
        ("magika/models/standard_v3_3/model.onnx", "cpu", {}),
        ("rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx", "openvino", {"shape": (48, 192)}),
        ("silero_vad/data/silero_vad_16k_op15.onnx", "cpu", VOICE),
        ("silero_vad/data/silero_vad_16k_op15.onnx", "openvino", VOICE),
    ],
)
def test_a_published_model_builds_in_int8_and_answers_under_its_own_names(
    file: str, target: str, options: dict[str, Any]
) -> None:
    pytest.importorskip({"cpu": "onnxruntime", "openvino": "openvino"}[target])
    place = edgekit.build(installed(file), target=target, calib_images=2, profile=False, output="out", **options)
    manifest = read_manifest(place)
    assert manifest.layers["int8"] > 0
    with edgekit.load(place) as session:
        feeds = {spec.name: np.ones([int(size) for size in spec.shape], spec.dtype) for spec in session.inputs}
        answers = session.run(feeds)
    assert list(answers) == [spec.name for spec in manifest.outputs]
    assert all(np.isfinite(answer).all() for answer in answers.values())


@pytest.mark.parametrize(
    ("file", "shape"),
    [
        ("rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx", ((1, 1, 2), 3, 48, (32, 96, 320))),
        ("rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx", (1, 3, 48, (96, 192, 200))),
        ("silero_vad/data/silero_vad_16k_sequence.onnx", ((1, 4, 16), 576)),
    ],
)
def test_a_published_model_of_any_size_gives_what_its_file_gives(file: str, shape: tuple[Any, ...]) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    path = installed(file)
    place = edgekit.build(path, precision="fp32", target="cpu", profile=False, input={"": shape})
    shapes = read_manifest(place).shapes
    original = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    with edgekit.load(place) as session:
        for which in ("min", "opt", "max"):
            random = np.random.default_rng(0)
            feeds = {}
            for spec in session.inputs:
                sizes = getattr(shapes[spec.name], which) if spec.name in shapes else spec.shape
                feeds[spec.name] = random.uniform(-1, 1, sizes).astype(spec.dtype)
            for got, expected in zip(session.run(feeds).values(), original.run(None, feeds), strict=True):
                np.testing.assert_allclose(got, expected, atol=1e-4 * np.abs(expected).max(), err_msg=which)


def test_layers_inside_of_branches_are_named_as_what_cannot_be_quantized() -> None:
    with pytest.raises(GraphError, match="got 16 inside of If, Loop or Scan") as caught:
        edgekit.build(installed("silero_vad/data/silero_vad_op18_ifless.onnx"), **VOICE)
    assert "precision='fp32'" in caught.value.hint
    assert list(Path.cwd().iterdir()) == []


def test_open_sizes_of_a_published_model_are_asked_for() -> None:
    with pytest.raises(UsageError, match="expected a size, or a range MIN:OPT:MAX, for each dimension") as caught:
        edgekit.build(installed("rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx"))
    assert "input={'x': (1, 3, 224, 224)}" in caught.value.hint
