from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image

from edgekit.cli.main import main
from edgekit.engine.bundle.manifest import read_manifest
from edgekit.engine.bundle.writing import seal
from edgekit.recipe.schema import Preprocess
from edgekit.specs import Precision, TensorSpec

CLASSIFIER = {
    "task": "classify",
    "inputs": (TensorSpec("images", "float32", (1, 3, 8, 8)),),
    "outputs": (TensorSpec("logits", "float32", (1, 2)),),
    "preprocess": Preprocess(resize="stretch"),
    "labels": ("cat", "dog"),
}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A data set of three cats and a dog; the null backend predicts a cat for every image."""
    for name, count in (("cat", 3), ("dog", 1)):
        for split in ("train", "test"):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = np.random.default_rng(i).integers(0, 256, (9, 7, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return tmp_path / "photos"


@pytest.fixture
def classifier(make_bundle: Callable[..., Path]) -> Path:
    return make_bundle("classifier", kind=CLASSIFIER)


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def test_the_page_has_the_confusion_and_the_worst_pictures(classifier: Path, photos: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert main(["eval", str(classifier), "--data", str(photos), "--html", str(page)]) == 0
    text = page.read_text()
    assert "Accuracy of FP32: 75.00 %." in text
    assert re.search(r'<th scope="row">cat</th><td class="right"[^>]*>3</td><td class="wrong"></td>', text)
    assert text.count('src="data:image/jpeg;base64,') == 1
    assert "dog (50.0%), taken for cat" in text


def test_one_engine_is_measured(
    classifier: Path, photos: Path, narrow: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", str(classifier), "--data", str(photos)]) == 0
    out = capsys.readouterr().out
    assert re.search(r"classifier on .*, test: 4 examples", out)
    assert re.search(r"accuracy +75\.00 %", out)
    assert "difference" not in out
    assert "one example is 25.00 percentage points" in out


def test_standard_output_is_json_only(classifier: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", str(classifier), "--data", str(photos), "--json"]) == 0
    written = json.loads(capsys.readouterr().out)
    (engine,) = written["engines"]
    assert engine["engine"] == str(classifier)
    assert engine["figures"] == {"accuracy": 0.75}
    assert engine["difference"] == {"accuracy": 0.0}
    assert engine["per_class"][1] == {"label": "dog", "count": 1, "value": 0.0}
    assert written["data"].startswith(str(photos))
    assert (written["split"], written["task"]) == ("test", "classify")


def test_two_engines_are_shown_with_their_difference(
    classifier: Path, photos: Path, make_bundle: Callable[..., Path], narrow: None, capsys: pytest.CaptureFixture[str]
) -> None:
    # One that knows the same classes in another order takes everything for a dog.
    other = make_bundle("other", kind={**CLASSIFIER, "labels": ("dog", "cat")})
    seal(other, msgspec.structs.replace(read_manifest(other), precision=Precision.INT8))
    assert main(["eval", str(classifier), str(other), "--data", str(photos), "--per-class"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"classifier FP32 +other INT8 +difference", out)
    assert re.search(r"accuracy +75\.00 % +25\.00 % +-50\.00 points", out)
    assert re.search(r"cat +3 +100\.00 % +0\.00 % +-100\.00 points", out)
    assert max(len(line) for line in out.splitlines() if str(photos) not in line) <= 80


def test_every_engine_of_several_is_compared_with_the_first(
    classifier: Path, photos: Path, make_bundle: Callable[..., Path], narrow: None, capsys: pytest.CaptureFixture[str]
) -> None:
    others = [make_bundle(name, kind={**CLASSIFIER, "name": "classifier"}) for name in ("a", "b")]
    assert main(["eval", str(classifier), *map(str, others), "--data", str(photos), "--per-class"]) == 0
    out = capsys.readouterr().out
    # All is the same of them but their folders.
    assert re.search(r"classifier +a +b", out)
    assert re.search(r"accuracy +75\.00 % +75\.00 % +75\.00 %\s+none +none", out)


@pytest.fixture
def table_engine(make_bundle: Callable[..., Path]) -> Path:
    """A regression model whose null engine predicts 0."""
    specs = {
        "inputs": (TensorSpec("features", "float32", (1, 10)),),
        "outputs": (TensorSpec("prediction", "float32", (1, 1)),),
    }
    return make_bundle("table", kind={"task": "regress", **specs})


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """A table with 2 in the first column and 1 in all others."""
    names = ["y", *(f"x{i}" for i in range(10))]
    path = tmp_path / "rows-test.csv"
    path.write_text("\n".join([",".join(names), *["2" + ",1" * 10] * 5]) + "\n")
    return path


@pytest.mark.parametrize(("column", "mse"), [([], 1.0), (["--column", "y"], 4.0)])
def test_the_named_column_is_the_target(
    column: list[str], mse: float, table_engine: Path, rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", str(table_engine), "--data", str(rows), *column, "--json"]) == 0
    (engine,) = json.loads(capsys.readouterr().out)["engines"]
    assert engine["figures"]["mse"] == mse


def test_the_training_split_and_a_limit_can_be_chosen(
    classifier: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", str(classifier), "--data", str(photos), "--split", "train", "--limit", "2", "--json"]) == 0
    written = json.loads(capsys.readouterr().out)
    assert written["split"] == "train"
    assert written["engines"][0]["examples"] == 2


def test_a_broken_image_is_counted_and_named(
    classifier: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "test" / "dog" / "9.jpg").write_bytes(b"\xff\xd8\xff\xe0 not a picture")
    assert main(["eval", str(classifier), "--data", str(photos)]) == 0
    out = capsys.readouterr().out
    assert "4 examples" in out
    assert re.search(r"1 skipped, not counted: .*9\.jpg", out)


def test_notes_are_shown_with_their_engine(
    classifier: Path, photos: Path, make_bundle: Callable[..., Path], narrow: None, capsys: pytest.CaptureFixture[str]
) -> None:
    other = make_bundle("other", kind=CLASSIFIER, notes=("the weights are random",))
    assert main(["eval", str(classifier), str(other), "--data", str(photos)]) == 0
    assert "other: the weights are random" in capsys.readouterr().out


# What cannot be measured.


def error_of(arguments: list[str], capsys: pytest.CaptureFixture[str], code: int = 2) -> str:
    assert main(["eval", *arguments]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    return " ".join(captured.err.split())


def test_error_on_other_classes(
    photos: Path, make_bundle: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    other = make_bundle("other", kind={**CLASSIFIER, "labels": ("cat", "cow")})
    error = error_of([str(other), "--data", str(photos)], capsys)
    assert "the model lacks 'dog', and the set lacks 'cow'" in error


def test_error_on_a_set_for_another_task(detector: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = error_of([str(detector), "--data", f"folder:{photos}"], capsys, code=1)
    assert "expected one for the task 'detect', got one for 'classify'" in error


def test_error_on_a_missing_data_set(classifier: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "unknown data set 'digit'" in error_of([str(classifier), "--data", "digit"], capsys)


def test_error_on_an_unknown_model(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = error_of(["lenett", "--data", str(photos)], capsys)
    assert "unknown engine or model 'lenett'" in error
    assert "lenet" in error.partition("hint:")[2]


def test_error_on_a_missing_engine_suggests_the_engines_beside(
    classifier: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (["eval", f"{classifier}x", "--data", str(photos)], ["inspect", f"{classifier}x"]):
        assert main(command) == 2
        error = capsys.readouterr().err
        assert f"unknown engine or model '{classifier}x': expected the folder of an engine, a name" in error
        assert f"hint: did you mean {classifier}?" in error
    monkeypatch.chdir(classifier.parent)
    assert main(["eval", "qq", "--data", str(photos)]) == 2
    assert f"hint: known: {classifier.name}\n" in capsys.readouterr().err
    assert main(["profile", f"{classifier}x"]) == 2
    assert f"hint: did you mean {classifier}?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model", "code", "message"),
    [
        ("lenet", 2, "expected classes of the model's 10, got 2 of which the model lacks 'cat', 'dog'"),
        ("yolov3-tiny", 1, "expected one for the task 'detect', got one for 'classify'"),
    ],
)
def test_a_data_set_that_does_not_fit_is_reported_before_the_build(
    model: str, code: int, message: str, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = error_of([model, "--data", f"folder:{photos}"], capsys, code=code)
    assert error.startswith("error: ") and message in error


def test_error_on_a_model_among_engines(classifier: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = error_of([str(classifier), "lenet", "--data", str(photos)], capsys)
    assert "expected one model or any number of engines, got 2 names, of which 'lenet' is a model" in error


def test_error_on_weights_for_an_engine(classifier: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = error_of([str(classifier), "--data", str(photos), "--weights", "w.safetensors"], capsys)
    assert error.startswith("error: --weights: expected a model, got engines")


@pytest.mark.parametrize("option", [["--per-class"], ["--score-threshold", "0.1"]])
def test_error_on_options_without_effect_for_the_task(
    option: list[str], table_engine: Path, rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = error_of([str(table_engine), "--data", str(rows), *option], capsys)
    assert error.startswith(f"error: {option[0]}: expected a task with")
    assert "got 'regress'" in error


def test_error_on_a_threshold_for_a_classifier(
    classifier: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = error_of([str(classifier), "--data", str(photos), "--score-threshold", "0.1"], capsys)
    assert (
        "--score-threshold: expected a task with scores, 'detect' or 'obb' or 'pose' or 'segment', got 'classify'"
        in error
    )


def test_error_on_images_for_an_engine_that_expects_arrays(
    arrays_engine: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = error_of([str(arrays_engine), "--data", str(photos)], capsys, code=1)
    assert "expected float32 8 for the input 'x', which has no preprocessing for images, got an image of 7x9" in error
    assert "--preprocess" in error.partition("hint:")[2]
    assert "are broken" not in error


def test_a_model_is_calibrated_on_rows_without_the_target_column(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only the last column has large values, so calibration without it would clip the inputs."""
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    rows = np.random.default_rng(0).random((100, 11)) * np.append(np.ones(10), 1000)
    names = ["y", *(f"x{i}" for i in range(10))]
    file = tmp_path / "t.csv"
    file.write_text("\n".join([",".join(names), *(",".join(f"{x:.6f}" for x in row) for row in rows)]))
    assert main(["eval", "linear-regression", "--data", str(file), "--column", "y", "--json"]) == 0
    fp32, int8 = (engine["figures"]["mse"] for engine in json.loads(capsys.readouterr().out)["engines"])
    assert int8 == pytest.approx(fp32, rel=0.1)


