"""Tasks are found in their packages: a new task needs one file for its results and one for its figures."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args

import msgspec
import numpy as np
import pytest

import edgekit.evaluation.evaluators
import edgekit.runtime.tasks
from edgekit.cli.main import main
from edgekit.data.examples import Example
from edgekit.data.missing import hint_on_missing
from edgekit.data.vocabulary import SPECIAL_TOKENS
from edgekit.engine.bundle.manifest import Manifest, read_manifest
from edgekit.errors import RunError, UsageError
from edgekit.evaluation.evaluate import evaluate_session
from edgekit.evaluation.evaluators.choose import measures
from edgekit.recipe.schema import Preprocess, Task
from edgekit.runtime.session import session_from_bundle
from edgekit.runtime.tasks.choose import require_task, task_of, tasks
from edgekit.specs import TensorSpec

IMAGE = (TensorSpec("images", "float32", (1, 3, 8, 8)),)
SCORES = (TensorSpec("scores", "float32", (1, 2)),)

BRIGHTNESS = """
from edgekit.runtime.tasks.task import ImageTask, Shown

class Brightness(ImageTask):
    name = "brightness"
    engine = "a light meter"
    options = ("top",)

    def result(self, outputs, manifest, placement, *, top=5):
        return float(outputs["scores"].sum()) + top

    def shown(self, result):
        return Shown(f"[{result}]", (), [])

    def entries(self, result, picture, image_id):
        return [{"file_name": picture.name, "brightness": result}]

TASK = Brightness()
"""

BRIGHTNESS_FIGURES = """
from edgekit.evaluation.evaluators.base import Figure, Measure, SessionEvaluator

class BrightnessEvaluator(SessionEvaluator):
    def evaluate(self, batch):
        self.total = sum(float(scores) for scores in self._run(batch)["scores"].sum(axis=1))

    def figures(self):
        return {"total": self.total}

MEASURE = Measure(
    task="brightness",
    make=lambda session, examples, threshold: BrightnessEvaluator(session),
    figures={"total": Figure("total", is_share=False)},
)
"""


@pytest.fixture
def brightness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Puts two files of another task into the packages."""
    for package, text in ((edgekit.runtime.tasks, BRIGHTNESS), (edgekit.evaluation.evaluators, BRIGHTNESS_FIGURES)):
        folder = tmp_path / package.__name__
        folder.mkdir()
        (folder / "brightness.py").write_text(text)
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
    tasks.cache_clear()
    measures.cache_clear()
    yield
    tasks.cache_clear()
    measures.cache_clear()
    for package in (edgekit.runtime.tasks, edgekit.evaluation.evaluators):
        sys.modules.pop(f"{package.__name__}.brightness", None)


@pytest.fixture
def light_meter(make_bundle: Callable[..., Path]) -> Path:
    kind = {"task": "brightness", "inputs": IMAGE, "outputs": SCORES, "preprocess": Preprocess(resize="stretch")}
    return make_bundle("meter", kind=kind)


def test_every_task_of_recipes_has_a_file() -> None:
    assert set(tasks()) == set(get_args(Task))
    assert set(measures()) < set(tasks())


@pytest.mark.usefixtures("brightness")
def test_another_task_needs_a_file_for_its_results(
    light_meter: Path, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(light_meter), str(picture), "--top", "3"]) == 0
    assert capsys.readouterr().out.startswith("picture.png: [3.0], in ")
    assert main(["run", str(light_meter), str(picture), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [{"file_name": "picture.png", "brightness": 5.0}]
    assert main(["run", str(light_meter)]) == 2
    assert "expected an image or a folder of images" in capsys.readouterr().err
    assert main(["run", str(light_meter), str(picture), "--save", "out.png"]) == 2
    assert "'pose' or 'segment', whose results are drawn, got a light meter" in capsys.readouterr().err


class Pictures:
    name, task, labels, notes = "pictures", "brightness", (), ()

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Example:
        return Example("black", np.zeros((9, 9, 3), np.uint8), 0)


@pytest.mark.usefixtures("brightness")
def test_another_task_needs_a_file_for_its_figures(light_meter: Path) -> None:
    with session_from_bundle(light_meter) as session:
        assert evaluate_session(session, Pictures()).figures == {"total": 0.0}  # type: ignore[arg-type]


def test_error_on_a_data_set_for_a_task_that_is_not_measured(light_meter: Path) -> None:
    with session_from_bundle(light_meter) as session, pytest.raises(UsageError, match="got one for 'brightness'"):
        evaluate_session(session, Pictures())  # type: ignore[arg-type]


def test_an_engine_for_a_task_that_is_not_known_takes_arrays(light_meter: Path) -> None:
    manifest = read_manifest(light_meter)
    assert task_of(manifest) is tasks()["tensor"]
    assert task_of(manifest).takes(manifest) == "arrays"


IMAGES_OF_TWO = (TensorSpec("x", "float32", (2, 3, 8, 8)),)
DETECTOR = {"task": "detect", "preprocess": Preprocess(resize="letterbox")}
CLASSIFIER = {"task": "classify", "preprocess": Preprocess(resize="stretch"), "postprocess": None}
TRANSLATOR = {"task": "translate", "labels": (*SPECIAL_TOKENS, "7"), "preprocess": None, "postprocess": None}


@pytest.mark.parametrize(
    ("changes", "takes", "example"),
    [
        (DETECTOR, "images", "PHOTO.jpg --save boxes.jpg"),
        (CLASSIFIER, "images", "PHOTO.jpg"),
        ({**CLASSIFIER, "preprocess": None}, "arrays", "INPUT.npy --save outputs.npz"),
        (TRANSLATOR, "texts", "--text 1742"),
        ({**TRANSLATOR, "labels": (*SPECIAL_TOKENS, "x")}, "texts", "TEXTS.txt"),
        ({"task": "regress", "preprocess": None}, "arrays", "INPUT.npy --save outputs.npz"),
        ({"task": "tensor", "inputs": IMAGE}, "arrays", "PHOTO.jpg --save outputs.npz"),
        ({"task": "tensor", "inputs": IMAGES_OF_TWO}, "arrays", "INPUT.npy --save outputs.npz"),
        ({"task": "tensor", "inputs": (*IMAGE, *SCORES)}, "arrays", "INPUTS.npz --save outputs.npz"),
    ],
)
def test_a_task_knows_what_its_engines_take(
    detector: Manifest, changes: dict[str, object], takes: str, example: str
) -> None:
    manifest = msgspec.structs.replace(detector, **changes)
    task = task_of(manifest)
    assert (task.takes(manifest), task.example(manifest)) == (takes, example)
    assert example.startswith("--") or "stands for" in hint_on_missing(example.split()[0])


def test_error_on_an_engine_for_another_task_names_the_method_for_it(detector: Manifest) -> None:
    with pytest.raises(RunError, match="expected a translator, got an engine for task 'detect'") as caught:
        require_task(tasks()["translate"], detector)
    assert caught.value.hint == "use detect(), which takes an image"
