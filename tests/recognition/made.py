"""Outputs as detectors of each family give them for one image, with numbers in the ranges that theirs have."""

from __future__ import annotations

import numpy as np

from edgekit.recognition.facts import Facts, Metadata, Output

SIZE = (128, 96)
"""Width and height of the input."""
CELLS = 16 * 12 + 8 * 6 + 4 * 3
rng = np.random.default_rng


def boxes_px(count: int, seed: int = 0) -> np.ndarray:
    """Centers and sides in px, shape ``(count, 4)``."""
    random = rng(seed)
    return np.column_stack(
        [random.uniform(0, SIZE[0], count), random.uniform(0, SIZE[1], count), random.uniform(2, 60, (count, 2))]
    ).astype(np.float32)


def scores(count: int, classes: int, seed: int = 1) -> np.ndarray:
    """Probabilities, mostly small."""
    return (rng(seed).random((count, classes)) ** 6).astype(np.float32)


def facts(*outputs: Output, metadata: Metadata | None = None, inputs: tuple[str, ...] = ("images",)) -> Facts:
    """Facts about a model with these outputs."""
    return Facts(size=SIZE, outputs=outputs, metadata=metadata or Metadata(), inputs=inputs)


def output(name: str, value: np.ndarray, **known: object) -> Output:
    """An output with a batch of one image."""
    return Output(name=name, value=value[None], **known)  # type: ignore[arg-type]
