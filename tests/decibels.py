"""Signal-to-noise ratio, computed on its own, to judge what EdgeKit measures."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def signal_to_noise_db(reference: Sequence[np.ndarray], got: Sequence[np.ndarray]) -> float:
    """Returns the energy of the reference divided by that of the difference in dB; infinity if nothing differs."""
    a = np.concatenate([np.asarray(array, np.float64).ravel() for array in reference])
    b = np.concatenate([np.asarray(array, np.float64).ravel() for array in got])
    noise = float(np.sum((a - b) ** 2))
    return 10 * math.log10(float(np.sum(a**2)) / noise) if noise else math.inf
