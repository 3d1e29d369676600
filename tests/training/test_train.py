from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from edgekit.data.examples import data_set
from edgekit.errors import DataError, EdgeKitError, EdgeKitWarning, TrainError, UsageError
from edgekit.models.cfg.module import module_from_cfg
from edgekit.models.darknet import save_darknet
from edgekit.models.factory import module_from_recipe
from edgekit.models.weights.read import load_weights
from edgekit.progress import Silent
from edgekit.recipe.schema import load_recipe
from edgekit.training import fit as fit_module
from edgekit.training import train as train_module
from edgekit.training.train import Trained, checkpoint_of, train_model


class Notes(Silent):
    """A progress that records its notes."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def note(self, text: str) -> None:
        self.texts.append(text)


class Interrupt(Exception):
    pass


class Interrupting(Silent):
    """A progress that stops training after a number of batches."""

    def __init__(self, batches: int) -> None:
        self._left = batches

    @contextmanager
    def stage(self, title: str, *, total: float | None = None, unit: str = "") -> Iterator[Callable[[float], None]]:
        yield self._advance if unit == "batches" else lambda amount: None

    def _advance(self, amount: float) -> None:
        self._left -= int(amount)
        if not self._left:
            raise Interrupt


def table(path: Path, *, features: int = 10, rows: int = 40, target: float = 1.0, column: str = "y") -> Path:
    """Rows whose ``y`` is the sum of the others, times ``target``; ``column`` says whether it stands first or last."""
    numbers = np.random.default_rng(0).standard_normal((rows, features)).round(3)
    names = [f"x{i}" for i in range(features)]
    sums = (numbers.sum(axis=1) * target).round(3)
    whole, header = np.column_stack([numbers, sums]), [*names, "y"]
    if column != "y":
        whole, header = whole[:, ::-1], header[::-1]
    np.savetxt(path, whole, delimiter=",", header=",".join(header), comments="", fmt="%.6g")
    return path


@pytest.fixture
def train(tmp_path: Path) -> Callable[..., Trained]:
    """Trains the linear regression, shortly, into a folder of its own."""

    def make(data: Path | str | None, model: str = "linear-regression", **options: Any) -> Trained:
        changes = {"epochs": 2, "batch": 8, "schedule": "constant"} | options.pop("changes", {})
        return train_model(
            model,
            data=None if data is None else str(data),
            output=tmp_path / "w.safetensors",
            changes=changes,
            **options,
        )

    return make


def leave_a_checkpoint(train: Callable[..., Trained], data: Path, batches: int = 2, **options: Any) -> None:
    with pytest.raises(Interrupt):
        train(data, checkpoint_s=0, progress=Interrupting(batches), **options)


# Checkpoints.


def test_training_that_fails_on_its_first_batch_leaves_no_checkpoint(
    train: Callable[..., Trained], tmp_path: Path
) -> None:
    with pytest.raises(TrainError, match="batch 1: expected a finite loss"):
        train(table(tmp_path / "t.csv", target=1e30))
    assert [file.name for file in tmp_path.iterdir()] == ["t.csv"]
    train(table(tmp_path / "t.csv"))


def test_a_checkpoint_without_steps_is_overwritten(
    train: Callable[..., Trained], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as killed:
        killed.setattr(fit_module._Run, "discard_empty", lambda run: None)
        leave_a_checkpoint(train, table(tmp_path / "t.csv"), 1)
    assert checkpoint_of(tmp_path / "w.safetensors").exists()
    train(tmp_path / "t.csv", changes={"lr": 0.1})


def test_checkpoint_errors_say_how_to_start_over(train: Callable[..., Trained], tmp_path: Path) -> None:
    data, delete = table(tmp_path / "t.csv"), f"delete {checkpoint_of(tmp_path / 'w.safetensors')} to start over"
    leave_a_checkpoint(train, data)
    with pytest.raises(UsageError, match="got one of an unfinished training") as error:
        train(data)
    assert delete in error.value.hint
    with pytest.raises(TrainError, match=r"lr: expected 0\.5, got 0\.001") as other:
        train(data, resume=True, changes={"lr": 0.5})
    assert delete in other.value.hint


def test_weights_and_resume_conflict(train: Callable[..., Trained], tmp_path: Path) -> None:
    data = table(tmp_path / "t.csv")
    leave_a_checkpoint(train, data)
    with pytest.raises(UsageError, match="weights: expected none with resume=True, .* got 'mine.pt'"):
        train(data, resume=True, weights="mine.pt")


@pytest.mark.parametrize("content", [b"PK\x03\x04 cut off", pickle.dumps(Path("x")), pickle.dumps({"format": 1})[:-4]])
def test_error_on_a_damaged_checkpoint(train: Callable[..., Trained], tmp_path: Path, content: bytes) -> None:
    checkpoint_of(tmp_path / "w.safetensors").write_bytes(content)
    with pytest.raises(TrainError) as error:
        train(None, resume=True)
    assert error.value.message.endswith("`edgekit train`, got another or a damaged file")
    assert error.value.hint.startswith("delete ")


# The model.


CONV = "[convolutional]\nbatch_normalize=1\nfilters=8\nsize=3\nstride=2\npad=1\nactivation=leaky\n\n"


def test_a_darknet_cfg_file_is_trained(tmp_path: Path) -> None:
    ending = "[avgpool]\n\n[convolutional]\nfilters=2\nsize=1\nactivation=linear\n\n[softmax]\ngroups=1\n"
    (tmp_path / "net.cfg").write_text(f"[net]\nwidth=16\nheight=16\nchannels=3\n\n{CONV}{CONV}{ending}")
    for split in ("train", "test"):
        for name, color in (("black", 0), ("white", 255)):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for i in range(4):
                Image.new("RGB", (16, 16), (color,) * 3).save(folder / f"{i}.png")
    changes = {"epochs": 12, "batch": 4, "lr": 0.02}
    found = train_model(
        tmp_path / "net.cfg", data=str(tmp_path / "photos"), output=tmp_path / "net.safetensors", changes=changes
    )
    assert found.epochs[-1].figures["accuracy"] == 1.0

    # The first two layers alone, as in files such as yolov4.conv.137, begin another training.
    save_darknet(module_from_cfg(str(tmp_path / "net.cfg"), 16, 16), tmp_path / "net.weights")
    floats = sum(8 * (channels * 9 + 4) for channels in (3, 8))
    (tmp_path / "net.conv.2").write_bytes((tmp_path / "net.weights").read_bytes()[: 20 + 4 * floats])
    with pytest.warns(EdgeKitWarning, match="net.conv.2 has the first layers only: convolutional3 begin random"):
        train_model(
            tmp_path / "net.cfg",
            data=str(tmp_path / "photos"),
            weights=str(tmp_path / "net.conv.2"),
            output=tmp_path / "tuned.safetensors",
            changes={**changes, "epochs": 1},
        )


@pytest.mark.parametrize(("model", "got"), [("net.onnx", "an ONNX file"), ("my.package:make", "a factory")])
def test_error_on_a_model_without_a_training_task(train: Callable[..., Trained], model: str, got: str) -> None:
    with pytest.raises(UsageError, match=f"training '{model}': expected a name .* a Darknet cfg file, got {got}"):
        train("digits", model)


# The data set.


def test_error_on_a_table_of_another_width_names_its_first_row(train: Callable[..., Trained], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected float32 10 for the input 'features', got float32 3") as error:
        train(table(tmp_path / "t.csv", features=3))
    assert error.value.message.startswith(f"{tmp_path / 't.csv'}, line ")
    assert "set its shapes to those of the data" in error.value.hint
    assert [file.name for file in tmp_path.iterdir()] == ["t.csv"]


def test_the_way_on_from_a_set_with_a_train_split_alone_works(train: Callable[..., Trained], tmp_path: Path) -> None:
    data = table(tmp_path / "train.csv", rows=80)
    with pytest.raises(DataError, match=r"expected one called test or .*, got train.csv") as error:
        train(data)
    assert "add a split val, or remove the word train from the names" in error.value.hint
    assert "edgekit eval" not in error.value.hint
    assert train(data.rename(tmp_path / "table.csv")).epochs
    table(tmp_path / "val.csv")
    assert train(table(tmp_path / "train.csv"), force=True).split == "val"


def test_the_named_column_is_the_target(train: Callable[..., Trained], tmp_path: Path) -> None:
    data = table(tmp_path / "t.csv", column="first", rows=80)
    changes = {"epochs": 40, "lr": 0.05}
    trained = train(data, column="y", changes=changes)
    assert trained.column == "y"
    assert trained.epochs[-1].figures["r2"] > 0.95
    module = module_from_recipe(load_recipe("linear-regression"))
    load_weights(module, trained.weights)
    torch.testing.assert_close(next(module.parameters()), torch.ones(1, 10), atol=0.2, rtol=0)


def test_a_resumed_training_keeps_its_column(train: Callable[..., Trained], tmp_path: Path) -> None:
    data = table(tmp_path / "t.csv", column="first")
    leave_a_checkpoint(train, data, column="y")
    with pytest.raises(TrainError, match="column: expected x3, got y in the checkpoint"):
        train(data, resume=True, column="x3")
    assert train(None, resume=True).column == "y"


def test_texts_with_unknown_tokens_are_counted(train: Callable[..., Trained], tmp_path: Path) -> None:
    pairs = [("1", "one"), ("2", "twö"), ("3", "thrée"), ("4", "four")]
    for name in ("train", "test"):
        (tmp_path / f"{name}.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in pairs), encoding="utf-8")
    notes = Notes()
    train(f"text:{tmp_path}", "transformer-tiny", changes={"batch": 4}, progress=notes)
    learned = [note for note in notes.texts if "train.tsv" in note]
    assert len(learned) == 1
    assert "2 texts of" in learned[0] and "such as 'ö' in" in learned[0] and "replaced by <unknown>" in learned[0]


def test_skipped_examples_are_counted(train: Callable[..., Trained], tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name in ("0", "1"):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for i in range(2):
                Image.new("L", (8, 8), 90).save(folder / f"{i}.png")
    (tmp_path / "photos" / "test" / "1" / "9.png").write_bytes(b"\x89PNG\r\n\x1a\n no picture")
    notes = Notes()
    train(tmp_path / "photos", "softmax-regression", changes={"batch": 4}, progress=notes)
    (note,) = (text for text in notes.texts if "skipped" in text)
    assert note.startswith("skipped 1 example of ") and "9.png" in note


# Options that do not apply.


@pytest.mark.parametrize(
    ("model", "changes", "message"),
    [
        (
            "lenet",
            {"augment": ["flip", "mosaic"]},
            "changes['augment']: expected no mosaic for lenet, whose task is 'classify'",
        ),
        ("lenet", {"schedule": "onecycle", "warmup": 5}, "changes['warmup']: expected 0 with the schedule 'onecycle'"),
        (
            "yolov3-tiny-scenes",
            {"label_smoothing": 0.1},
            "changes['label_smoothing']: expected 0 for yolov3-tiny-scenes",
        ),
        ("linear-regression", {"label_smoothing": 0.1}, "changes['label_smoothing']: expected 0 for linear-regression"),
        ("lenet", {"schedule": "onecycle", "epochs": 1, "batch": 10**6}, "expected at least 2 batches in all epochs"),
        ("lenet", {"lr": 1e9}, "changes['lr']: expected a number <= 1000000.0, got 1000000000.0"),
        ("lenet", {"weight_decay": -1.0}, "changes['weight_decay']: expected a number >= 0.0, got -1.0"),
        ("lenet", {"augment": ["spin"]}, "changes['augment'][0]: expected one of "),
    ],
)
def test_error_on_options_that_do_not_apply_or_are_invalid(
    train: Callable[..., Trained], tmp_path: Path, model: str, changes: dict[str, Any], message: str
) -> None:
    data = {"lenet": "digits", "yolov3-tiny-scenes": "scenes"}.get(model, "digits")
    with pytest.raises(EdgeKitError) as error:
        train(data, model, changes=changes)
    assert message in error.value.message
    assert isinstance(error.value, UsageError)
    assert list(tmp_path.iterdir()) == []


def test_the_hint_on_mosaic_is_an_option(train: Callable[..., Trained]) -> None:
    with pytest.raises(UsageError) as error:
        train("digits", "lenet", changes={"augment": ["flip", "mosaic"]})
    assert error.value.hint == "changes={'augment': ('flip',)}"


def test_error_on_a_column_without_a_table(train: Callable[..., Trained]) -> None:
    message = "data set digits: expected a CSV table for the target column 'y', got the format digits"
    with pytest.raises(UsageError, match=message):
        train("digits", "lenet", column="y")


def test_ids_of_imagenet_beside_names_give_the_model_the_classes_of_the_set(tmp_path: Path) -> None:
    for name in ("n01440764", "tench"):
        (tmp_path / name).mkdir()
        for i in range(2):
            Image.new("RGB", (8, 8)).save(tmp_path / name / f"{i}.png")
    examples = data_set(str(tmp_path), split="train")
    notes = Notes()
    recipe = train_module._with_labels(load_recipe("resnet18"), examples, examples, notes)
    assert "its classes take those of the data set" in notes.texts[0]
    assert recipe.labels.names[:2] == ("n01440764", "tench") and len(recipe.labels.names) == 1000
