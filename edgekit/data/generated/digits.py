"""Scikit-learn's handwritten digits: a classification data set that needs no download."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from PIL import Image

from edgekit.data.examples import Choice, Example, Split
from edgekit.data.splits import fraction_from_key
from edgekit.errors import BackendUnavailable, UsageError
from edgekit.extras import install_command
from edgekit.recipe.schema import Task

__all__ = ["DIGIT_SIDE_PX", "Digits", "digit_arrays", "digits_from_name"]

DIGIT_SIDE_PX = 32

_TEST_COUNT = 360


class Digits:
    """1797 grayscale digits, bright on dark, upscaled by a factor of 4: 1437 for train, 360 for test.

    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998;
    8 x 8 px with 17 levels.
    """

    name = "digits"
    task: Task = "classify"
    labels = tuple("0123456789")
    notes: tuple[str, ...] = ()

    def __init__(self, choice: Choice) -> None:
        """Loads one split.

        Raises:
            BackendUnavailable: scikit-learn is not installed.
        """
        self._split = choice.split
        self._images, self._classes = digit_arrays(choice.split)

    def __len__(self) -> int:
        return len(self._classes)

    def __getitem__(self, index: int) -> Example:
        small = Image.fromarray(self._images[index])
        image = small.resize((DIGIT_SIDE_PX, DIGIT_SIDE_PX), Image.Resampling.BICUBIC)
        return Example(f"digits, {self._split} {index}", np.array(image), int(self._classes[index]))


def digits_from_name(size: str, choice: Choice) -> Digits:
    """Opens the data set ``digits``; ``size`` is the text after the name's colon and must be empty."""
    if size:
        raise UsageError(f"data set digits:{size}: expected nothing after 'digits', got '{size}'")
    return Digits(choice)


@lru_cache(maxsize=2)
def digit_arrays(split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Returns the digits and classes of a split: uint8 ``(N, 8, 8)``, bright on dark, and int64 ``(N,)``.

    Raises:
        BackendUnavailable: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as e:
        raise BackendUnavailable(
            f"the data sets 'digits' and 'scenes' need the package 'scikit-learn': {e}",
            hint=install_command("train", "scikit-learn"),
        ) from e
    loaded = load_digits()
    images = np.round(loaded.images * (255 / 16)).astype(np.uint8)
    classes = loaded.target.astype(np.int64)
    order = sorted(range(len(classes)), key=lambda i: fraction_from_key(f"digit {i}"))
    chosen = order[:_TEST_COUNT] if split == "test" else order[_TEST_COUNT:]
    return images[chosen], classes[chosen]
