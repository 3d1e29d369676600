"""Calibration sets: the inputs that a model runs on while the ranges of its tensors are measured."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np

from edgekit.arguments import argument
from edgekit.data.array_files import ARRAY_SUFFIXES, Arrays, arrays_from_file
from edgekit.data.calibration.manifest import View, manifest_from_file
from edgekit.data.examples import whole_batch
from edgekit.data.files import files_in
from edgekit.data.images import images_in, is_image, preprocess, read_image
from edgekit.errors import CalibrationError, DataError, UsageError, nearest
from edgekit.recipe.schema import Preprocess, shipped
from edgekit.specs import ShapeRange, TensorSpec, in_float32, sizes_of, sizes_take, specs_at, specs_text
from edgekit.storage import sha256_of

__all__ = ["CalibrationSet", "Sample", "calibration_set", "calibration_set_names", "image_feed", "named_arrays"]

Check: TypeAlias = "Callable[[str, Arrays], object] | None"
"""Receives the id of a sample and its arrays, with zeros in place of numbers, before these are read."""


@dataclass(frozen=True, eq=False)
class Sample:
    """One element of a calibration set.

    Attributes:
        id: name in messages.
        value: an image, uint8 RGB of shape ``(H, W, 3)``; or arrays by name; or one unnamed array.
    """

    id: str
    value: np.ndarray | dict[str, np.ndarray]


class _Entry(Protocol):
    """Source of one sample."""

    @property
    def id(self) -> str: ...

    @property
    def path(self) -> Path: ...

    def read(self, check: Check) -> Arrays:
        """Reads the sample's value; raises `DataError` if the file is broken, and what ``check`` raises."""
        ...

    def fingerprint(self) -> str:
        """Everything that determines the value, as a string."""
        ...


@dataclass(frozen=True)
class _ImageFile:
    path: Path

    @property
    def id(self) -> str:
        return self.path.name

    def read(self, check: Check) -> np.ndarray:
        return read_image(self.path)

    def fingerprint(self) -> str:
        return _sha256_if_readable(self.path)


@dataclass(frozen=True)
class _ImageView:
    path: Path
    sha256: str
    view: View

    @property
    def id(self) -> str:
        return f"{self.path.name} ({self.view.name})"

    def read(self, check: Check) -> np.ndarray:
        if (got := _sha256(self.path)) != self.sha256:
            raise CalibrationError(f"{self.path}: expected the sha256 {self.sha256}, got {got}")
        image = read_image(self.path)
        height, width = image.shape[:2]
        left, top, right, bottom = self.view.crop
        x, y = int(left * width), int(top * height)
        part = image[y : max(y + 1, round(bottom * height)), x : max(x + 1, round(right * width))]
        return np.ascontiguousarray(part[:, ::-1] if self.view.mirror else part)

    def fingerprint(self) -> str:
        return f"{_sha256(self.path)} {self.view.crop} {self.view.mirror}"


@dataclass(frozen=True)
class _ArrayFile:
    path: Path

    @property
    def id(self) -> str:
        return self.path.name

    def read(self, check: Check) -> Arrays:
        return arrays_from_file(self.path, None if check is None else lambda zeros: check(self.id, zeros))

    def fingerprint(self) -> str:
        return _sha256_if_readable(self.path)