def test_error_without_a_data_set(classifier: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--data" in error_of([str(classifier)], capsys)


# A model that was trained: what FP32 and INT8 get right of scikit-learn's digits.


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of the softmax regression after a few steps of gradient descent."""
    pytest.importorskip("sklearn")
    import torch
    from safetensors.torch import save_file

    from edgekit.data.examples import data_set, feeds_from_example
    from edgekit.models.factory import module_from_recipe
    from edgekit.recipe.schema import load_recipe

    recipe = load_recipe("softmax-regression")
    specs = [TensorSpec(spec.name, spec.dtype, spec.shape) for spec in recipe.inputs]
    digits = data_set("digits", split="train")
    examples = [digits[i] for i in range(600)]
    feeds = [feeds_from_example(example, specs, recipe.preprocess, ())["images"] for example in examples]
    images, targets = torch.from_numpy(np.concatenate(feeds)), torch.tensor([example.target for example in examples])
    module = module_from_recipe(recipe, seed=0)
    optimizer = torch.optim.Adam(module.parameters(), 0.01)
    for _ in range(60):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(module(images), targets).backward()
        optimizer.step()
    path = tmp_path_factory.mktemp("weights") / "softmax.safetensors"
    save_file(module.state_dict(), path)
    return path


def test_a_model_is_measured_in_fp32_and_int8(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["softmax-regression", "--weights", str(trained), "--data", "digits", "--calib-images", "32"]
    assert main(["eval", *arguments, "--limit", "200", "--json"]) == 0
    written = json.loads(capsys.readouterr().out)
    full, quantized = written["engines"]
    assert (full["precision"], quantized["precision"]) == ("fp32", "int8")
    assert full["engine"] is None  # gone with the temporary folder
    assert full["figures"]["accuracy"] > 0.85
    assert abs(quantized["difference"]["accuracy"]) <= 0.02
    assert full["figures"]["top5"] > full["figures"]["accuracy"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("split", ["test", "val", "train"])
def test_the_split_that_was_read_is_printed_and_in_the_json(
    classifier: Path, photos: Path, split: str, narrow: None, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "test").rename(photos / "valid")
    used = "train" if split == "train" else "val"
    assert main(["eval", str(classifier), "--data", str(photos), "--split", split]) == 0
    out = " ".join(capsys.readouterr().out.replace("\u2502", " ").split())
    assert f", {used}: 4 examples" in out
    assert ("no test split: its val split is used" in out) == (split == "test")
    assert main(["eval", str(classifier), "--data", str(photos), "--split", split, "--json"]) == 0
    written = json.loads(capsys.readouterr().out)
    assert written["split"] == written["engines"][0]["split"] == used
    (photos / "valid").rename(photos / "test")
    if split == "val":
        assert main(["eval", str(classifier), "--data", str(photos), "--split", "val"]) == 1
        assert "expected one called val or valid" in capsys.readouterr().err
