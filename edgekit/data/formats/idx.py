"""Reads IDX files (MNIST, Fashion-MNIST): images in one file, labels in another, plain or gzipped."""

from __future__ import annotations

import gzip
import math
import re
import sys
import tempfile
import zlib
from pathlib import Path
from typing import IO, cast

import numpy as np

from edgekit.data.detection_set import empty_classes
from edgekit.data.examples import Choice, Example, Split
from edgekit.data.files import files_in, is_hidden
from edgekit.data.formats.text_lines import looks_like_html, names_in
from edgekit.data.splits import file_of_split, split_from_name
from edgekit.errors import DataError
from edgekit.recipe.schema import Task
from edgekit.scratch import temporary_folder
from edgekit.storage import first_file

__all__ = ["FASHION_MNIST_NAMES", "IdxFile", "IdxSet", "idx_from_path", "is_idx_name"]

FASHION_MNIST_NAMES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip

_KINDS = {
    0x08: "unsigned bytes",
    0x09: "signed bytes",
    0x0B: "16-bit numbers",
    0x0C: "32-bit numbers",
    0x0D: "32-bit floats",
    0x0E: "64-bit floats",
}
_MAX_RANK = 64  # numpy has no more
_BLOCK_BYTES = 1 << 20
_GZIP = b"\x1f\x8b"
_BROKEN_GZIP = (EOFError, gzip.BadGzipFile, zlib.error)


class IdxFile:
    """A uint8 array in a file, read one element at a time.

    A gzipped file is unpacked to an anonymous temporary file first, because gzip has no random access.

    Attributes:
        path: the file.
        shape: shape from the header; the first dimension is the number of elements.
    """

    def __init__(self, path: Path) -> None:
        """Reads the header and checks the file's length against it.

        Raises:
            DataError: the file cannot be read, is not an IDX file of bytes, or does not have the length that its
                header gives.
        """
        self.path = path
        self._unpacked: np.ndarray | None = None
        try:
            with path.open("rb") as file:
                packed = file.read(2) == _GZIP
                file.seek(0)
                self.shape, self._start = _unpacked_header(file, path) if packed else _checked_header(file, path)
                if packed:
                    self._unpacked = _unpacked(path, self.shape, self._start)
        except OSError as e:
            raise DataError(f"{path}: expected an IDX file, got: {e.strerror or e}") from e

    def __getitem__(self, index: int) -> np.ndarray:
        """Returns the element at ``index``, uint8 of ``shape[1:]``."""
        if not 0 <= index < self.shape[0]:
            raise IndexError(f"{self.path}: expected an index from 0 to {self.shape[0] - 1}, got {index}")
        element: np.ndarray = self._read(index, 1)[0]
        return element

    def all(self) -> np.ndarray:
        """Returns all elements, uint8 of ``shape``."""
        return self._read(0, self.shape[0])

    def _read(self, first: int, count: int) -> np.ndarray:
        if self._unpacked is not None:
            return np.array(self._unpacked[first : first + count])
        each = math.prod(self.shape[1:])
        try:
            with self.path.open("rb") as file:
                file.seek(self._start + first * each)
                content = file.read(count * each)
        except OSError as e:
            raise DataError(f"{self.path}: element {first}: cannot be read: {e.strerror or e}") from e
        if len(content) != count * each:
            raise DataError(f"{self.path}: element {first}: expected {count * each} bytes, got {len(content)}")
        return np.frombuffer(content, np.uint8).reshape(count, *self.shape[1:])


class IdxSet:
    """Grayscale images from an IDX file with classes from another."""

    task: Task = "classify"

    def __init__(
        self, images: IdxFile, classes: np.ndarray, labels: tuple[str, ...], notes: list[str], *, split: Split = "test"
    ) -> None:
        """Creates the data set of a split; ``classes`` is int64 ``(N,)``, one per image."""
        self.name = str(images.path)
        self.split = split
        self.labels = labels
        self.notes = notes
        self._images = images
        self._classes = classes

    def __len__(self) -> int:
        return len(self._classes)

    def __getitem__(self, index: int) -> Example:
        return Example(f"{self._images.path.name}[{index}]", self._images[index], int(self._classes[index]))


