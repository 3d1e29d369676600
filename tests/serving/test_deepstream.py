"""nvinfer's configuration; the names of its properties are those that its own parser of the file knows."""

from __future__ import annotations

import configparser
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edgekit.engine.bundle.manifest import MANIFEST, read_manifest
from edgekit.engine.bundle.writing import seal
from edgekit.errors import EngineMismatch, UsageError
from edgekit.recipe.heads import (
    BatchedRows,
    BoxesScoresLabels,
    Detr,
    EfficientNms,
    End2End,
    Head,
    YoloHead,
    YoloV3,
    YoloV5,
    YoloV8,
    YoloX,
)
from edgekit.recipe.schema import Postprocess, Preprocess
from edgekit.serving.deepstream import export_deepstream
from edgekit.specs import Precision, ShapeRange, TensorSpec

# gstnvinfer_property_parser.h of DeepStream 6.4 to 9.2.
PROPERTIES = {
    *("gpu-id", "gie-unique-id", "process-mode", "interval", "model-engine-file", "onnx-file", "network-mode"),
    *("network-type", "batch-size", "net-scale-factor", "offsets", "model-color-format", "network-input-order"),
    *("infer-dims", "maintain-aspect-ratio", "symmetric-padding", "labelfile-path", "output-tensor-meta"),
    *("parse-classifier-func-name", "parse-bbox-func-name", "custom-lib-path", "classifier-threshold"),
    *("num-detected-classes", "cluster-mode"),
}
CLASS_PROPERTIES = {"pre-cluster-threshold", "nms-iou-threshold", "topk"}

IMAGES = TensorSpec("images", "float32", (1, 3, 64, 96))
LABELS = tuple(f"class {i}" for i in range(80))


def outputs(**shapes: tuple[int, ...]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name, "float32", shape) for name, shape in shapes.items())


END2END = {"head": End2End(output="o"), "outputs": outputs(o=(1, 300, 6))}


@pytest.fixture
def bundle(make_bundle: Callable[..., Path]) -> Callable[..., Path]:
    """Makes the bundle of a TensorRT engine."""

    def make(head: Head | None = END2END["head"], name: str = "engine", **changes: Any) -> Path:
        what = {
            "inputs": (IMAGES,),
            "outputs": END2END["outputs"],
            "labels": LABELS,
            "preprocess": Preprocess(resize="letterbox", pad=114),
            "postprocess": None if head is None else Postprocess(head=head, score_threshold=0.3, iou_threshold=0.6),
        }
        task = {"task": changes.get("task", "detect" if head is not None else "tensor")}
        path = make_bundle(name, **task, **{key: changes.get(key, value) for key, value in what.items()})
        (path / "engine.json").unlink()
        (path / "engine.plan").write_bytes(b"plan" * 100)
        own = {"backend": "tensorrt", "engine": "engine.plan"} | changes
        seal(path, msgspec.structs.replace(read_manifest(path), **own))
        return path

    return make


@pytest.fixture
def exported(bundle: Callable[..., Path], tmp_path: Path) -> Callable[..., tuple[dict[str, str], dict[str, str]]]:
    """The properties and those of all classes, as GLib's key files are read."""

    def export(*arguments: Any, **changes: Any) -> tuple[dict[str, str], dict[str, str]]:
        model = export_deepstream(bundle(*arguments, **changes), tmp_path / "out")
        parsed = configparser.ConfigParser(interpolation=None, delimiters="=")
        parsed.read_string(model.config.read_text(encoding="utf-8"))
        found = dict(parsed["property"])
        assert set(found) <= PROPERTIES
        classes = dict(parsed["class-attrs-all"]) if parsed.has_section("class-attrs-all") else {}
        assert set(classes) <= CLASS_PROPERTIES
        return found, classes

    return export