class CalibrationSet:
    """Iterable of samples, read from their files one at a time on each iteration.

    Attributes:
        name: name of the set, or path of its folder or manifest.
        skipped: broken files that the last iteration skipped, each with the reason.
        left_out: names of arrays that are no inputs of the model.
    """

    def __init__(self, name: str, entries: Sequence[_Entry]) -> None:
        self.name = name
        self.skipped: list[str] = []
        self.left_out: set[str] = set()
        self._entries = tuple(entries)

    def __len__(self) -> int:
        """Number of samples, including broken files."""
        return len(self._entries)

    @property
    def has_images(self) -> bool:
        """Whether the samples are images rather than arrays."""
        return not isinstance(self._entries[0], _ArrayFile)

    def __iter__(self) -> Iterator[Sample]:
        """Yields the samples in a fixed order.

        Raises:
            CalibrationError: all files are broken, or a file's hash differs from the manifest.
        """
        return self._samples(None)

    def _samples(self, check: Check) -> Iterator[Sample]:
        skipped: list[str] = []
        self.skipped = skipped
        for entry in self._entries:
            try:
                value = entry.read(check)
            except DataError as e:
                skipped.append(f"{entry.id}: {e.message.removeprefix(f'{entry.path}: ')}")
                continue
            yield Sample(entry.id, value)
        if len(skipped) == len(self._entries):
            raise CalibrationError(f"calibration set {self.name}: all {len(skipped)} files are broken: {skipped[0]}")

    @property
    def digest(self) -> str:
        """SHA-256, in hexadecimal, of the files' contents and views, independent of names.

        Raises:
            CalibrationError: a file of a manifest cannot be read. Those of a folder are skipped then.
        """
        text = "\n".join(entry.fingerprint() for entry in self._entries)
        return hashlib.sha256(text.encode()).hexdigest()

    def feeds(
        self, inputs: Sequence[TensorSpec], how: Preprocess | None, shapes: Mapping[str, ShapeRange] = {}
    ) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
        """Yields the id and the model inputs of every sample.

        Args:
            inputs: specs of the model's inputs.
            how: image preprocessing; None if the model takes no images.
            shapes: shape ranges of the dynamic inputs. Images are resized to the ``opt`` shape; arrays keep theirs.

        Raises:
            CalibrationError: as iteration; or the samples do not match the inputs.
        """

        def where(sample: str) -> str:
            return f"calibration set {self.name}: {sample}"

        for sample in self._samples(lambda sample, zeros: named_arrays(zeros, inputs, shapes, where(sample))):
            if self.has_images and isinstance(sample.value, np.ndarray):
                yield sample.id, image_feed(sample.value, inputs, how, shapes, where(sample.id))
            else:
                arrays = named_arrays(sample.value, inputs, shapes, where(sample.id))
                if not isinstance(sample.value, np.ndarray):
                    self.left_out.update(sample.value.keys() - arrays.keys())
                yield sample.id, {name: np.asarray(array, order="C") for name, array in arrays.items()}


def calibration_set_names() -> list[str]:
    """Returns the names of the calibration sets shipped with EdgeKit, sorted."""
    return sorted(file.stem for file in shipped("calibration").glob("*.toml"))


