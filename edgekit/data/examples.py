"""Data sets: pictures, rows and texts with what they stand for, from any of the formats that people have."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from PIL import Image

from edgekit.data.images import Placement, preprocess
from edgekit.data.vocabulary import source_ids, target_input_ids
from edgekit.errors import DataError, UsageError, nearest
from edgekit.recipe.schema import Preprocess, Task
from edgekit.specs import ShapeRange, Size, TensorSpec, sizes_of, sizes_take, specs_at

__all__ = [
    "Boxes",
    "Choice",
    "DataSet",
    "Example",
    "Split",
    "check_first",
    "data_set",
    "data_set_names",
    "feeds_from_example",
    "input_from_picture",
    "is_data_set",
    "whole_batch",
]

Split = Literal["train", "test"]

_GENERATED = {
    "digits": "edgekit.data.generated.digits:digits_from_name",
    "scenes": "edgekit.data.generated.scenes:scenes_from_name",
    "spelling": "edgekit.data.generated.spelling:spelling_from_name",
}
_READERS = {
    "folder": "edgekit.data.formats.image_folder:image_folder_from_path",
    "idx": "edgekit.data.formats.idx:idx_from_path",
    "coco": "edgekit.data.formats.coco_json:coco_from_path",
    "voc": "edgekit.data.formats.voc:voc_from_path",
    "yolo": "edgekit.data.formats.yolo_text:yolo_from_path",
    "csv": "edgekit.data.formats.csv_table:csv_from_path",
    "text": "edgekit.data.formats.parallel_text:text_from_path",
}


@dataclass(frozen=True, eq=False)
class Boxes:
    """What is to be found in a picture.

    Attributes:
        corners: ``(x1, y1, x2, y2)`` in px of the picture, inside it, with ``x1 < x2`` and ``y1 < y2``; float32,
            shape ``(N, 4)``.
        classes: index into the labels; int64, shape ``(N,)``.
        ignored: what is neither right nor wrong to find, and nothing to learn from: COCO's crowds, VOC's difficult
            objects. Only an evaluation looks at it.
    """

    corners: np.ndarray
    classes: np.ndarray
    ignored: Boxes | None = None

    def __len__(self) -> int:
        """How many there are, the ignored ones left aside."""
        return len(self.classes)


@dataclass(frozen=True, eq=False)
class Example:
    """One element of a data set.

    Attributes:
        id: what it is called in messages.
        input: a picture, uint8 RGB ``(H, W, 3)`` or grey ``(H, W)``; a row of numbers, float32 ``(features,)``; or
            a text.
        target: a class, as an index into the labels; numbers, float32 ``(targets,)``; a text; or boxes.
    """

    id: str
    input: np.ndarray | str
    target: int | np.ndarray | str | Boxes


class DataSet(Protocol):
    """Examples that are read, or made, when they are asked for: memory does not grow with their number."""

    @property
    def name(self) -> str:
        """The set's name or path."""
        ...

    @property
    def task(self) -> Task:
        """What can be learned from it."""
        ...

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes; of texts the vocabulary; nothing for numbers."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """What was left out or mended, and how often, one sentence each."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example:
        """The example at ``index``, 0 to ``len - 1``.

        Raises:
            DataError: its file cannot be read, or what it says cannot be; names file and line.
            IndexError: there is none at that index.
        """
        ...


@dataclass(frozen=True)
class Choice:
    """What is wanted of a data set.

    Attributes:
        split: the part to learn from, or the part to be measured on.
        task: what it is for; None for what the format is usually for.
        target: of a table, the header of the column to be foretold; None for the last.
    """

    split: Split = "test"
    task: Task | None = None
    target: str | None = None


def data_set_names() -> list[str]:
    """Names of the data sets that EdgeKit makes itself, sorted."""
    return sorted(_GENERATED)


