"""YOLOv3-tiny with its published weights: INT8 detections on photos outside the calibration set."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from PIL import Image

import edgekit
from edgekit.data.images import images_in, preprocess
from edgekit.engine.bundle.manifest import Manifest, read_manifest
from edgekit.runtime.detections import Detections
from edgekit.runtime.tasks.detector import detections_from_outputs

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif("EDGEKIT_TEST_DATA" not in os.environ, reason="needs EDGEKIT_TEST_DATA"),
]

CALIBRATED_ON = ("china.jpg", "flower.jpg", "astronaut.png", "coffee.png", "chelsea.png")
EVALUATED = ("dog.jpg", "eagle.jpg", "giraffe.jpg", "horses.jpg", "kite.jpg", "person.jpg")
PARTS = ((0.0, 0.0, 1.0, 1.0), (0.15, 0.15, 0.85, 0.85))

Run = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the photos to calibrate on."""
    folder = tmp_path_factory.mktemp("photos")
    for name in CALIBRATED_ON:
        shutil.copy(Path(os.environ["EDGEKIT_TEST_DATA"]) / "photos" / name, folder)
    return folder


@pytest.fixture(scope="module")
def bundles(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """EdgeKit's engines of both precisions."""
    folder = tmp_path_factory.mktemp("engines")
    weights = Path(os.environ["EDGEKIT_TEST_DATA"]) / "yolov3-tiny" / "yolov3-tiny.weights"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEKIT_CACHE", str(folder / "cache"))
        return {
            precision: edgekit.build(
                "yolov3-tiny",
                precision=precision,
                weights=weights,
                calib=photos if precision == "int8" else None,
                output=folder / precision,
                profile=False,
            )
            for precision in ("fp32", "int8")
        }


@pytest.fixture(scope="module")
def manifest(bundles: dict[str, Path]) -> Manifest:
    return read_manifest(bundles["fp32"])


@pytest.fixture(scope="module")
def theirs(bundles: dict[str, Path], photos: Path, manifest: Manifest) -> Path:
    """ONNX Runtime's own INT8 graph, as its documentation advises for x86: uint8 by minmax, weights by channel."""

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            shape = manifest.inputs[0].shape
            self._feeds = iter([{"images": preprocess(p, manifest.preprocess, shape)[0]} for p in images_in(photos)])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self._feeds, None)

    graph, quantized = bundles["fp32"] / "graph.onnx", bundles["fp32"].parent / "theirs.onnx"
    with contextlib.redirect_stdout(io.StringIO()):
        quantize_static(
            onnx.load(graph),
            quantized,
            Reader(),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
        )
    return quantized


def views() -> Iterator[np.ndarray]:
    """Yields each photo and its center crop, both also mirrored."""
    for name in EVALUATED:
        with Image.open(Path(os.environ["EDGEKIT_TEST_DATA"]) / "photos" / name) as photo:
            pixels = np.asarray(photo.convert("RGB"))
        height, width = pixels.shape[:2]
        for left, top, right, bottom in PARTS:
            part = pixels[round(top * height) : round(bottom * height), round(left * width) : round(right * width)]
            yield from (np.ascontiguousarray(part), np.ascontiguousarray(part[:, ::-1]))


def detections(run: Run, manifest: Manifest, score: float) -> list[Detections]:
    found = []
    for picture in views():
        array, placement = preprocess(picture, manifest.preprocess, manifest.inputs[0].shape)
        outputs = run({manifest.inputs[0].name: array})
        found.append(detections_from_outputs(outputs, manifest, placement, score_threshold=score, max_detections=100))
    return found


def entries(pictures: list[Detections]) -> list[dict[str, object]]:
    return [
        {"image_id": image, "category_id": int(kind) + 1, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": float(score)}
        for image, found in enumerate(pictures)
        for (x1, y1, x2, y2), score, kind in zip(found.boxes.tolist(), found.scores, found.classes, strict=True)
    ]


def mean_average_precision(truth: list[Detections], found: list[Detections]) -> float:
    """Computes the mAP over IoU 0.50:0.95 and all classes that occur, with COCO's own tool."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    annotations = [
        {**entry, "id": number, "area": entry["bbox"][2] * entry["bbox"][3], "iscrowd": 0}
        for number, entry in enumerate(entries(truth), start=1)
    ]
    kinds = {entry["category_id"] for entry in annotations}
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO()
        reference.dataset = {
            "info": {},
            "images": [{"id": image} for image in range(len(truth))],
            "annotations": annotations,
            "categories": [{"id": kind} for kind in kinds],
        }
        reference.createIndex()
        results = reference.loadRes([entry for entry in entries(found) if entry["category_id"] in kinds])
        evaluation = COCOeval(reference, results, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0])


def run_of(model: Path) -> Run:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda feeds: dict(zip(names, session.run(names, feeds), strict=True))


def test_int8_detections_match_fp32_better_than_onnxruntimes_own_int8(
    bundles: dict[str, Path], theirs: Path, manifest: Manifest
) -> None:
    truth = detections(run_of(bundles["fp32"] / "graph.onnx"), manifest, 0.25)
    assert sum(map(len, truth)) > 40  # otherwise there is nothing to compare
    with edgekit.load(bundles["int8"], threads=2) as session:
        ours = mean_average_precision(truth, detections(session.run, manifest, 0.01))
    others = mean_average_precision(truth, detections(run_of(theirs), manifest, 0.01))
    assert ours >= 0.95
    assert others < ours - 0.03
