"""Data sets: images, table rows and texts with their targets, read from any supported format."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np
from PIL import Image

from edgekit.arguments import argument
from edgekit.data.images import Placement, preprocess
from edgekit.data.missing import hint_on_missing
from edgekit.data.shapes import ObjectShape, needed_shape
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
    "input_from_image",
    "is_data_set",
    "split_used",
    "whole_batch",
]

Split = Literal["train", "val", "test"]

_GENERATED = {
    "digits": "edgekit.data.generated.digits:digits_from_name",
    "scenes": "edgekit.data.generated.scenes:scenes_from_name",
    "spelling": "edgekit.data.generated.spelling:spelling_from_name",
}
_OTHER_FORMAT = "a prefix chooses another format of the same path, as in folder:PATH or yolo:PATH"
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
    """Ground-truth boxes of an image.

    Attributes:
        corners: ``(x1, y1, x2, y2)`` in px of the image, inside it, with ``x1 < x2`` and ``y1 < y2``; float32,
            shape ``(N, 4)``.
        classes: index into the labels; int64, shape ``(N,)``.
        ignored: boxes that count neither as correct nor as wrong, and are not trained on: COCO's crowds, VOC's
            difficult objects. Only evaluation uses them.
        shapes: mask or key points of each box, in px, if the set was opened for a task that needs them; else empty.
    """

    corners: np.ndarray
    classes: np.ndarray
    ignored: Boxes | None = None
    shapes: tuple[ObjectShape, ...] = ()

    def __len__(self) -> int:
        """Number of boxes, without the ignored ones."""
        return len(self.classes)


@dataclass(frozen=True, eq=False)
class Example:
    """One element of a data set.

    Attributes:
        id: name in messages.
        input: an image, uint8 RGB ``(H, W, 3)`` or grayscale ``(H, W)``; a row of numbers, float32 ``(features,)``;
            or a text.
        target: a class, as an index into the labels; numbers, float32 ``(targets,)``; a text; or boxes.
    """

    id: str
    input: np.ndarray | str
    target: int | np.ndarray | str | Boxes


class DataSet(Protocol):
    """Sequence of examples that are read or generated on access: memory use does not grow with their number."""

    @property
    def name(self) -> str:
        """Name or path of the data set."""
        ...

    @property
    def task(self) -> Task:
        """Task of the data set."""
        ...

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names; for texts, the vocabulary; empty for regression."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """What was skipped or corrected, and how often, one sentence each."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example:
        """Returns the example at ``index``, 0 to ``len - 1``.

        Raises:
            DataError: its file cannot be read or is invalid; names file and line.
            IndexError: the index is out of range.
        """
        ...


@dataclass(frozen=True)
class Choice:
    """Selects the part of a data set to read.

    Attributes:
        split: the wanted split; see `data_set`.
        task: the task to read the data for; None for the format's default.
        target: header of a table's target column; None for label, class or target, else the last.
    """

    split: Split = "test"
    task: Task | None = None
    target: str | None = None


def data_set_names() -> list[str]:
    """Returns the names of the built-in data sets, sorted."""
    return sorted(_GENERATED)