def data_set(source: str, *, split: Split = "test", task: Task | None = None, target: str | None = None) -> DataSet:
    """The data set of that name or at that path.

    Args:
        source: a name out of `data_set_names`, which may be followed by a colon and a size (``scenes:224``); a path,
            whose format is found out by looking; or a path behind ``folder:``, ``idx:``, ``coco:``, ``voc:``,
            ``yolo:``, ``csv:`` or ``text:``. A name comes before a file of the same name; write ``./digits`` to
            mean the file.
        split: the part to learn from or the part to be measured on, as the files declare it (train against test, val
            or t10k); where they do not, a fifth is for testing, chosen by a hash, so it is the same every time.
        task: what it is for; an error if the set is for something else.
        target: of a table, the header of the column that is to be foretold; the last one if None.

    Raises:
        UsageError: there is no such set, path, format or column, or a column is named of what is no table.
        DataError: the files are not what the format says; names file and line.
        BackendUnavailable: a generated set needs a package that is not installed.
    """
    if split not in ("train", "test"):
        raise UsageError(f"split: expected train or test, got {split}")
    choice = Choice(split, task, target)
    prefix, colon, rest = source.partition(":")
    if prefix in _GENERATED:
        _check_target(target, source, prefix)
        found = _attribute(_GENERATED[prefix])(rest, choice)
    else:
        named = bool(colon) and prefix in _READERS
        path = _existing(rest if named else source, source)
        reader = prefix if named else _format(path)
        _check_target(target, source, reader)
        found = _attribute(_READERS[reader])(path, choice)
    if task is not None and found.task != task:
        raise DataError(f"data set {source}: expected one for the task '{task}', got one for '{found.task}'")
    checked: DataSet = found
    return checked


def check_first(examples: DataSet, places: Iterable[int], ready: Callable[[Example], object]) -> None:
    """Says what is wrong where a set is not at all what a model takes, before all of it is tried in vain.

    Rows of a table are all as wide as the first, and pictures are all pictures; so what does not fit of the first
    example that can be read fits of none. Texts are as long as they are: those that are too long are told one by one.

    Args:
        examples: the set.
        places: which of them are wanted.
        ready: makes an example ready for the model, or raises a `DataError`.

    Raises:
        DataError: the first example that can be read does not fit.
    """
    for place in places:
        try:
            example = examples[place]
        except DataError:
            continue  # it is counted when its turn comes
        if not isinstance(example.input, str):
            ready(example)
        return


def is_data_set(source: str) -> bool:
    """Whether `data_set` knows the name or the format, or finds out what is at the path."""
    prefix, colon, _ = source.partition(":")
    if prefix in _GENERATED or (colon and prefix in _READERS):
        return True
    try:
        return bool(_format(_existing(source, source)))
    except (DataError, UsageError):
        return False


def feeds_from_example(
    example: Example,
    inputs: Sequence[TensorSpec],
    how: Preprocess | None,
    labels: Sequence[str],
    shapes: Mapping[str, ShapeRange] = {},
) -> dict[str, np.ndarray]:
    """A model's inputs, made of an example.

    Args:
        example: a picture, a row of numbers or a text.
        inputs: what the model takes. A text goes to ``source``, and what it is to become, behind the token that
            begins it, to ``target``.
        how: how a picture becomes an input; None where the model takes no pictures.
        labels: of texts, the vocabulary.
        shapes: ranges of the inputs whose sizes are chosen at run time. A picture is made to fit the usual ones; a row
            of numbers and a text have their own.

    Returns:
        One array an input, by name. Where the model takes only whole batches, the example as often as that.

    Raises:
        DataError: the example is not what the model takes, or is longer than its input may be.
    """
    if isinstance(example.input, str):
        feeds = {spec.name: _text_feed(example, spec, labels, shapes.get(spec.name)) for spec in inputs}
    elif len(inputs) != 1:
        raise DataError(f"{example.id}: expected arrays for {'; '.join(map(str, inputs))}, got one")
    elif how is not None:
        feeds = {inputs[0].name: input_from_picture(example, specs_at(inputs, shapes)[0], how)[0]}
    else:
        feeds = {inputs[0].name: _numbers_feed(example, inputs[0], shapes)}
    return {spec.name: whole_batch(feeds[spec.name], spec, shapes) for spec in inputs}


def input_from_picture(example: Example, spec: TensorSpec, how: Preprocess) -> tuple[np.ndarray, Placement]:
    """A picture as a model's input, and where it lies in it; see `edgekit.data.images.preprocess`.

    Raises:
        DataError: the example is no picture.
    """
    picture = example.input
    if isinstance(picture, str) or picture.dtype != np.uint8:
        got = "a text" if isinstance(picture, str) else f"{picture.dtype} {picture.shape}"
        raise DataError(f"{example.id}: expected a picture, got {got}")
    return preprocess(Image.fromarray(picture) if picture.ndim == 2 else picture, how, spec.shape)


