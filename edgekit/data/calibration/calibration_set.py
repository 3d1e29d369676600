"""Calibration sets: what a model is shown so that the ranges of its tensors can be measured, one input at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from edgekit.data.calibration.manifest import View, manifest_from_file
from edgekit.data.examples import whole_batch
from edgekit.data.images import images_in, is_image, preprocess, read_image
from edgekit.errors import CalibrationError, DataError, UsageError, nearest
from edgekit.recipe.schema import Preprocess, shipped
from edgekit.specs import ShapeRange, TensorSpec, sizes_of, sizes_take, specs_at, specs_text
from edgekit.storage import sha256_of

__all__ = ["CalibrationSet", "Sample", "calibration_set", "calibration_set_names"]

_ARRAY_SUFFIXES = (".npy", ".npz")


@dataclass(frozen=True, eq=False)
class Sample:
    """One element of a calibration set.

    Attributes:
        id: what it is called in messages.
        value: a picture, uint8 RGB of shape ``(H, W, 3)``; or arrays by name; or one array without a name.
    """

    id: str
    value: np.ndarray | dict[str, np.ndarray]


class _Entry(Protocol):
    """Something that a sample can be read from."""

    @property
    def id(self) -> str: ...

    @property
    def path(self) -> Path: ...

    def read(self) -> np.ndarray | dict[str, np.ndarray]:
        """The sample's value; raises `DataError` if the file is broken."""
        ...

    def fingerprint(self) -> str:
        """What the value depends on."""
        ...


@dataclass(frozen=True)
class _PictureFile:
    path: Path

    @property
    def id(self) -> str:
        return self.path.name

    def read(self) -> np.ndarray:
        return read_image(self.path)

    def fingerprint(self) -> str:
        return _sha256(self.path)


@dataclass(frozen=True)
class _PictureView:
    path: Path
    sha256: str
    view: View

    @property
    def id(self) -> str:
        return f"{self.path.name} ({self.view.name})"

    def read(self) -> np.ndarray:
        if (got := _sha256(self.path)) != self.sha256:
            raise CalibrationError(f"{self.path}: expected the sha256 {self.sha256}, got {got}")
        picture = read_image(self.path)
        height, width = picture.shape[:2]
        left, top, right, bottom = self.view.crop
        x, y = int(left * width), int(top * height)
        part = picture[y : max(y + 1, round(bottom * height)), x : max(x + 1, round(right * width))]
        return np.ascontiguousarray(part[:, ::-1] if self.view.mirror else part)

    def fingerprint(self) -> str:
        return f"{_sha256(self.path)} {self.view.crop} {self.view.mirror}"


@dataclass(frozen=True)
class _ArrayFile:
    path: Path

    @property
    def id(self) -> str:
        return self.path.name

    def read(self) -> np.ndarray | dict[str, np.ndarray]:
        try:
            with self.path.open("rb") as file:
                loaded = np.load(file, allow_pickle=False)
                return loaded if isinstance(loaded, np.ndarray) else {name: loaded[name] for name in loaded.files}
        except Exception as e:  # a broken header or archive ends in almost any of Python's errors
            raise DataError(f"{self.path}: expected a numpy file, got: {e}") from e

    def fingerprint(self) -> str:
        return _sha256(self.path)


class CalibrationSet:
    """Samples, read from their files one at a time and as often as the set is iterated over.

    Attributes:
        name: the set's name, or the path of its folder or manifest.
        skipped: names of the broken files that the last iteration passed over, each with the reason.
    """

    def __init__(self, name: str, entries: Sequence[_Entry]) -> None:
        self.name = name
        self.skipped: list[str] = []
        self._entries = tuple(entries)

    def __len__(self) -> int:
        """How many samples there are if no file is broken."""
        return len(self._entries)

    @property
    def pictures(self) -> bool:
        """Whether the samples are pictures, and not arrays."""
        return not isinstance(self._entries[0], _ArrayFile)

    def __iter__(self) -> Iterator[Sample]:
        """Samples in a fixed order.

        Raises:
            CalibrationError: all files are broken, or one is not the one that the manifest declares.
        """
        skipped: list[str] = []
        self.skipped = skipped
        for entry in self._entries:
            try:
                value = entry.read()
            except DataError as e:
                skipped.append(f"{entry.id}: {e.message.removeprefix(f'{entry.path}: ')}")
                continue
            yield Sample(entry.id, value)
        if len(skipped) == len(self._entries):
            raise CalibrationError(f"calibration set {self.name}: all {len(skipped)} files are broken: {skipped[0]}")

    @property
    def digest(self) -> str:
        """SHA-256, in hexadecimal, over what is in the files and which views are made of it, names left aside.

        Raises:
            CalibrationError: a file cannot be read.
        """
        text = "\n".join(entry.fingerprint() for entry in self._entries)
        return hashlib.sha256(text.encode()).hexdigest()

    def feeds(
        self, inputs: Sequence[TensorSpec], how: Preprocess | None, shapes: Mapping[str, ShapeRange] = {}
    ) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
        """Every sample as the inputs of a model, with the sample's id.

        Args:
            inputs: what the model takes.
            how: how a picture becomes the model's input; None where it takes no pictures.
            shapes: ranges of the inputs whose sizes are chosen at run time. Pictures are made to fit the usual ones;
                arrays have their own.

        Raises:
            CalibrationError: as iteration; or the samples are not what the model takes.
        """
        for sample in self:
            where = f"calibration set {self.name}: {sample.id}"
            if self.pictures and isinstance(sample.value, np.ndarray):
                yield sample.id, _picture_feed(sample.value, inputs, how, shapes, where)
            else:
                yield sample.id, _array_feed(sample.value, inputs, shapes, where)