def test_a_detector_has_its_parser_thresholds_and_files(exported: Callable[..., Any], tmp_path: Path) -> None:
    found, classes = exported()
    assert found["parse-bbox-func-name"] == "NvDsInferParseYolo"
    assert found["custom-lib-path"] == "nvdsinfer_custom_impl_Yolo/libnvdsinfer_custom_impl_Yolo.so"
    assert (found["network-type"], found["cluster-mode"], found["num-detected-classes"]) == ("0", "4", "80")
    assert classes == {"pre-cluster-threshold": "0.3", "nms-iou-threshold": "0.6", "topk": "300"}
    assert (tmp_path / "out" / found["model-engine-file"]).read_bytes() == b"plan" * 100
    assert (tmp_path / "out" / found["labelfile-path"]).read_text().splitlines() == list(LABELS)
    assert "onnx-file" not in found


@pytest.mark.parametrize("name", ["yolo", "imagenet", "yolox", "gray"])
def test_nvinfers_formula_gives_the_models_input(name: str, exported: Callable[..., Any]) -> None:
    how = {
        "yolo": Preprocess(),
        "imagenet": Preprocess(mean=(0.485, 0.456, 0.406), std=(0.25, 0.25, 0.25), color="bgr"),
        "yolox": Preprocess(divisor=1.0, color="bgr", resize="letterbox", place="corner", pad=114),
        "gray": Preprocess(color="gray", mean=(0.5,), std=(0.2,)),
    }[name]
    image = TensorSpec("images", "float32", (1, how.channels, 64, 96))
    found, _ = exported(inputs=(image,), preprocess=how)
    assert int(found["model-color-format"]) == ["rgb", "bgr", "gray"].index(how.color)
    assert found["infer-dims"] == f"{how.channels};64;96"
    pixels = np.arange(256.0)[:, None]
    offsets = np.array(found.get("offsets", ";".join(["0"] * how.channels)).split(";"), float)
    theirs = float(found["net-scale-factor"]) * (pixels - offsets)
    np.testing.assert_allclose(theirs, (pixels / how.divisor - np.array(how.mean)) / np.array(how.std), atol=1e-6)


@pytest.mark.parametrize(
    ("how", "ratio", "symmetric"),
    [
        (Preprocess(), "0", None),
        (Preprocess(resize="letterbox"), "1", "1"),
        (Preprocess(resize="letterbox", place="corner"), "1", None),
    ],
)
def test_the_frame_has_the_place_of_the_models_images(
    how: Preprocess, ratio: str, symmetric: str | None, exported: Callable[..., Any]
) -> None:
    found, _ = exported(preprocess=how)
    assert (found["maintain-aspect-ratio"], found.get("symmetric-padding")) == (ratio, symmetric)


def test_channels_last(exported: Callable[..., Any]) -> None:
    image = TensorSpec("images", "float32", (4, 64, 96, 3))
    found, _ = exported(inputs=(image,), preprocess=Preprocess(layout="nhwc"))
    assert (found["network-input-order"], found["infer-dims"], found["batch-size"]) == ("1", "3;64;96", "4")


@pytest.mark.parametrize(("precision", "mode"), [("fp32", "0"), ("int8", "1"), ("fp16", "2")])
def test_the_network_mode_is_the_precision(precision: str, mode: str, exported: Callable[..., Any]) -> None:
    assert exported(precision=Precision(precision))[0]["network-mode"] == mode


def test_a_range_of_batches_is_its_largest(exported: Callable[..., Any]) -> None:
    image = TensorSpec("images", "float32", ("batch", 3, 64, 96))
    shapes = {"images": ShapeRange((1, 3, 64, 96), (4, 3, 64, 96), (16, 3, 64, 96))}
    rows = TensorSpec("o", "float32", ("batch", 300, 6))
    assert exported(inputs=(image,), outputs=(rows,), shapes=shapes)[0]["batch-size"] == "16"