def _numbers_feed(example: Example, spec: TensorSpec, shapes: Mapping[str, ShapeRange]) -> np.ndarray:
    numbers = example.input
    assert isinstance(numbers, np.ndarray)
    wanted = sizes_of(spec, shapes)[1:]
    if numbers.dtype == np.uint8:
        raise DataError(
            f"{example.id}: expected {spec.dtype} {_shown(wanted)} for the input '{spec.name}', as nothing says how "
            f"pictures become it, got a picture of {numbers.shape[1]}x{numbers.shape[0]} px",
            hint="build the engine with --preprocess, such as color=rgb, or write [preprocess] into the model's recipe",
        )
    if not sizes_take(wanted, numbers.shape):
        raise DataError(
            f"{example.id}: expected {spec.dtype} {_shown(wanted)} for the input '{spec.name}', got {numbers.dtype} "
            f"{_shown(numbers.shape)}",
            hint="copy the model's recipe, set its shapes to those of the data, and give its file",
        )
    return numbers[np.newaxis].astype(spec.dtype)


def _shown(shape: Sequence[Size | str]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _text_feed(example: Example, spec: TensorSpec, labels: Sequence[str], range_: ShapeRange | None) -> np.ndarray:
    length = spec.shape[-1] if len(spec.shape) == 2 else None
    least, greatest = (length, length) if range_ is None else (range_.min[-1], range_.max[-1])
    text = {"source": example.input, "target": example.target}.get(spec.name)
    if length is None or not isinstance(text, str):
        raise DataError(
            f"{example.id}: expected an array for {spec}, got a text",
            hint="a text goes to the inputs 'source' and 'target' of shape (N, length)",
        )
    ids = source_ids(text, labels) if spec.name == "source" else target_input_ids(text, labels)
    if isinstance(greatest, int) and len(ids) > greatest:
        raise DataError(f"{example.id}: expected at most {greatest} tokens for input '{spec.name}', got {len(ids)}")
    row = np.zeros((1, max(len(ids), least if isinstance(least, int) else 0)), spec.dtype)
    row[0, : len(ids)] = ids
    return row


def whole_batch(array: np.ndarray, spec: TensorSpec, shapes: Mapping[str, ShapeRange]) -> np.ndarray:
    """The same example as often as there have to be in a batch, where a graph takes no single one.

    Args:
        array: one example, with a batch of 1.
        spec: the input that it is for.
        shapes: ranges of the inputs whose sizes are chosen at run time.
    """
    batch = spec.shape[0]
    if isinstance(batch, str) and spec.name in shapes:
        batch = shapes[spec.name].min[0]
    return np.repeat(array, batch, axis=0) if isinstance(batch, int) and batch > 1 else array


def _attribute(where: str) -> Callable[..., Any]:
    module, _, name = where.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found


def _check_target(target: str | None, source: str, reader: str) -> None:
    if target is not None and reader != "csv":
        raise UsageError(
            f"data set {source}: expected a CSV table, of which a column can be foretold, got {reader} for the column "
            f"'{target}'",
            hint="name a column with tables alone",
        )


def _existing(text: str, source: str) -> Path:
    path = Path(text)
    try:
        if text and path.exists():
            return path
    except (OSError, ValueError) as e:  # a name that is too long, or holds a zero byte
        raise UsageError(f"data set {source!r}: expected a name or a path, got: {e}") from e
    prefix = source.partition(":")[0]
    known = [*_GENERATED, *(f"{name}:" for name in _READERS)]
    if text != source:
        raise UsageError(f"data set {source}: expected a file or a folder, got nothing there: {text or '(no path)'}")
    raise UsageError(
        f"unknown data set '{source}': expected a name, a file or a folder",
        hint=nearest(f"{prefix}:" if ":" in source else source, known),
    )


def _format(path: Path) -> str:
    found: str = _attribute("edgekit.data.formats.detect:format_from_path")(path)
    return found
