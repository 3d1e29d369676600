"""Calibration inputs that are passed as objects of Python."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, TensorDataset

from edgekit.data.calibration.given_samples import GivenSamples, given_samples
from edgekit.data.images import preprocess
from edgekit.errors import CalibrationError, UsageError
from edgekit.progress import Silent
from edgekit.recipe.schema import Preprocess
from edgekit.specs import ShapeRange, TensorSpec

X = (TensorSpec("x", "float32", (1, 4)),)
IMAGE = (TensorSpec("images", "float32", (1, 3, 8, 12)),)
TWO = (TensorSpec("ids", "int64", (2, 3)), TensorSpec("mask", "float32", (2, 3)))
ROWS = np.arange(40, dtype=np.float32).reshape(10, 4)


class Noted(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def read(
    source: Any,
    inputs: tuple[TensorSpec, ...] = X,
    how: Preprocess | None = None,
    *,
    limit: int | None = None,
    folder: Path | None = None,
    noted: Noted | None = None,
    shapes: dict[str, ShapeRange] | None = None,
) -> GivenSamples:
    return given_samples(source, inputs, how, shapes or {}, limit=limit, folder=folder, progress=noted or Noted())


def feeds(samples: GivenSamples, inputs: tuple[TensorSpec, ...] = X, how: Preprocess | None = None) -> list[Any]:
    return [arrays for _, arrays in samples.feeds(inputs, how)]


class Squares(Dataset[torch.Tensor]):
    """A data set that is indexed and not iterated, as torchvision's are; sorted, as many are."""

    def __len__(self) -> int:
        return 1000

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.full((4,), float(index)), index


SOURCES = {
    "array": ROWS,
    "tensor": torch.from_numpy(ROWS),
    "float64": ROWS.astype(np.float64),
    "list of arrays": list(ROWS),
    "batches of another size": [ROWS[:7], ROWS[7:]],
    "generator": (row for row in ROWS),
    "function": lambda: iter(ROWS),
    "function of an array": lambda: ROWS,
    "pairs": [(row, 1) for row in ROWS],
    "dictionary": {"x": ROWS},
    "dictionaries": [{"x": row} for row in ROWS],
    "dictionaries and targets": [({"x": row}, 1) for row in ROWS],
    "DataLoader": DataLoader(TensorDataset(torch.from_numpy(ROWS), torch.arange(10)), batch_size=4),
    "DataLoader of the inputs alone": DataLoader(TensorDataset(torch.from_numpy(ROWS)), batch_size=3),
    "bfloat16": [torch.from_numpy(row).bfloat16() for row in ROWS],
}


@pytest.mark.parametrize("name", SOURCES)
def test_all_kinds_of_objects_give_the_same_inputs(name: str, tmp_path: Path) -> None:
    samples = read(SOURCES[name], folder=tmp_path)
    assert len(samples) == 10 and not samples.has_images
    for _ in range(2):  # they can be read again, whatever they came from
        found = feeds(samples)
        assert [arrays["x"].shape for arrays in found] == [(1, 4)] * 10
        np.testing.assert_array_equal(np.concatenate([arrays["x"] for arrays in found]), ROWS)
        assert {arrays["x"].dtype for arrays in found} == {np.dtype(np.float32)}


def test_the_digest_is_that_of_the_numbers() -> None:
    digest = read(ROWS).digest
    assert digest == read(row for row in ROWS).digest == read([(row, 3) for row in ROWS]).digest
    assert digest != read(ROWS + 1).digest
    assert digest != read(ROWS[::-1]).digest
    assert digest != read(ROWS.reshape(-1, 2), (TensorSpec("x", "float32", (1, 2)),)).digest


def test_an_iterable_is_read_once_and_no_further_than_needed(tmp_path: Path) -> None:
    taken = []

    def endless() -> Iterator[np.ndarray]:
        while True:
            taken.append(1)
            yield np.full((1, 4), len(taken), np.float32)

    samples = read(endless(), limit=5, folder=tmp_path)
    assert len(samples) == len(taken) == 5
    assert [arrays["x"][0, 0] for arrays in feeds(samples)] == [1, 2, 3, 4, 5]
    assert len(taken) == 5
    assert len(list(tmp_path.iterdir())) == 5


