"""Base classes of tasks: the inputs of their engines, their results, and how results are shown."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, NamedTuple, Protocol, TypeVar

import numpy as np
from PIL import Image

from edgekit.data.frames import Format
from edgekit.data.images import ImageSource, Placement, read_image
from edgekit.data.missing import ARRAY_PLACEHOLDER, ARRAYS_PLACEHOLDER, PHOTO_PLACEHOLDER
from edgekit.engine.bundle.manifest import Manifest
from edgekit.errors import UsageError, nearest
from edgekit.runtime.batches import input_of_image, largest_batch, outputs_of_each, stacked
from edgekit.runtime.stream import Pending
from edgekit.runtime.tasks.choose import require_task
from edgekit.specs import TensorSpec, sizes_of, sizes_take

__all__ = ["EngineTask", "InputKind", "OpenSession", "ImageTask", "Shown", "TextTask"]

InputKind = Literal["images", "texts", "arrays"]
Raw = TypeVar("Raw")
Result = TypeVar("Result")


class OpenSession(Protocol):
    """The part of a `Session` that tasks use."""

    manifest: Manifest
    inputs: tuple[TensorSpec, ...]

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """See `Session.run`."""
        ...

    def run_async(self, feeds: Mapping[str, np.ndarray]) -> Pending[dict[str, np.ndarray]]:
        """See `Session.run_async`."""
        ...

    def preprocess(self, image: ImageSource, *, format: Format = "rgb") -> tuple[dict[str, np.ndarray], Placement]:
        """See `Session.preprocess`."""
        ...

    def detect_on_device(
        self, image: ImageSource, format: Format, *, score_threshold: float, iou_threshold: float, max_detections: int
    ) -> Pending[np.ndarray] | None:
        """See `Session.detect_on_device`."""
        ...


class Shown(NamedTuple):
    """A result as text.

    Attributes:
        headline: the result in a few words.
        columns: headings of the table.
        rows: rows of the table; there is no table if empty.
    """

    headline: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


class Started(Generic[Raw, Result]):
    """A run that is in flight, and what makes the result of its outputs."""

    def __init__(self, run: Pending[Raw], finish: Callable[[Raw], Result]) -> None:
        self._run = run
        self._finish = finish

    def done(self) -> bool:
        """See `Pending.done`."""
        return self._run.done()

    def result(self) -> Result:
        """See `Pending.result`."""
        return self._finish(self._run.result())


class EngineTask:
    """A task whose engines take arrays by name and return arrays by name.

    Each module of this package has an instance of a subclass, called ``TASK``.

    Attributes:
        name: name of the task in recipes and manifests.
        engine: phrase for an engine of this task in messages, such as ``a detector``.
        method: hint that names the method of `Session` for this task.
        kind: kind of input that ``edgekit run`` passes to an engine.
        parameters: all options that `Session.predict` and `Session.stream` take.
    """

    name: ClassVar[str]
    engine: ClassVar[str]
    method: ClassVar[str] = "pass arrays to run()"
    kind: ClassVar[InputKind] = "arrays"
    parameters: ClassVar[tuple[str, ...]] = ()

    def require_parameters(self, options: Mapping[str, Any], method: str) -> None:
        """Raises a `UsageError` for an option of a `Session`'s method that is none of the task."""
        for name in options:
            if name not in self.parameters:
                raise UsageError(
                    f"{method}: expected options of task '{self.name}', got {name}=",
                    hint=nearest(name, self.parameters) or "leave it out",
                )

    def takes(self, manifest: Manifest) -> InputKind:
        """Returns the kind of input that ``edgekit run`` passes to this engine."""
        return self.kind

    def takes_photo(self, manifest: Manifest) -> bool:
        """Whether ``edgekit run`` takes a picture in place of an array: the engine takes one, with a preprocessing."""
        if manifest.preprocess is None or len(manifest.inputs) != 1:
            return False
        return sizes_take(sizes_of(manifest.inputs[0], manifest.shapes)[:1], [1])

    def example(self, manifest: Manifest) -> str:
        """Returns example arguments of ``edgekit run`` for this engine, with names in capitals for the user's files."""
        given = ARRAY_PLACEHOLDER if len(manifest.inputs) == 1 else ARRAYS_PLACEHOLDER
        if self.takes_photo(manifest):
            given = PHOTO_PLACEHOLDER
        return f"{given} --save outputs.npz"