NMS = EfficientNms(count="n", boxes="b", scores="s", classes="c", coordinates="normalized")
NMS_OUTPUTS = (TensorSpec("n", "int32", (1, 1)), *outputs(b=(1, 100, 4), s=(1, 100), c=(1, 100)))
DETR_OUTPUTS = outputs(pred_boxes=(1, 300, 4), pred_logits=(1, 300, 81))
CELLS = YoloHead(output="o", stride=32, anchors=((10.0, 14.0),))


@pytest.mark.parametrize(
    ("head", "specs", "parser", "cluster"),
    [
        (NMS, NMS_OUTPUTS, "NvDsInferParseCustomBatchedNMSTLT", "4"),
        (YoloV5(output="o"), outputs(o=(1, 126, 85)), "NvDsInferParseCustomYoloV7", "2"),
        (
            Detr(boxes="pred_boxes", logits="pred_logits", background="first"),
            DETR_OUTPUTS,
            "NvDsInferParseCustomDDETRTAO",
            "4",
        ),
    ],
)
def test_a_family_has_the_parser_that_reads_it(
    head: Head, specs: tuple[TensorSpec, ...], parser: str, cluster: str, exported: Callable[..., Any]
) -> None:
    found, _ = exported(head, outputs=specs)
    assert (found["parse-bbox-func-name"], found["cluster-mode"]) == (parser, cluster)


@pytest.mark.parametrize(
    ("head", "specs", "why"),
    [
        (YoloV3(heads=(CELLS,)), outputs(o=(1, 85, 2, 3)), "no parser decodes raw feature maps"),
        (YoloV8(output="o"), outputs(o=(1, 84, 126)), "a model that its own exporter wrote"),
        (YoloX(output="o", decoded=True), outputs(o=(1, 126, 85)), "a model that its own exporter wrote"),
        (BatchedRows(output="o"), outputs(o=(5, 7)), "a model that its own exporter wrote"),
        (
            BoxesScoresLabels(boxes="b", scores="s", labels="l"),
            outputs(b=(1, 9, 4), s=(1, 9), l=(1, 9)),
            "from one output",
        ),
        (YoloV5(output="o"), outputs(o=(1, 126, 8)), "reads 80 classes"),
        (End2End(output="o", extras=32), outputs(o=(1, 300, 38)), "x1 y1 x2 y2 score class"),
        (msgspec.structs.replace(NMS, coordinates="px"), NMS_OUTPUTS, "from 0 to 1, and these are in px"),
        (NMS, NMS_OUTPUTS[::-1], "in this order"),
        (Detr(boxes="b", logits="l", background="first"), outputs(b=(1, 9, 4), l=(1, 9, 81)), "pred_boxes"),
        (Detr(boxes="pred_boxes", logits="pred_logits"), DETR_OUTPUTS, "the first class for the background"),
        (End2End(output="o"), (TensorSpec("o", "float16", (1, 300, 6)),), "is float16"),
    ],
)
def test_where_no_parser_fits_the_tensors_are_attached(
    head: Head, specs: tuple[TensorSpec, ...], why: str, bundle: Callable[..., Path], tmp_path: Path
) -> None:
    model = export_deepstream(bundle(head, outputs=specs), tmp_path / "out")
    text = model.config.read_text()
    assert model.parser == ""
    assert "network-type=100" in text and "output-tensor-meta=1" in text and "parse-bbox" not in text
    assert any("no parser fits" in note and why in note for note in model.notes)


def test_the_background_of_a_detr_is_the_first_label(exported: Callable[..., Any], tmp_path: Path) -> None:
    head = Detr(boxes="pred_boxes", logits="pred_logits", background="first")
    found, _ = exported(head, outputs=DETR_OUTPUTS)
    assert found["num-detected-classes"] == "81"
    assert (tmp_path / "out" / "labels.txt").read_text().splitlines() == ["background", *LABELS]


