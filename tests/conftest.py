from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image

import edgekit
from edgekit.engine.bundle import Manifest, Source, seal, this_machine, write_bundle
from edgekit.recipe import Postprocess, Preprocess, YoloHead
from edgekit.specs import Precision, TensorSpec

MakeBundle = Callable[..., Path]

INPUT = TensorSpec("images", "float32", (1, 3, 64, 64))
HEAD = TensorSpec("head", "float32", (1, 21, 2, 2))
DETECTOR = {
    "task": "detect",
    "inputs": (INPUT,),
    "outputs": (HEAD,),
    "preprocess": Preprocess(resize="letterbox"),
    "postprocess": Postprocess(
        kind="yolov3",
        heads=(YoloHead(output="head", stride=32, anchors=((10.0, 14.0), (23.0, 27.0), (37.0, 58.0))),),
    ),
    "labels": ("cat", "dog"),
}
TENSOR = {
    "task": "tensor",
    "inputs": (TensorSpec("x", "float32", (2, 8)),),
    "outputs": (TensorSpec("y", "float32", (2, 4)),),
}


@pytest.fixture
def make_bundle(tmp_path: Path) -> MakeBundle:
    """Writes a bundle of the null backend, which answers zeros: a detector scores 0.25 everywhere."""

    def make(name: str = "engine", *, kind: dict[str, Any] = DETECTOR, **changes: Any) -> Path:
        what = kind | changes
        with write_bundle(tmp_path / name) as folder:
            specs = {"inputs": what["inputs"], "outputs": what["outputs"]}
            (folder / "engine.json").write_bytes(msgspec.json.encode(specs))
            manifest = Manifest(
                format=1,
                edgekit=edgekit.__version__,
                created="2026-01-01T00:00:00+00:00",
                backend="null",
                backend_version=edgekit.__version__,
                precision=Precision.FP32,
                layers={"float32": 1},
                engine="engine.json",
                machine=this_machine(),
                source=Source(kind="module", name="tests:module"),
                rebuild="edgekit build tests:module --target null",
                **({"name": name} | what),
            )
            seal(folder, manifest)
        return tmp_path / name

    return make


@pytest.fixture
def detector(make_bundle: MakeBundle) -> Path:
    """A detector's bundle with a note."""
    return make_bundle("detector", notes=("The weights are random: latency is real, detections are not.",))


@pytest.fixture
def arrays_engine(make_bundle: MakeBundle) -> Path:
    """The bundle of an engine that takes arrays and knows no pictures."""
    return make_bundle("arrays", kind=TENSOR)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A picture of 100 x 60 px."""
    pixels = np.random.default_rng(0).integers(0, 256, (60, 100, 3), dtype=np.uint8)
    path = tmp_path / "picture.png"
    Image.fromarray(pixels).save(path)
    return path