class ImageTask(EngineTask, ABC, Generic[Result]):
    """A task whose engines take an image.

    Attributes:
        options: the options of ``edgekit run`` that `predict` takes.
        draws: what `drawn` draws, such as ``boxes``; empty if results cannot be drawn.
    """

    kind = "images"
    options: ClassVar[tuple[str, ...]] = ()
    draws: ClassVar[str] = ""

    def takes(self, manifest: Manifest) -> InputKind:
        """Returns ``images`` if the engine has a preprocessing, else ``arrays``."""
        return "arrays" if manifest.preprocess is None else "images"

    def example(self, manifest: Manifest) -> str:
        """See `EngineTask.example`."""
        if self.takes(manifest) == "arrays":
            return super().example(manifest)
        return f"{PHOTO_PLACEHOLDER} --save {self.draws}.jpg" if self.draws else PHOTO_PLACEHOLDER

    def predict(self, session: OpenSession, image: ImageSource, *, format: Format = "rgb", **options: Any) -> Result:
        """Returns the result for an image.

        Args:
            session: the session of the engine.
            image: a file, a Pillow image, or an array.
            format: the pixel format of an array.
            options: the task's `parameters`.

        Raises:
            DataError: the image cannot be read.
            RunError: the engine is for another task, or the session is closed.
            UsageError: an option is out of range.
        """
        require_task(self, session.manifest)
        feeds, placement = session.preprocess(image, format=format)
        return self.result(session.run(feeds), session.manifest, placement, **options)

    def predict_all(
        self, session: OpenSession, images: Sequence[ImageSource], *, format: Format = "rgb", **options: Any
    ) -> list[Result]:
        """Returns the results for images, which run together as far as the engine takes a batch; see `predict`."""
        require_task(self, session.manifest)
        batch = largest_batch(session.manifest, session.inputs, len(images))
        if batch.size == 1:
            return [self.predict(session, image, format=format, **options) for image in images]
        results = []
        for first in range(0, len(images), batch.size):
            group = images[first : first + batch.size]
            inputs = [_input(image, format, session) for image in group]
            outputs = session.run({session.inputs[0].name: stacked([array for array, _ in inputs], batch)})
            each = outputs_of_each(outputs, len(group), session.manifest)
            for image, own, (_, placement) in zip(group, each, inputs, strict=True):
                result = self.result(own, session.manifest, placement, **options)
                results.append(self.with_picture(result, image, format))
        return results

    def with_picture(self, result: Result, image: ImageSource, format: Format) -> Result:
        """Returns a result that knows its picture, if the task's results do."""
        return result

    def start(
        self, session: OpenSession, image: ImageSource, *, format: Format = "rgb", **options: Any
    ) -> Pending[Result]:
        """Starts the prediction for an image and returns immediately; see `predict`."""
        require_task(self, session.manifest)
        feeds, placement = session.preprocess(image, format=format)
        run = session.run_async(feeds)
        return Started(run, lambda outputs: self.result(outputs, session.manifest, placement, **options))

    @abstractmethod
    def result(
        self, outputs: Mapping[str, np.ndarray], manifest: Manifest, placement: Placement, **options: Any
    ) -> Result:
        """Converts the outputs of an engine, for a batch of one image, to the result.

        Raises:
            RunError: the outputs do not fit the manifest.
            UsageError: an option is out of range.
        """

    @abstractmethod
    def shown(self, result: Result) -> Shown:
        """Formats a result for the terminal."""

    @abstractmethod
    def entries(self, result: Result, image: Path, image_id: int) -> list[dict[str, Any]]:
        """Converts a result to JSON: the image's entries in the list of all images."""

    def drawn(self, result: Result, image: ImageSource) -> Image.Image | None:
        """Returns the image with the result drawn into it; None if results cannot be drawn."""
        return None


def _input(image: ImageSource, format: Format, session: OpenSession) -> tuple[np.ndarray, Placement]:
    if isinstance(image, np.ndarray):
        return input_of_image(image, format, session.manifest, session.inputs)
    return input_of_image(read_image(image), "rgb", session.manifest, session.inputs)


class TextTask(EngineTask, ABC):
    """A task whose engines convert a text to a text.

    Attributes:
        result: name of the output text in tables and JSON.
    """

    kind = "texts"
    result: ClassVar[str]

    @abstractmethod
    def predict(self, session: OpenSession, text: str) -> str:
        """Returns the output text for ``text``.

        Raises:
            RunError: the text does not fit the engine, the engine is for another task, or the session is closed.
        """