def data_set(source: str, *, split: Split = "test", task: Task | None = None, target: str | None = None) -> DataSet:
    """Opens a data set by name or path.

    Args:
        source: a name from `data_set_names`, optionally with a colon and a size (``scenes:224``); a path, whose
            format is detected; or a path with the prefix ``folder:``, ``idx:``, ``coco:``, ``voc:``, ``yolo:``,
            ``csv:`` or ``text:``. A name takes precedence over a file of the same name; write ``./digits`` for the
            file.
        split: ``train``, ``val`` or ``test``, as the files declare it. If they declare no test split, ``test`` is val.
            If they declare no splits, a fifth is the test split, selected by a hash, so it is the same every time. A
            note says when something else than the wanted split is read; `split_used` is what was read.
        task: expected task; an error if the data set is for another one. A set of boxes does for the tasks with masks
            or key points, if its format has none of these.
        target: header of a table's target column; None for label, class or target, else the last.

    Raises:
        UsageError: the name, path, format or column does not exist, or ``target`` is given and the set is not a table.
        DataError: the files do not match the format; names file and line.
        BackendUnavailable: a generated set needs a package that is not installed.
    """
    if not isinstance(split, str) or split not in get_args(Split):
        raise UsageError(f"split: expected {', '.join(get_args(Split))}, got {split!r}")
    if target is not None and not isinstance(target, str):
        raise UsageError(f"{argument('column')}: expected the header of a column, got {target!r}")
    choice = Choice(split, task, target)
    prefix, colon, rest = source.partition(":")
    named = prefix in _GENERATED or (bool(colon) and prefix in _READERS)
    if prefix in _GENERATED:
        if split == "val":
            raise UsageError(f"data set {source}: expected the split train or test, got val")
        _check_target(target, source, prefix)
        found = _attribute(_GENERATED[prefix])(rest, choice)
    else:
        path = _existing(rest if named else source, source)
        reader, notes = (prefix, []) if named else _format(path)
        _check_target(target, source, reader)
        found = _attribute(_READERS[reader])(path, choice)
        if notes:
            found.notes = [*notes, *found.notes]
    if task is not None and found.task != task and not (found.task == "detect" and needed_shape(task)):
        raise DataError(
            f"data set {source}: expected one for the task '{task}', got one for '{found.task}'",
            hint="" if named else (notes or [_OTHER_FORMAT])[0],
        )
    checked: DataSet = found
    return checked


def split_used(examples: DataSet, wanted: str) -> str:
    """Returns the split that a data set was read from: its attribute ``split``, or ``wanted`` if it has none."""
    return str(getattr(examples, "split", wanted))


def check_first(examples: DataSet, indices: Iterable[int], ready: Callable[[Example], object]) -> None:
    """Checks that the model accepts the first readable example, so that a wrong data set fails early.

    All rows of a table have the same width, and all examples of an image set are images: if the first readable example
    does not fit, none does. Texts differ in length, so they are not checked here.

    Args:
        examples: the data set.
        indices: the selected examples.
        ready: prepares an example for the model, or raises a `DataError`.

    Raises:
        DataError: the first readable example does not fit the model.
    """
    for index in indices:
        try:
            example = examples[index]
        except DataError:
            continue  # counted as skipped later
        if not isinstance(example.input, str):
            ready(example)
        return


def is_data_set(source: str) -> bool:
    """Whether `data_set` can open ``source``: a known name or prefix, or a path in a detected format."""
    prefix, colon, _ = source.partition(":")
    if prefix in _GENERATED or (colon and prefix in _READERS):
        return True
    try:
        _format(_existing(source, source))
        return True
    except (DataError, UsageError):
        return False


def feeds_from_example(
    example: Example,
    inputs: Sequence[TensorSpec],
    how: Preprocess | None,
    labels: Sequence[str],
    shapes: Mapping[str, ShapeRange] = {},
) -> dict[str, np.ndarray]:
    """Converts an example to a model's inputs.

    Args:
        example: an image, a row of numbers or a text.
        inputs: specs of the model's inputs. A text goes to ``source``, and its translation, after the begin token, to
            ``target``.
        how: image preprocessing; None if the model takes no images.
        labels: for texts, the vocabulary.
        shapes: shape ranges of the dynamic inputs. An image is resized to the ``opt`` shape; a row of numbers and a
            text keep their own size.

    Returns:
        One array per input, by name. For a fixed batch, the example is repeated to fill it.

    Raises:
        DataError: the example does not match the inputs, or is longer than its input allows.
    """
    if isinstance(example.input, str):
        feeds = {spec.name: _text_feed(example, spec, labels, shapes.get(spec.name)) for spec in inputs}
    elif len(inputs) != 1:
        raise DataError(f"{example.id}: expected arrays for {'; '.join(map(str, inputs))}, got one")
    elif how is not None:
        feeds = {inputs[0].name: input_from_image(example, specs_at(inputs, shapes)[0], how)[0]}
    else:
        feeds = {inputs[0].name: _numbers_feed(example, inputs[0], shapes)}
    return {spec.name: whole_batch(feeds[spec.name], spec, shapes) for spec in inputs}


