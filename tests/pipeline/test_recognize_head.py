"""ONNX files of detectors, from the file to boxes in an image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

import edgekit
from edgekit.cli.main import main
from edgekit.config import ModelConfig
from edgekit.engine.bundle.manifest import read_manifest
from edgekit.errors import UsageError
from edgekit.pipeline.load_model import load_model
from edgekit.pipeline.loaded_model import LoadedModel
from edgekit.pipeline.validate import model_config
from edgekit.progress import Silent
from edgekit.recipe.heads import YoloV8
from edgekit.recipe.schema import load_recipe

SIDE, STRIDE, CLASSES = 128, 8, 3
CELLS = (SIDE // STRIDE) ** 2


class Notes(Silent):
    """Keeps the notes."""

    def __init__(self) -> None:
        self.text = ""

    def note(self, text: str) -> None:
        self.text += f"{text}\n"


@pytest.fixture(autouse=True)
def _in_an_empty_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def detector(path: Path, *, joined: bool = True, metadata: dict[str, str] | None = None) -> Path:
    """An untrained detector with the layout of YOLOv8: a box and a score for each class in each cell."""
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[:SIDE:STRIDE, :SIDE:STRIDE].reshape(2, -1)
    place = np.zeros((1, 4, CELLS), np.float32)
    place[0, 0], place[0, 1], place[0, 2:] = columns, rows, 24
    weights = {
        "w": random.normal(0, 0.05, (16, 3, STRIDE, STRIDE)),
        "b": random.normal(0, 0.3, (4, 16, 1, 1)),
        "c": random.normal(0, 1, (CLASSES, 16, 1, 1)),
        "place": place,
    }
    nodes = [
        helper.make_node("Conv", ["images", "w"], ["f"], "stem", strides=[STRIDE, STRIDE]),
        helper.make_node("Relu", ["f"], ["r"], "relu"),
        helper.make_node("Conv", ["r", "b"], ["bf"], "box"),
        helper.make_node("Conv", ["r", "c"], ["cf"], "class"),
        helper.make_node("Reshape", ["bf", "box_shape"], ["br"], "box_rows"),
        helper.make_node("Reshape", ["cf", "class_shape"], ["cr"], "class_rows"),
        helper.make_node("Add", ["br", "place"], ["boxes"], "decode"),
        helper.make_node("Sigmoid", ["cr"], ["scores"], "sigmoid"),
    ]
    outputs = [("boxes", 4), ("scores", CLASSES)]
    if joined:
        nodes.append(helper.make_node("Concat", ["boxes", "scores"], ["output0"], "join", axis=1))
        outputs = [("output0", 4 + CLASSES)]
    shapes = {"box_shape": [1, 4, CELLS], "class_shape": [1, CLASSES, CELLS]}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, size, CELLS]) for name, size in outputs],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()]
        + [numpy_helper.from_array(np.array(shape, np.int64), name) for name, shape in shapes.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, metadata or {})
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def loaded(path: Path, notes: Notes | None = None, **options: Any) -> LoadedModel:
    config: ModelConfig = model_config(model=path, **options)
    return load_model(config, notes or Notes())


def test_a_file_is_recognized_with_its_evidence(tmp_path: Path) -> None:
    notes = Notes()
    model = loaded(detector(tmp_path / "d.onnx"), notes)
    assert model.task == "detect" and model.postprocess is not None
    assert model.postprocess.head == YoloV8(output="output0", overlap="probiou")
    assert model.preprocess is not None and (model.preprocess.resize, model.preprocess.pad) == ("letterbox", 114)
    assert "looks like YOLOv8 or a later YOLO, task detect, 3 classes: output0 (1, 7, 256) = 16² cells" in notes.text
    assert "images are preprocessed as Ultralytics' are: resize=letterbox" in notes.text
    assert "is assumed to be an image" not in notes.text


def test_class_names_come_from_metadata_or_a_file(tmp_path: Path) -> None:
    path = detector(tmp_path / "d.onnx", metadata={"names": "{0: 'a', 1: 'b', 2: 'c'}", "task": "detect"})
    assert loaded(path).labels == ("a", "b", "c")
    (tmp_path / "names.txt").write_text("x\ny\nz\n")
    bundle = edgekit.build(path, precision="fp32", labels=tmp_path / "names.txt", output="made", profile=False)
    assert read_manifest(bundle).labels == ("x", "y", "z")
    (tmp_path / "names.txt").write_text("x\ny\n")
    with pytest.raises(UsageError, match="expected 3 names, the number of classes of 'd', got 2"):
        edgekit.build(path, precision="fp32", labels=tmp_path / "names.txt", output="other", profile=False)


def test_fields_of_the_preprocessing_are_replaced(tmp_path: Path) -> None:
    model = loaded(detector(tmp_path / "d.onnx"), preprocess={"pad": 0})
    assert model.preprocess is not None and (model.preprocess.resize, model.preprocess.pad) == ("letterbox", 0)


def test_arrays_stay_arrays_where_that_is_asked(tmp_path: Path) -> None:
    model = loaded(detector(tmp_path / "d.onnx"), no_head=True)
    assert model.task == "tensor" and model.postprocess is None and not model.recognized


def test_a_head_can_be_given_with_its_options(tmp_path: Path) -> None:
    path = detector(tmp_path / "d.onnx")
    model = loaded(path, head="yolov8", head_option={"multi_label": "true"})
    assert model.postprocess is not None
    assert model.postprocess.head == YoloV8(output="output0", overlap="probiou", multi_label=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head": "yolov9"}, r"head: expected one of yolov1, .*, got 'yolov9'"),
        ({"head_option": {"extras": 3}}, r"head_option goes with head"),
        ({"head": "yolov8", "no_head": True}, r"head='yolov8' and no_head=True exclude each other"),
        ({"head": "yolov8", "head_option": {"extra": 3}}, r"head='yolov8': .*unknown field `extra`"),
        (
            {"head": "yolov8", "head_option": {"extras": 3}},
            r"expected .N, 4 . classes . 3, cells., got .1, 7, 256.",
        ),
        ({"head": "yolox"}, r"head='yolox': output 'output0': expected 336 cells for strides 8, 16, 32 .*, got 7"),
        ({"head": "efficient-nms"}, r"missing required field"),
        ({"head": "detr", "head_option": {"logits": "no"}}, r"output 'no': expected"),
    ],
)
def test_error_on_a_head_that_does_not_fit(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        loaded(detector(tmp_path / "d.onnx"), **options)


def test_a_built_engine_finds_the_boxes_of_the_definition(tmp_path: Path) -> None:
    path = detector(tmp_path / "d.onnx", metadata={"names": "['a', 'b', 'c']"})
    bundle = edgekit.build(path, precision="fp32", target="cpu", output="made", profile=False)
    image = np.random.default_rng(1).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    with edgekit.load(bundle) as session:
        found = session.detect(image, score_threshold=0.6, iou_threshold=1.0, max_detections=1000)
        raw = session.run({"images": (image.transpose(2, 0, 1)[None] / np.float32(255)).astype(np.float32)})["output0"][
            0
        ]
    best = raw[4:].max(axis=0)
    cells = np.flatnonzero(best > 0.6)
    order = cells[np.argsort(-best[cells], kind="stable")]
    center, sides = raw[:2, order].T, raw[2:4, order].T
    corners = np.clip(np.concatenate([center - sides / 2, center + sides / 2], axis=1), 0, SIDE)
    assert len(found) == len(order) > 10
    np.testing.assert_allclose(found.scores, best[order], rtol=1e-6)
    np.testing.assert_allclose(found.boxes, corners, atol=1e-3)
    assert found.labels == ["abc"[kind] for kind in raw[4:, order].argmax(axis=0)]
    manifest = read_manifest(bundle)
    assert manifest.recognized.startswith("looks like YOLOv8")
    assert not [note for note in manifest.notes if "looks like" in note or "preprocessed" in note]


def test_a_recipe_is_written_and_builds_the_same_engine(tmp_path: Path) -> None:
    path = detector(tmp_path / "d.onnx", metadata={"names": "['a', 'b', 'c']"})
    assert main(["recipe", "new", str(path), "-o", str(tmp_path / "mine.toml"), "--preprocess", "pad=7"]) == 0
    assert main(["recipe", "new", str(path), "-o", str(tmp_path / "mine.toml")]) == 2
    made = [
        read_manifest(edgekit.build(model, precision="fp32", target="null", output=name, profile=False, **options))
        for model, name, options in ((path, "one", {"preprocess": {"pad": 7}}), (tmp_path / "mine.toml", "two", {}))
    ]
    recipe = load_recipe(tmp_path / "mine.toml")
    assert sorted(recipe.quantize.keep_float) == ["box", "class"]
    for field in ("task", "inputs", "outputs", "preprocess", "postprocess", "labels"):
        assert getattr(made[0], field) == getattr(made[1], field), field


def test_heads_are_quantized_on_request(tmp_path: Path) -> None:
    path = detector(tmp_path / "d.onnx")
    assert main(["recipe", "new", str(path), "-o", str(tmp_path / "mine.toml")]) == 0

    def layers(model: Path, **options: object) -> dict[str, int]:
        place = edgekit.build(model, target="null", output="out", profile=False, force=True, **options)  # type: ignore[arg-type]
        return read_manifest(place).layers

    for model in (path, tmp_path / "mine.toml"):
        assert layers(model) == {"int8": 1, "float32": 2}
        assert layers(model, quantize_heads=True) == {"int8": 3}
        assert layers(model, quantize_heads=True, keep_float=["box"]) == {"int8": 2, "float32": 1}


def test_error_on_a_recipe_whose_outputs_are_not_in_the_file(tmp_path: Path) -> None:
    path = detector(tmp_path / "d.onnx")
    assert main(["recipe", "new", str(path), "-o", str(tmp_path / "mine.toml")]) == 0
    text = (tmp_path / "mine.toml").read_text().replace('"output0"', '"boxes9"')
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(UsageError, match=r"expected outputs of .*d.onnx, which are output0, got boxes9"):
        loaded(tmp_path / "mine.toml")
    with pytest.raises(UsageError, match="input does not go with the recipe"):
        loaded(tmp_path / "mine.toml", input={"images": (1, 3, 64, 64)})


def test_error_on_a_head_for_a_recipe() -> None:
    with pytest.raises(UsageError, match="head='yolov8': expected an ONNX file, got yolov3-tiny"):
        load_model(model_config(model="yolov3-tiny", head="yolov8"), Notes())


def classifier(path: Path) -> Path:
    """An untrained classifier without metadata, as PyTorch exports one: logits of `CLASSES` classes."""
    random = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["images", "w"], ["f"], "stem", strides=[STRIDE, STRIDE]),
        helper.make_node("GlobalAveragePool", ["f"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["logits"], "flatten"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, CLASSES])],
        [numpy_helper.from_array(random.normal(0, 0.05, (CLASSES, 3, STRIDE, STRIDE)).astype(np.float32), "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_class_names_that_are_given_make_a_classifier() -> None:
    Path("names.txt").write_text("cat\ndog\nfox\n")
    built = edgekit.build(
        classifier(Path("net.onnx")), precision="fp32", labels="names.txt", target="cpu", profile=False
    )
    image = np.random.default_rng(1).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    feed = {"images": image.transpose(2, 0, 1)[None].astype(np.float32) / 255}
    (logits,) = ort.InferenceSession("net.onnx", providers=["CPUExecutionProvider"]).run(None, feed)
    expected = np.exp(logits[0]) / np.exp(logits[0]).sum()
    with edgekit.load(built) as session:
        found = session.classify(image, top=CLASSES)
    assert [each.label for each in found] == [("cat", "dog", "fox")[i] for i in np.argsort(-expected)]
    np.testing.assert_allclose([each.probability for each in found], np.sort(expected)[::-1], atol=1e-6)


def test_without_class_names_the_outputs_of_a_classifier_are_arrays() -> None:
    Path("names.txt").write_text("cat\ndog\nfox\n")
    file = classifier(Path("net.onnx"))
    assert load_model(model_config(model=file), Silent()).task == "tensor"
    assert load_model(model_config(model=file, labels="names.txt", no_head=True), Silent()).task == "tensor"
