"""Statistics of the inputs that a model was trained or calibrated on, to notice inputs that are unlike them.

An input far from those, such as a digit in black on white for a model of white digits on black, is answered with
confidence, and wrongly. Only the brightness is compared: it tells inverted images, missing normalization and a wrong
range from ordinary ones, and it has no false alarms on varied photos, whose brightness varies widely.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

import msgspec
import numpy as np

from edgekit.recipe.schema import Preprocess

__all__ = ["ENOUGH_INPUTS", "InputStatistics", "statistics_of_inputs", "without_padding"]

ENOUGH_INPUTS = 64
"""Number of inputs that statistics are computed from."""

_FEWEST = 16
"""With fewer inputs, their spread says little."""
_FAR = 6.0
"""Distance from the mean, in standard deviations, that hardly any input of the same kind has."""
_LEAST_SPREAD = 0.05
"""Lower limit of the standard deviation of the means, relative to that of the values within an input."""


class InputStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Statistics of preprocessed inputs; each input counts with the mean and the standard deviation of its values.

    Attributes:
        source: whether the inputs are those of training or of calibration.
        count: number of inputs.
        mean: mean of the inputs' means.
        std: standard deviation of the inputs' means.
        contrast: mean of the inputs' standard deviations.
    """

    source: Literal["training", "calibration"]
    count: int
    mean: float
    std: float
    contrast: float

    def why_far(self, values: np.ndarray) -> str:
        """Returns in what an input differs from these inputs; empty if it does not.

        Args:
            values: a preprocessed input, of any shape.
        """
        mean = float(np.mean(values, dtype=np.float64))
        spread = max(self.std, _LEAST_SPREAD * self.contrast)
        if self.count < _FEWEST or not abs(mean - self.mean) > _FAR * spread:
            return ""
        return (
            f"the mean of the preprocessed input is {mean:.2f}; that of the {self.count:,} {self.source} inputs is "
            f"{self.mean:.2f} ± {self.std:.2f}"
        )


def statistics_of_inputs(
    inputs: Iterable[np.ndarray], source: Literal["training", "calibration"]
) -> InputStatistics | None:
    """Computes the statistics of preprocessed inputs; None if there are none."""
    means, deviations = list[float](), list[float]()
    for values in inputs:
        means.append(float(np.mean(values, dtype=np.float64)))
        deviations.append(float(np.std(values, dtype=np.float64)))
    if not means or not math.isfinite(sum(means) + sum(deviations)):
        return None
    return InputStatistics(
        source=source,
        count=len(means),
        mean=float(np.mean(means)),
        std=float(np.std(means)),
        contrast=float(np.mean(deviations)),
    )


def without_padding(how: Preprocess) -> Preprocess:
    """Returns the preprocessing of images whose statistics are computed: padding says nothing about an image."""
    return msgspec.structs.replace(how, resize="stretch") if how.resize == "letterbox" else how