def calibration_set(source: str | Path, *, limit: int | None = None) -> CalibrationSet:
    """Opens a calibration set by name, folder or manifest.

    A shipped name takes precedence over a folder of the same name; write ``./sample`` for the folder.

    Args:
        source: a name from `calibration_set_names`; a manifest file ending in ``.toml``; or a folder of images, or of
            ``.npy`` and ``.npz`` files with a model's inputs by name. Subfolders are not searched.
        limit: maximum number of samples. From a folder, files are selected evenly over the sorted names; from a
            manifest, the first view of each image comes before the second view of any.

    Raises:
        UsageError: the set or folder does not exist, or ``limit`` is less than 1.
        CalibrationError: the folder has no usable files, or the manifest is invalid.
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
        raise CalibrationError(f"calibration set {name}: expected a readable folder, got: {e.strerror}") from e
    except DataError as e:
        raise CalibrationError(f"calibration set {e.message}", hint=e.hint) from e
    raise UsageError(
        f"unknown calibration set '{name}': expected a name, a folder or a .toml file",
        hint=nearest(name, calibration_set_names()),
    )


def _from_manifest(name: str, file: Path, limit: int | None) -> CalibrationSet:
    manifest = manifest_from_file(file)
    entries = [
        _ImageView(file.parent / image.file, image.sha256, view) for view in manifest.views for image in manifest.images
    ]
    return CalibrationSet(name, entries[:limit])


def _from_folder(name: str, folder: Path, limit: int | None) -> CalibrationSet:
    arrays = files_in(folder, *ARRAY_SUFFIXES, dead_links=True)
    if arrays and any(is_image(path) for path in folder.iterdir()):
        raise CalibrationError(f"calibration set {name}: expected images or numpy files, got both")
    if arrays:
        return CalibrationSet(name, [_ArrayFile(path) for path in _spread(arrays, limit)])
    images = images_in(folder)
    return CalibrationSet(name, [_ImageFile(path) for path in _spread(images, limit)])


def _spread(files: list[Path], limit: int | None) -> list[Path]:
    # Names often sort by class or by time, so the first files would be too similar.
    if limit is None or limit >= len(files):
        return files
    return [files[i * len(files) // limit] for i in range(limit)]


def image_feed(
    image: np.ndarray,
    inputs: Sequence[TensorSpec],
    how: Preprocess | None,
    shapes: Mapping[str, ShapeRange],
    where: str,
) -> dict[str, np.ndarray]:
    """Returns the model input of an image; raises `CalibrationError` if the model takes no image."""
    if how is None or len(inputs) != 1:
        raise CalibrationError(
            f"{where}: expected arrays for {'; '.join(map(str, inputs))}, got an image",
            hint="use a folder of .npz files, one per sample, with the inputs by name",
        )
    spec = inputs[0]
    array, _ = preprocess(image, how, specs_at(inputs, shapes)[0].shape, spec.dtype)
    # Repeating the image to fill a fixed batch leaves the ranges unchanged.
    return {spec.name: whole_batch(array, spec, shapes)}


def named_arrays(
    value: Arrays, inputs: Sequence[TensorSpec], shapes: Mapping[str, ShapeRange], where: str
) -> dict[str, np.ndarray]:
    """Returns the arrays by the names of the inputs; raises `CalibrationError` if they do not fit these.

    Arrays of other names are left out, such as those of an input whose value is fixed.
    """
    names = [spec.name for spec in inputs]
    if isinstance(value, np.ndarray):
        if len(inputs) != 1:
            raise CalibrationError(f"{where}: expected arrays {', '.join(names)}, got one unnamed array")
        value = {names[0]: value}
    if missing := sorted(set(names) - value.keys()):
        raise CalibrationError(
            f"{where}: expected arrays {', '.join(sorted(names))}, got {', '.join(sorted(value))}, without "
            f"{', '.join(missing)}"
        )
    value = {spec.name: in_float32(value[spec.name], spec.dtype) for spec in inputs}
    for spec in inputs:
        array = value[spec.name]
        if array.dtype.name != spec.dtype or not sizes_take(sizes_of(spec, shapes), array.shape):
            raise CalibrationError(
                f"{where}: expected {specs_text([spec], shapes)}, got {array.dtype} {array.shape}",
                hint=_hint_on(array, spec, shapes),
            )
    return {name: value[name] for name in names}


def _hint_on(array: np.ndarray, spec: TensorSpec, shapes: Mapping[str, ShapeRange]) -> str:
    if array.dtype.kind == "V" and array.dtype.names is None:
        return "numpy's files have no bfloat16: save the arrays in float32"
    if array.dtype.name != spec.dtype and array.dtype.kind in "fiub":
        return f"convert it with array.astype('{spec.dtype}')"
    if array.ndim == len(spec.shape) - 1:
        return "the first dimension is the batch: add it with array[None]"
    if array.dtype.name != spec.dtype or array.ndim != len(spec.shape) or 0 in array.shape:
        return ""
    if sizes_take(sizes_of(spec, shapes)[1:], array.shape[1:]):
        return f"give each sample by itself, or build with {argument('batch', array.shape[0])}"
    given = argument("input", {spec.name: array.shape})
    return f"if the model takes inputs of other sizes, build it for those of your task: {given}"


def _sha256(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as e:
        raise CalibrationError(f"{path}: expected a readable calibration file, got: {e.strerror}") from e


def _sha256_if_readable(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError:
        return "unreadable"  # it is skipped and counted when the samples are read
