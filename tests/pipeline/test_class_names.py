"""Class names travel: from the data set into the weights, from the weights into the engine, to detections by name."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import msgspec
import pytest
from PIL import Image

from edgekit.arguments import on_command_line
from edgekit.data.examples import data_set
from edgekit.engine.bundle.manifest import read_manifest
from edgekit.errors import DataError, UsageError
from edgekit.evaluation.evaluate import evaluate_bundle
from edgekit.models.cfg.recipe import recipe_from_cfg
from edgekit.models.darknet import save_darknet
from edgekit.models.factory import module_from_recipe
from edgekit.models.weights.origin import origin_of_weights
from edgekit.pipeline import class_names
from edgekit.pipeline.build import build
from edgekit.progress import Silent
from edgekit.recipe.schema import Labels, Weights, load_recipe
from edgekit.training.train import Trained, train_model

CFG = """[net]
width=32
height=32
channels=3

[convolutional]
size=32
stride=32
filters=7
activation=linear

[yolo]
mask=0
anchors=16,16
classes=2
num=1
"""


class Notes(Silent):
    """Keeps all notes."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def note(self, text: str) -> None:
        self.texts.append(text)


@pytest.fixture
def cfg(tmp_path: Path) -> Path:
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "toy.cfg").write_text(CFG)
    return tmp_path / "toy" / "toy.cfg"


def split(folder: Path, name: str, ids: dict[str, int]) -> None:
    """COCO JSON of pictures with a red box at the left and a blue one at the right."""
    (folder / name).mkdir(parents=True)
    for i in range(3):
        image = Image.new("RGB", (32, 32))
        image.paste((255, 0, 0), (0, 0, 16, 32))
        image.paste((0, 0, 255), (16, 0, 32, 32))
        image.save(folder / name / f"{i}.png")
    content = {
        "images": [{"id": i, "file_name": f"{i}.png", "width": 32, "height": 32} for i in range(3)],
        "annotations": [
            {"image_id": i, "category_id": ids[color], "bbox": [x, 0, 16, 32]}
            for i in range(3)
            for color, x in (("red", 0), ("blue", 16))
        ],
        "categories": [{"id": id, "name": color} for color, id in ids.items()],
    }
    (folder / f"{name}.json").write_text(json.dumps(content))


def trained(cfg: Path, data: Path, progress: Silent) -> Trained:
    changes = {"epochs": 1, "batch": 3, "augment": []}
    return train_model(
        cfg, data=f"coco:{data}", output=cfg.with_name("w.safetensors"), changes=changes, progress=progress
    )


def test_names_of_the_data_set_are_in_the_weights_and_the_engine(cfg: Path, tmp_path: Path) -> None:
    split(tmp_path / "set", "train", {"red": 1, "blue": 2})
    split(tmp_path / "set", "val", {"blue": 1, "red": 2})
    notes = Notes()
    found = trained(cfg, tmp_path / "set", notes)
    assert found.labels == ("red", "blue") and found.split == "val"
    assert any(
        "has no class names: its classes take those of the data set, in its order: red, blue" in n for n in notes.texts
    )
    origin = origin_of_weights(found.weights)
    assert origin.labels == ("red", "blue") and origin.inputs is not None
    assert origin.inputs.mean == pytest.approx(1 / 3, abs=0.02)  # a third of the values is 1
    engine = build(cfg, precision="fp32", target="cpu", weights=found.weights, output=tmp_path / "e", profile=False)
    manifest = read_manifest(engine)
    assert manifest.labels == ("red", "blue") and manifest.input_statistics == origin.inputs


def test_labels_of_a_file_replace_those_of_the_weights(cfg: Path, tmp_path: Path) -> None:
    names = tmp_path / "data.yaml"
    names.write_text("names: [rot, blau]\n")
    engine = build(cfg, precision="fp32", target="cpu", labels=names, output=tmp_path / "e", profile=False)
    manifest = read_manifest(engine)
    assert manifest.labels == ("rot", "blau") and f"--labels {names}" in manifest.build_command
    names.write_text("names: [rot, blau, grün]\n")
    with (
        on_command_line(),
        pytest.raises(UsageError, match="--labels: expected 2 names, the number of classes of 'toy', got 3"),
    ):
        build(cfg, precision="fp32", target="cpu", labels=names, output=tmp_path / "f", profile=False)
    assert not (tmp_path / "f").exists()


def test_names_next_to_a_cfg_are_noted(cfg: Path, tmp_path: Path) -> None:
    cfg.with_name("obj.names").write_text("red\nblue\n")
    engine = build(cfg, precision="fp32", target="cpu", output=tmp_path / "e", profile=False)
    manifest = read_manifest(engine)
    assert manifest.labels == ("red", "blue")
    assert "the class names are those of obj.names, which is next to toy.cfg" in manifest.notes


def test_a_positional_match_is_noted_and_labels_end_it(cfg: Path, tmp_path: Path) -> None:
    split(tmp_path / "set", "test", {"blue": 1, "red": 2})
    engine = build(cfg, precision="fp32", target="cpu", output=tmp_path / "e", profile=False)
    examples = data_set(f"coco:{tmp_path / 'set'}")
    found = evaluate_bundle(engine, data=examples)
    assert any("the engine has no class names" in note and "blue, red" in note for note in found.notes)
    named = evaluate_bundle(engine, data=examples, labels=("red", "blue"))
    assert not any("no class names" in note for note in named.notes)
    assert named.details.labels == ("red", "blue")
    with on_command_line(), pytest.raises(UsageError, match="--labels: expected 2 names"):
        evaluate_bundle(engine, data=examples, labels=("red",))


def test_a_test_split_with_another_class_is_refused(cfg: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split(tmp_path / "set", "train", {"red": 1, "blue": 2})
    other = tmp_path / "other"
    split(other, "val", {"red": 1, "blue": 2})
    (other / "val.json").write_text((other / "val.json").read_text().replace('"blue"', '"green"'))
    sets = {"train": data_set(f"coco:{tmp_path / 'set'}", split="train"), "test": data_set(f"coco:{other}")}
    monkeypatch.setattr("edgekit.training.train.data_set", lambda source, split, **_: sets[split])
    with pytest.raises(DataError, match="expected classes of the train split, got the model lacks 'green'"):
        trained(cfg, tmp_path / "set", Silent())


def test_published_weights_are_known_by_their_hash(cfg: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = module_from_recipe(recipe_from_cfg(cfg))
    save_darknet(module, tmp_path / "some.weights")
    sha256 = hashlib.sha256((tmp_path / "some.weights").read_bytes()).hexdigest()
    published = Weights(url="https://example.org/w", sha256=sha256[:8], license="none", source="nobody")
    recipe = load_recipe("yolov3-tiny")
    known = msgspec.structs.replace(
        recipe,
        model=msgspec.structs.replace(recipe.model, arguments={"classes": 2}),
        labels=Labels(names=("cat", "dog")),
        weights={"x": published},
    )
    monkeypatch.setattr(class_names, "load_recipe", lambda name: known)
    notes = Notes()
    bundle = build(cfg, weights=tmp_path / "some.weights", precision="fp32", target="null", profile=False,
                   output=tmp_path / "e", progress=notes)  # fmt: skip
    assert read_manifest(bundle).labels == ("cat", "dog")
    assert any("those of the published weights: cat, dog" in text for text in notes.texts)
