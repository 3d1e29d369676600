"""Calibration inputs that a Python caller passes as objects: arrays, and iterables of them."""

from __future__ import annotations

import hashlib
import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from edgekit.arguments import argument
from edgekit.data.calibration.calibration_set import image_feed
from edgekit.data.calibration.example_feeds import ENOUGH, spread
from edgekit.data.calibration.given_items import ModelInputs, Sample, samples_of_item
from edgekit.errors import CalibrationError, UsageError
from edgekit.option.objects import CALIB_KINDS, is_array
from edgekit.progress import Progress
from edgekit.recipe.schema import Preprocess
from edgekit.specs import ShapeRange, TensorSpec

__all__ = ["GivenSamples", "given_samples"]


class _Items(NamedTuple):
    """The items of the caller's object.

    Attributes:
        found: the items in order.
        kept: the caller keeps them in memory, so that they need no copy.
        single: the only item holds all samples, and some of them are chosen.
        chosen: samples are already chosen from all over the object.
    """

    found: Iterator[Any]
    kept: bool = False
    single: bool = False
    chosen: bool = False


class GivenSamples:
    """Samples of a Python caller, with the interface of a `CalibrationSet`.

    Attributes:
        name: name in messages.
        digest: SHA-256, in hexadecimal, of the samples.
        has_images: the samples are images, which still have to be preprocessed.
        skipped: always empty.
    """

    skipped: Sequence[str] = ()

    def __init__(self, name: str, entries: Sequence[Callable[[], Sample]], digest: str) -> None:
        """Creates samples from functions that read one each."""
        self.name, self.digest = name, digest
        self._entries = tuple(entries)
        self.has_images = isinstance(self._entries[0](), np.ndarray)

    def __len__(self) -> int:
        return len(self._entries)

    def feeds(
        self, inputs: Sequence[TensorSpec], how: Preprocess | None, shapes: Mapping[str, ShapeRange] = {}
    ) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
        """Yields name and model inputs of each sample; see `CalibrationSet.feeds`."""
        for index, read in enumerate(self._entries):
            sample, name = read(), f"input {index}"
            if isinstance(sample, np.ndarray):
                yield name, image_feed(sample, inputs, how, shapes, name)
            else:
                yield name, {name: np.asarray(array, order="C") for name, array in sample.items()}


def given_samples(
    source: Any,
    inputs: Sequence[TensorSpec],
    how: Preprocess | None,
    shapes: Mapping[str, ShapeRange],
    *,
    limit: int | None,
    folder: Path | None,
    progress: Progress,
) -> GivenSamples:
    """Reads the caller's calibration data once.

    Args:
        source: an array; a dictionary of arrays by input name; an iterable of arrays, dictionaries, pairs of input and
            target, images or paths of images; or a function without arguments that returns one of these. The first
            dimension of an array may be a batch of another size than the model's.
        inputs: specs of the model's inputs.
        how: image preprocessing; None if the model takes no images.
        shapes: shape ranges of the dynamic inputs.
        limit: maximum number of samples; None for `ENOUGH`. They are spread over an object whose length is known, and
            the first of any other.
        folder: where samples are kept that the caller does not keep in memory, and which must exist as long as the
            samples; None keeps them in memory.
        progress: receives the stage and its notes.

    Raises:
        UsageError: ``source`` is of another kind.
        CalibrationError: it is empty, or an item does not fit the model; or the samples cannot be written.
    """
    name = source_name(source)
    wanted = ENOUGH if limit is None else limit
    items = _items(source, wanted)
    model = ModelInputs(tuple(inputs), how, dict(shapes))
    entries: list[Callable[[], Sample]] = []
    total = hashlib.sha256()
    left_out: set[str] = set()
    samples = _samples(items, model, wanted, left_out)
    with progress.stage(f"reading {name}", unit="inputs") as advance:
        for sample in itertools.islice(samples, wanted):
            _update(total, sample)
            keep = None if items.kept else folder
            entries.append(partial(_same, sample) if keep is None else _written(sample, keep / f"{len(entries)}.npz"))
            advance(1)
        more = limit is None and next(samples, None) is not None
    if not entries:
        raise CalibrationError(f"{argument('calib')}: expected inputs of the model, got none from {name}")
    if left_out:
        names = ", ".join(sorted(left_out))
        progress.note(f"{argument('calib')}: left out what is no input of the model: {names}")
    if more:
        progress.note(
            f"calibrated on the first {wanted} inputs of {name}; {argument('calib_images', like='N')} takes more"
        )
    return GivenSamples(name, entries, total.hexdigest())


def source_name(source: Any) -> str:
    """Returns what a caller's object is called in messages, such as ``DataLoader``."""
    named = getattr(source, "__name__", None)
    return named if isinstance(named, str) and callable(source) else type(source).__name__


def _items(source: Any, wanted: int) -> _Items:
    if is_array(source) or isinstance(source, Mapping):
        return _Items(iter([source]), kept=True, single=True)
    if isinstance(source, (list, tuple)):
        return _Items((source[index] for index in spread(len(source), wanted)), kept=True)
    if isinstance(source, Iterable):
        return _Items(iter(source))
    if hasattr(source, "__getitem__") and hasattr(source, "__len__"):  # a data set, such as torchvision's
        return _Items(source[index] for index in spread(len(source), wanted))
    if not callable(source):
        raise _wrong_source(source)
    made = _called(source)
    if callable(made) and not isinstance(made, Iterable) and not is_array(made):
        raise _wrong_source(made)
    return _items(made, wanted)


def _called(function: Callable[[], Any]) -> Any:
    try:
        inspect.signature(function).bind()
    except TypeError as e:
        raise UsageError(f"{argument('calib')}: expected a function without arguments, got {function!r}: {e}") from e
    except ValueError:
        pass  # functions that are written in C may have no signature
    return function()


def _wrong_source(source: Any) -> UsageError:
    return UsageError(f"{argument('calib')}: expected {CALIB_KINDS}, got {source!r}")


def _samples(items: _Items, model: ModelInputs, wanted: int, left_out: set[str]) -> Iterator[Sample]:
    for index, item in enumerate(items.found):
        found = samples_of_item(item, model, f"{argument('calib')}: input {index}", left_out)
        yield from (found[place] for place in spread(len(found), wanted)) if items.single else found


def _update(total: Any, sample: Sample) -> None:
    """Adds everything that determines a sample to a hash."""
    for name, array in sample.items() if isinstance(sample, dict) else [("", sample)]:
        total.update(f"{name!r} {array.dtype} {array.shape} ".encode())
        total.update(np.ascontiguousarray(array).data)


def _same(sample: Sample) -> Sample:
    return sample


def _written(sample: Sample, file: Path) -> Callable[[], Sample]:
    """Writes a sample to a file, and returns a function that reads it."""
    arrays = list(sample.values()) if isinstance(sample, dict) else [sample]
    names = tuple(sample) if isinstance(sample, dict) else ()
    try:
        np.savez(file, *arrays)
    except OSError as e:
        raise CalibrationError(
            f"{argument('calib')}: cannot keep the inputs in {file.parent}: {e.strerror}",
            hint=f"free some space, or take fewer with {argument('calib_images', like='N')}",
        ) from e
    return partial(_read, file, names)


def _read(file: Path, names: tuple[str, ...]) -> Sample:
    with np.load(file) as found:
        arrays = [found[f"arr_{index}"] for index in range(max(1, len(names)))]
    return dict(zip(names, arrays, strict=True)) if names else arrays[0]
