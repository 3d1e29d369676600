from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from edgekit.data.examples import Example
from edgekit.engine.bundle.manifest import FORMAT, Machine, Manifest, Source
from edgekit.errors import DataError
from edgekit.recipe.schema import Preprocess
from edgekit.runtime.session import Session
from edgekit.specs import Precision, TensorSpec

Answer = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]


class ScriptedEngine:
    """Returns scripted outputs and records the batch sizes."""

    notes = ()

    def __init__(self, manifest: Manifest, answer: Answer) -> None:
        self.inputs, self.outputs, self.answer = manifest.inputs, manifest.outputs, answer
        self.batches: list[int] = []

    def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.batches.append(len(next(iter(feeds.values()))))
        return self.answer(feeds)

    def close(self) -> None:
        return None


@dataclass
class Listed:
    """Data set from a list; a string raises a DataError with that message."""

    items: list[Example | str]
    labels: tuple[str, ...] = ()
    task: str = "classify"
    name: str = "listed"
    notes: tuple[str, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Example:
        item = self.items[index]
        if isinstance(item, str):
            raise DataError(item)
        return item


@pytest.fixture
def listed() -> type[Listed]:
    return Listed


@pytest.fixture
def make_session() -> Callable[..., tuple[Session, ScriptedEngine]]:
    """An open session of a scripted engine that takes images of 4 x 4 px, by default one at a time."""

    def make(answer: Answer, **changes: Any) -> tuple[Session, ScriptedEngine]:
        fields: dict[str, Any] = {
            "format": FORMAT,
            "edgekit": "0",
            "created": "2026-01-01T00:00:00Z",
            "name": "scripted",
            "task": "classify",
            "backend": "null",
            "backend_version": "0",
            "precision": Precision.FP32,
            "layers": {},
            "engine": "engine.null",
            "machine": Machine(arch="x86_64", cpu="", features=(), system=""),
            "source": Source(kind="module", name="tests:module"),
            "inputs": (TensorSpec("images", "float32", (1, 3, 4, 4)),),
            "outputs": (TensorSpec("logits", "float32", (1, 3)),),
            "preprocess": Preprocess(resize="stretch"),
            "labels": ("red", "green", "blue"),
        }
        manifest = Manifest(**(fields | changes))
        engine = ScriptedEngine(manifest, answer)
        return Session(engine, manifest), engine

    return make