def calibration_set_names() -> list[str]:
    """Names of the calibration sets that EdgeKit ships, sorted."""
    return sorted(file.stem for file in shipped("calibration").glob("*.toml"))


def calibration_set(source: str | Path, *, limit: int | None = None) -> CalibrationSet:
    """The calibration set of that name, in that folder, or declared by that manifest.

    A shipped name comes before a folder of the same name; write ``./sample`` to mean the folder.

    Args:
        source: a name out of `calibration_set_names`; a manifest that ends in ``.toml``; or a folder of images, or
            of ``.npy`` and ``.npz`` files with a model's inputs by name. Folders in a folder are not searched.
        limit: at most so many samples: of a folder, files spread evenly over its names in order; of a manifest, the
            first view of each picture before the second of any.

    Raises:
        UsageError: there is no such set or folder, or ``limit`` is less than 1.
        CalibrationError: the folder holds nothing to calibrate with, or the manifest is wrong.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"limit: expected at least 1, got {limit}")
    name, path = str(source), Path(source)
    if name in calibration_set_names():
        return _from_manifest(name, shipped("calibration") / f"{name}.toml", limit)
    if path.suffix == ".toml":
        return _from_manifest(name, path, limit)
    try:
        if path.is_dir():
            return _from_folder(name, path, limit)
    except OSError as e:
        raise CalibrationError(f"calibration set {name}: expected a folder that can be read, got: {e.strerror}") from e
    raise UsageError(
        f"unknown calibration set '{name}': expected a name, a folder or a .toml file",
        hint=nearest(name, calibration_set_names()),
    )


def _from_manifest(name: str, file: Path, limit: int | None) -> CalibrationSet:
    manifest = manifest_from_file(file)
    entries = [
        _PictureView(file.parent / image.file, image.sha256, view)
        for view in manifest.views
        for image in manifest.images
    ]
    return CalibrationSet(name, entries[:limit])


def _from_folder(name: str, folder: Path, limit: int | None) -> CalibrationSet:
    arrays = sorted(path for path in folder.iterdir() if path.suffix in _ARRAY_SUFFIXES and path.is_file())
    if arrays and any(is_image(path) for path in folder.iterdir()):
        raise CalibrationError(f"calibration set {name}: expected images or numpy files, got both")
    if arrays:
        return CalibrationSet(name, [_ArrayFile(path) for path in _spread(arrays, limit)])
    try:
        pictures = images_in(folder)
    except DataError as e:
        raise CalibrationError(f"calibration set {e.message}", hint=e.hint) from e
    return CalibrationSet(name, [_PictureFile(path) for path in _spread(pictures, limit)])


def _spread(files: list[Path], limit: int | None) -> list[Path]:
    # Names often sort by class or by time, so the first ones would be too much alike.
    if limit is None or limit >= len(files):
        return files
    return [files[i * len(files) // limit] for i in range(limit)]


def _picture_feed(
    picture: np.ndarray,
    inputs: Sequence[TensorSpec],
    how: Preprocess | None,
    shapes: Mapping[str, ShapeRange],
    where: str,
) -> dict[str, np.ndarray]:
    if how is None or len(inputs) != 1:
        raise CalibrationError(
            f"{where}: expected arrays for {'; '.join(map(str, inputs))}, got a picture",
            hint="a folder of .npz files, one a sample, with the inputs by name, takes its place",
        )
    spec = inputs[0]
    array, _ = preprocess(picture, how, specs_at(inputs, shapes)[0].shape)
    # A graph that takes only whole batches is shown the same picture that many times: ranges stay the same.
    return {spec.name: whole_batch(array, spec, shapes)}


def _array_feed(
    value: np.ndarray | dict[str, np.ndarray],
    inputs: Sequence[TensorSpec],
    shapes: Mapping[str, ShapeRange],
    where: str,
) -> dict[str, np.ndarray]:
    names = [spec.name for spec in inputs]
    if isinstance(value, np.ndarray):
        if len(inputs) != 1:
            raise CalibrationError(f"{where}: expected arrays {', '.join(names)}, got one without a name")
        value = {names[0]: value}
    if sorted(value) != sorted(names):
        raise CalibrationError(f"{where}: expected arrays {', '.join(sorted(names))}, got {', '.join(sorted(value))}")
    for spec in inputs:
        array = value[spec.name]
        if array.dtype.name != spec.dtype or not sizes_take(sizes_of(spec, shapes), array.shape):
            raise CalibrationError(f"{where}: expected {specs_text([spec], shapes)}, got {array.dtype} {array.shape}")
    return {name: np.asarray(value[name], order="C") for name in names}


def _sha256(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as e:
        raise CalibrationError(f"{path}: expected a file to calibrate with, got: {e.strerror}") from e