def idx_from_path(path: Path, choice: Choice) -> IdxSet:
    """Opens an IDX data set: a folder with MNIST's four files, or an image file with its label file next to it.

    Files are found by the names used in MNIST, Fashion-MNIST and EMNIST: ``train-images-idx3-ubyte``,
    ``t10k-labels.idx1-ubyte.gz``. Class names come from a file ``labels.txt`` next to them, or are those of
    Fashion-MNIST if a folder name contains "fashion", or are the class numbers.

    Raises:
        DataError: a file is missing or damaged, or the two files do not match.
    """
    folder = path if path.is_dir() else path.parent
    files = [file for file in files_in(folder) if is_idx_name(file.name)]
    image_files = [file for file in files if "images" in file.name.lower()]
    image_path, split, notes = file_of_split(path, image_files, choice.split, f"{folder}: files of images")
    if split is None:
        notes = [f"{image_path.name} declares no split and is used for all"]
    images = IdxFile(image_path)
    if len(images.shape) != 3 or 0 in images.shape:
        raise DataError(f"{image_path}: expected the shape (images, height, width) in the header, got {images.shape}")
    classes = _classes(_labels_path(image_path, files))
    if len(classes) != images.shape[0]:
        raise DataError(
            f"{_labels_path(image_path, files)}: expected {images.shape[0]:,} labels, one per image of "
            f"{image_path.name}, got {len(classes):,}"
        )
    labels = _names(folder, _other_classes(files, split_from_name(image_path.name), classes))
    _check_range(classes, labels, _labels_path(image_path, files))
    counts = np.bincount(classes, minlength=len(labels))
    empty = [labels[i] for i in np.flatnonzero(counts == 0)]
    notes = [*notes, *empty_classes(empty, "images")]
    return IdxSet(images, classes, labels, notes, split=split or choice.split)


def is_idx_name(name: str) -> bool:
    """Whether a file is named like an IDX file, and not hidden."""
    return not is_hidden(name) and re.search(r"[.-]idx\d-ubyte(\.gz)?$", name.lower()) is not None


def _labels_path(images: Path, files: list[Path]) -> Path:
    wanted = re.sub(r"idx\d", "idx1", images.name.lower().replace("images", "labels")).removesuffix(".gz")
    plain = re.sub(r"[.-]idx", ".idx", wanted)
    for file in files:
        if re.sub(r"[.-]idx", ".idx", file.name.lower().removesuffix(".gz")) == plain and file != images:
            return file
    raise DataError(f"{images}: expected the labels in {wanted} next to it, got no such file")


def _classes(path: Path) -> np.ndarray:
    file = IdxFile(path)
    if len(file.shape) != 1:
        raise DataError(f"{path}: expected the shape (labels,) in the header, got {file.shape}")
    return file.all().astype(np.int64)


def _other_classes(files: list[Path], split: Split | None, classes: np.ndarray) -> int:
    """Counts the classes over both splits, because a test split may lack the last ones."""
    count = int(classes.max()) + 1
    for file in files:
        if "labels" in file.name.lower() and split_from_name(file.name) not in (split, None):
            other = _classes(file)
            count = max(count, int(other.max(initial=0)) + 1)
    return count


def _names(folder: Path, count: int) -> tuple[str, ...]:
    if named := first_file(folder / name for name in ("labels.txt", "classes.txt")):
        return names_in(named)
    if count <= 10 and any("fashion" in part.lower() for part in folder.resolve().parts[-3:]):
        return FASHION_MNIST_NAMES
    return tuple(str(i) for i in range(count))