def test_what_the_caller_keeps_in_memory_is_not_copied_to_files(tmp_path: Path) -> None:
    samples = read(ROWS, folder=tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert np.shares_memory(feeds(samples)[0]["x"], ROWS)


def test_a_note_says_that_an_iterable_has_more(tmp_path: Path) -> None:
    noted = Noted()
    assert len(read((row for row in np.zeros((300, 4), np.float32)), noted=noted)) == 256
    assert noted.notes == ["calibrated on the first 256 inputs of generator; calib_images=N takes more"]
    noted.notes.clear()
    read((row for row in ROWS), noted=noted)
    read((row for row in ROWS), limit=3, noted=noted)
    assert noted.notes == []


@pytest.mark.parametrize("source", [Squares(), [row for row, _ in map(Squares().__getitem__, range(1000))]])
def test_samples_are_spread_over_what_has_a_length(source: Any) -> None:
    found = [arrays["x"][0, 0] for arrays in feeds(read(source, limit=4))]
    assert found == [0, 250, 500, 750]


def test_samples_are_spread_over_the_rows_of_an_array() -> None:
    found = feeds(read(np.arange(4000, dtype=np.float32).reshape(1000, 4), limit=4))
    assert [arrays["x"][0, 0] for arrays in found] == [0, 1000, 2000, 3000]


def test_several_inputs_come_by_name_or_in_order() -> None:
    ids, mask = np.arange(15, dtype=np.int32).reshape(5, 3), np.ones((5, 3))
    noted = Noted()
    by_name = feeds(read([{"mask": mask, "ids": ids, "labels": 0}], TWO, noted=noted), TWO)
    in_order = feeds(read([(ids, mask)], TWO), TWO)
    pairs = feeds(read([((ids, mask), "target")], TWO), TWO)
    assert noted.notes == ["calib: left out what is no input of the model: labels"]
    for found in (by_name, in_order, pairs):
        assert len(found) == 3  # five rows in batches of two, the last one filled up
        assert {name: (array.dtype.name, array.shape) for name, array in found[0].items()} == {
            "ids": ("int64", (2, 3)),
            "mask": ("float32", (2, 3)),
        }
        np.testing.assert_array_equal(found[2]["ids"], [ids[4], ids[4]])


def test_a_dynamic_batch_takes_batches_as_they_are() -> None:
    open_batch = (TensorSpec("x", "float32", ("batch", 4)),)
    shapes = {"x": ShapeRange((1, 4), (4, 4), (8, 4))}
    found = [arrays["x"].shape for arrays in feeds(read([ROWS[:8], ROWS], open_batch, shapes=shapes), open_batch)]
    assert found == [(8, 4), *[(1, 4)] * 10]


@pytest.mark.parametrize("kind", ["last", "first", "batch", "gray", "Pillow", "file"])
def test_images_are_preprocessed(kind: str, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    if kind == "gray":
        pixels[:] = pixels[..., :1]
    Image.fromarray(pixels).save(tmp_path / "a.png")
    source = {
        "last": [pixels],
        "first": [torch.from_numpy(pixels).permute(2, 0, 1)],
        "batch": pixels[None],
        "gray": [pixels[..., 0]],
        "Pillow": [(Image.fromarray(pixels), 1)],
        "file": [tmp_path / "a.png"],
    }[kind]
    how = Preprocess(mean=(0.5, 0.25, 0.0), std=(0.5, 1.0, 2.0))
    samples = read(source, IMAGE, how)
    assert samples.has_images
    (found,) = feeds(samples, IMAGE, how)
    np.testing.assert_array_equal(found["images"], preprocess(pixels, how, (1, 3, 8, 12))[0])


def test_floats_of_an_image_model_are_inputs_as_they_are() -> None:
    ready = np.random.default_rng(0).random((3, 3, 8, 12), dtype=np.float32)
    samples = read(ready, IMAGE, Preprocess(mean=(9.0, 9.0, 9.0)))
    assert not samples.has_images
    np.testing.assert_array_equal(np.concatenate([arrays["images"] for arrays in feeds(samples, IMAGE)]), ready)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ([], "calib: expected inputs of the model, got none from list"),
        (iter(()), "got none from tuple_iterator"),
        ([np.zeros(3)], "calib: input 0: expected x: float32 (1, 4), or a batch of another size, got x: float32 (3,)"),
        ([ROWS, np.zeros((2, 4), np.int64)], "calib: input 1: expected x: float32 (1, 4)"),
        ([3], "calib: input 0: expected an array or a tensor, got int"),
        ([{"y": ROWS}], "calib: input 0: expected arrays x, got y, without x"),
        (["a.png"], "calib: input 0: expected arrays for x: float32 (1, 4), got an image"),
    ],
)
def test_what_does_not_fit_is_named(source: Any, message: str) -> None:
    with pytest.raises(CalibrationError) as caught:
        read(source)
    assert message in str(caught.value)


def test_a_large_integer_is_not_squeezed_into_a_small_type() -> None:
    ids = (TensorSpec("ids", "int32", (1, 2)),)
    assert feeds(read([np.array([[1, 2]], np.int64)], ids), ids)[0]["ids"].dtype == np.int32
    with pytest.raises(CalibrationError, match="int64"):
        read([np.array([[1, 2**40]], np.int64)], ids)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (5, "calib: expected a folder, the name of a set, an array, an iterable of inputs, or a function"),
        (lambda: 5, "calib: expected a folder"),
        (lambda path: [ROWS], "calib: expected a function without arguments"),
    ],
)
def test_an_object_of_another_kind_is_a_usage_error(source: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read(source)


def test_an_error_in_the_callers_own_code_is_the_callers() -> None:
    def broken() -> Iterator[np.ndarray]:
        yield ROWS
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        read(broken())


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="cannot keep the inputs in"):
        read((row for row in ROWS), folder=tmp_path / "missing")