def input_from_image(example: Example, spec: TensorSpec, how: Preprocess) -> tuple[np.ndarray, Placement]:
    """Converts an image example to a model's input; see `edgekit.data.images.preprocess`.

    Returns:
        The input and the placement of the image in it.

    Raises:
        DataError: the example is not an image.
    """
    image = example.input
    if isinstance(image, str) or image.dtype != np.uint8:
        got = "a text" if isinstance(image, str) else f"{image.dtype} {image.shape}"
        raise DataError(f"{example.id}: expected an image, got {got}")
    return preprocess(Image.fromarray(image) if image.ndim == 2 else image, how, spec.shape, spec.dtype)


def _numbers_feed(example: Example, spec: TensorSpec, shapes: Mapping[str, ShapeRange]) -> np.ndarray:
    numbers = example.input
    assert isinstance(numbers, np.ndarray)
    wanted = sizes_of(spec, shapes)[1:]
    if numbers.dtype == np.uint8:
        raise DataError(
            f"{example.id}: expected {spec.dtype} {_shown(wanted)} for the input '{spec.name}', which has no "
            f"preprocessing for images, got an image of {numbers.shape[1]}x{numbers.shape[0]} px",
            hint=f"build the engine with {argument('preprocess')}, such as color=rgb, or add [preprocess] to the "
            "model's recipe",
        )
    if not sizes_take(wanted, numbers.shape):
        raise DataError(
            f"{example.id}: expected {spec.dtype} {_shown(wanted)} for the input '{spec.name}', got {numbers.dtype} "
            f"{_shown(numbers.shape)}",
            hint="copy the model's recipe, set its shapes to those of the data, and pass that file",
        )
    return numbers[np.newaxis].astype(spec.dtype)


def _shown(shape: Sequence[Size | str]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _text_feed(example: Example, spec: TensorSpec, labels: Sequence[str], range_: ShapeRange | None) -> np.ndarray:
    length = spec.shape[-1] if len(spec.shape) == 2 else None
    min_length, max_length = (length, length) if range_ is None else (range_.min[-1], range_.max[-1])
    text = {"source": example.input, "target": example.target}.get(spec.name)
    if length is None or not isinstance(text, str):
        raise DataError(
            f"{example.id}: expected an array for {spec}, got a text",
            hint="texts need inputs 'source' and 'target' of shape (N, length)",
        )
    ids = source_ids(text, labels) if spec.name == "source" else target_input_ids(text, labels)
    if isinstance(max_length, int) and len(ids) > max_length:
        raise DataError(f"{example.id}: expected at most {max_length} tokens for input '{spec.name}', got {len(ids)}")
    row = np.zeros((1, max(len(ids), min_length if isinstance(min_length, int) else 0)), spec.dtype)
    row[0, : len(ids)] = ids
    return row


def whole_batch(array: np.ndarray, spec: TensorSpec, shapes: Mapping[str, ShapeRange]) -> np.ndarray:
    """Repeats an example to fill the smallest batch that the model accepts.

    Args:
        array: one example, with a batch of 1.
        spec: the model input.
        shapes: shape ranges of the dynamic inputs.
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
            f"data set {source}: expected a CSV table for the target column '{target}', got the format {reader}",
            hint="select a target column for tables only",
        )


def _existing(text: str, source: str) -> Path:
    path = Path(text)
    try:
        if text and path.exists():
            return path
    except (OSError, ValueError) as e:  # the name is too long or contains a zero byte
        raise UsageError(f"data set {source!r}: expected a name or a path, got: {e}") from e
    prefix = source.partition(":")[0]
    known = [*_GENERATED, *(f"{name}:" for name in _READERS)]
    if text != source:
        raise UsageError(
            f"data set {source}: expected a file or a folder, got no such path: {text or '(no path)'}",
            hint=hint_on_missing(path) if text else "",
        )
    name = f"{prefix}:" if ":" in source else source
    raise UsageError(
        f"unknown data set '{source}': expected a name, a file or a folder",
        hint=nearest(name, known, listed=False) or hint_on_missing(path) or nearest(name, known),
    )


def _format(path: Path) -> tuple[str, list[str]]:
    """Returns the format of a path, and notes; see `edgekit.data.formats.detect.Detected`."""
    found: tuple[str, list[str]] = _attribute("edgekit.data.formats.detect:format_from_path")(path)
    return found