def test_a_classifier_has_a_line_of_labels_and_a_parser_of_logits(exported: Callable[..., Any], tmp_path: Path) -> None:
    specs = outputs(logits=(1, 3))
    how = Preprocess(resize="crop")
    found, classes = exported(None, task="classify", outputs=specs, labels=("a", "b c", "d"), preprocess=how)
    assert (found["network-type"], classes) == ("1", {})
    assert found["parse-classifier-func-name"] == "NvDsInferClassiferParseNonSoftmax"
    assert (tmp_path / "out" / "labels.txt").read_text() == "a;b c;d\n"


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({}, "build it into the exported folder"),
        ({}, "nvinfer pads frames in black, and the model was made for 114"),
        ({"preprocess": Preprocess(std=(0.2, 0.25, 0.25))}, "values differ by up to 14.3%"),
        ({"preprocess": Preprocess(resize="crop")}, "made for center crops"),
        ({"backend_version": "10.3.0"}, "TensorRT that built it, 10.3.0"),
    ],
)
def test_notes_say_what_differs(
    changes: dict[str, Any], note: str, bundle: Callable[..., Path], tmp_path: Path
) -> None:
    assert any(note in each for each in export_deepstream(bundle(**changes), tmp_path / "out").notes)


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"backend": "cpu"}, UsageError, "DeepStream runs TensorRT's plans, got an engine for 'cpu'"),
        ({"backend": "tensorrt-rtx"}, UsageError, "got an engine for 'tensorrt-rtx'"),
        ({"engine_options": {"strip_weights": True}}, UsageError, "the plan has no weights"),
        ({"preprocess": None}, UsageError, "models with one image input"),
        ({"inputs": (TensorSpec("i", "float16", (1, 3, 8, 8)),)}, UsageError, "build it again without half_io"),
        ({"inputs": (TensorSpec("i", "float32", (1, 3, "h", "w")),)}, UsageError, "models of one image size"),
        ({"labels": ()}, UsageError, "nvinfer needs the number of classes"),
        ({"labels": ("a\nb",)}, UsageError, "expected labels of one line"),
        ({"engine": "", "precision": Precision.INT8}, EngineMismatch, "has a graph for tensorrt, but no engine yet"),
    ],
)
def test_what_nvinfer_cannot_run_is_refused(
    changes: dict[str, Any], kind: type[Exception], message: str, bundle: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(kind) as caught:
        export_deepstream(bundle(**changes), tmp_path / "out")
    assert message in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_float_graph_is_built_by_nvinfer(bundle: Callable[..., Path], tmp_path: Path) -> None:
    path = bundle(engine="", precision=Precision.FP32)
    (path / "engine.plan").unlink()
    (path / "graph.onnx").write_bytes(b"onnx")
    seal(path, read_manifest(path))
    model = export_deepstream(path, tmp_path / "out")
    text = model.config.read_text()
    assert "onnx-file=model.onnx" in text and "model-engine-file" not in text and "network-mode=0" in text
    assert (model.path / "model.onnx").read_bytes() == b"onnx"


def test_an_export_replaces_itself_and_nothing_else(bundle: Callable[..., Path], tmp_path: Path) -> None:
    path = bundle()
    model = export_deepstream(path, tmp_path / "out")
    export_deepstream(path, tmp_path / "out")
    model.config.write_text(model.config.read_text() + "interval=3\n")
    with pytest.raises(UsageError, match="was edited after EdgeKit wrote it"):
        export_deepstream(path, tmp_path / "out")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="files that EdgeKit did not write: notes.txt"):
        export_deepstream(path, tmp_path / "mine")


def test_a_damaged_plan_is_refused(bundle: Callable[..., Path], tmp_path: Path) -> None:
    path = bundle()
    assert (path / MANIFEST).is_file()
    (path / "engine.plan").write_bytes(b"x")
    with pytest.raises(EngineMismatch):
        export_deepstream(path, tmp_path / "out")