def _check_range(classes: np.ndarray, labels: tuple[str, ...], path: Path) -> None:
    wrong = np.flatnonzero(classes >= len(labels))
    if len(wrong):
        raise DataError(
            f"{path}: label {wrong[0]}: expected a class from 0 to {len(labels) - 1}, got {classes[wrong[0]]}"
        )


def _header(file: IO[bytes], path: Path) -> tuple[tuple[int, ...], int]:
    """Reads the shape and the offset of the first element (http://yann.lecun.com/exdb/mnist: THE IDX FILE FORMAT)."""
    start = file.read(4)
    if looks_like_html(start + file.read(60)):
        raise DataError(f"{path}: expected an IDX file, got a web page", hint="download the file itself")
    if len(start) < 4 or start[:2] != b"\0\0" or start[2] not in _KINDS or not start[3]:
        raise DataError(f"{path}: expected an IDX header, 00 00 08 and the number of dimensions, got {start.hex(' ')}")
    if start[2] != 0x08:
        raise DataError(f"{path}: expected unsigned bytes, got {_KINDS[start[2]]} (0x{start[2]:02x})")
    count = start[3]
    file.seek(4)
    sizes = file.read(4 * count)
    if len(sizes) != 4 * count:
        raise DataError(f"{path}: expected {count} sizes in the IDX header, got a truncated file")
    shape = tuple(int(size) for size in np.frombuffer(sizes, ">u4"))
    # numpy multiplies the sizes that are not 0, so that an array without elements can be too large.
    if count > _MAX_RANK or (0 in shape and math.prod(filter(None, shape)) > sys.maxsize):
        raise DataError(f"{path}: expected an array in the IDX header that memory can hold, got the shape {shape}")
    return shape, 4 + 4 * count


def _checked_header(file: IO[bytes], path: Path) -> tuple[tuple[int, ...], int]:
    shape, start = _header(file, path)
    got, expected = file.seek(0, 2) - start, math.prod(shape)
    if got != expected:
        raise DataError(f"{path}: expected {expected:,} bytes after the header {shape}, got {got:,}")
    return shape, start


def _unpacked_header(file: IO[bytes], path: Path) -> tuple[tuple[int, ...], int]:
    try:
        with gzip.open(file) as content:
            return _header(cast("IO[bytes]", content), path)
    except _BROKEN_GZIP as e:
        raise _damaged(path, 0, e) from e


def _unpacked(path: Path, shape: tuple[int, ...], start: int) -> np.ndarray:
    """Unpacks a gzipped file into an anonymous temporary file, which is deleted together with the array."""
    expected, written = start + math.prod(shape), 0
    with tempfile.TemporaryFile(dir=temporary_folder()) as unpacked:
        try:
            with gzip.open(path) as content:
                while block := content.read(_BLOCK_BYTES):
                    written += len(block)
                    if written > expected:
                        raise DataError(f"{path}: expected {expected:,} bytes, as its header {shape} says, got more")
                    _write(unpacked, block, path)
        except _BROKEN_GZIP as e:
            raise _damaged(path, written, e) from e
        if written < expected:
            raise DataError(f"{path}: expected {expected:,} bytes, as its header {shape} says, got {written:,}")
        if not math.prod(shape):
            return np.zeros(shape, np.uint8)
        return np.memmap(unpacked, np.uint8, "r", offset=start, shape=shape)


def _write(unpacked: IO[bytes], block: bytes, path: Path) -> None:
    try:
        unpacked.write(block)
        unpacked.flush()
    except OSError as e:
        raise DataError(
            f"{path}: cannot be unpacked to a temporary file: {e.strerror}",
            hint=f"make room in {temporary_folder()}, set TMPDIR to another folder, or unpack it yourself",
        ) from e


def _damaged(path: Path, written: int, reason: Exception) -> DataError:
    return DataError(
        f"{path}: expected a complete gzip file, got a damaged one after {written:,} bytes: {reason}",
        hint="download it again",
    )
