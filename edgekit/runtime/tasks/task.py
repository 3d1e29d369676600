"""What tasks differ in: the inputs that engines take, the results that outputs become, and how results are shown."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, NamedTuple, Protocol, TypeVar

import numpy as np
from PIL import Image

from edgekit.data.images import ImageSource, Placement
from edgekit.engine.bundle.manifest import Manifest
from edgekit.specs import TensorSpec

__all__ = ["EngineTask", "InputKind", "OpenSession", "PictureTask", "Shown", "TextTask"]

InputKind = Literal["pictures", "texts", "arrays"]
Result = TypeVar("Result")


class OpenSession(Protocol):
    """The part of a `Session` that tasks use."""

    manifest: Manifest
    inputs: tuple[TensorSpec, ...]

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """See `Session.run`."""
        ...

    def preprocess(self, image: ImageSource) -> tuple[dict[str, np.ndarray], Placement]:
        """See `Session.preprocess`."""
        ...


class Shown(NamedTuple):
    """A result as text.

    Attributes:
        headline: the result in a few words.
        columns: headings of a table.
        rows: of the table, which is left out where there are none.
    """

    headline: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


class EngineTask:
    """A task whose engines take arrays by name and return arrays by name.

    Each module of this package has an instance of a subclass, called ``TASK``.

    Attributes:
        name: as in recipes and manifests.
        engine: what messages call an engine for it, such as ``a detector``.
        method: the method of `Session` for it and what that takes, as a hint.
        kind: what ``edgekit run`` gives to an engine.
    """

    name: ClassVar[str]
    engine: ClassVar[str]
    method: ClassVar[str] = "hand arrays to run()"
    kind: ClassVar[InputKind] = "arrays"

    def takes(self, manifest: Manifest) -> InputKind:
        """What ``edgekit run`` gives to this engine."""
        return self.kind

    def example(self, manifest: Manifest) -> str:
        """Arguments of ``edgekit run`` that fit this engine."""
        return f"input{'.npy' if len(manifest.inputs) == 1 else 's.npz'} --save outputs.npz"


class PictureTask(EngineTask, ABC, Generic[Result]):
    """A task whose engines take a picture.

    Attributes:
        options: the options of ``edgekit run`` that `answer` takes.
        draws: what `drawn` draws, such as ``boxes``; empty where results cannot be drawn.
    """

    kind = "pictures"
    options: ClassVar[tuple[str, ...]] = ()
    draws: ClassVar[str] = ""

    def takes(self, manifest: Manifest) -> InputKind:
        """``pictures`` where the engine has a preprocessing, else ``arrays``."""
        return "arrays" if manifest.preprocess is None else "pictures"

    def example(self, manifest: Manifest) -> str:
        """See `EngineTask.example`."""
        if self.takes(manifest) == "arrays":
            return super().example(manifest)
        return f"photo.jpg --save {self.draws}.jpg" if self.draws else "photo.jpg"

    @abstractmethod
    def answer(self, *arguments: Any, **options: Any) -> Result:
        """The result for a picture: ``answer(session, image, **options)``, with `options` of the task's own.

        Raises:
            DataError: the picture cannot be read.
            RunError: the engine is for another task, or the session is closed.
            UsageError: an option is out of range.
        """

    @abstractmethod
    def shown(self, result: Result) -> Shown:
        """A result for the terminal."""

    @abstractmethod
    def entries(self, result: Result, picture: Path, image_id: int) -> list[dict[str, Any]]:
        """A result for JSON, as the entries of a picture in a list of all pictures' entries."""

    def drawn(self, result: Result, image: ImageSource) -> Image.Image | None:
        """The picture with the result drawn into it; None where results cannot be drawn."""
        return None


class TextTask(EngineTask, ABC):
    """A task whose engines make a text of a text.

    Attributes:
        result: what tables and JSON call the text that comes out.
    """

    kind = "texts"
    result: ClassVar[str]

    @abstractmethod
    def answer(self, session: OpenSession, text: str) -> str:
        """The text that the engine makes of ``text``.

        Raises:
            RunError: the text does not fit the engine, the engine is for another task, or the session is closed.
        """
