"""Tells rounding that a model amplifies from a fault: what it keeps of its own outputs when its inputs are rounded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np

from edgekit.quantize.compare import Limits, OutputNoise, noise_of_outputs
from edgekit.quantize.output_form import OutputForm

__all__ = ["Run", "amplifies_rounding"]

ROUNDING = 2.0**-23
"""Relative distance of two float32 numbers that are neighbours."""
AMPLIFIED_DB = 10.0
"""A float stage may keep this much less than the original keeps of its own outputs when its inputs are rounded."""

Arrays: TypeAlias = "Mapping[str, np.ndarray]"
Run: TypeAlias = "Callable[[Sequence[Arrays]], Sequence[Arrays]]"
"""Computes the outputs for each input."""


def amplifies_rounding(
    right: Run,
    feeds: Sequence[Arrays],
    forms: Mapping[str, OutputForm],
    noise: Sequence[OutputNoise],
    limits: Limits,
) -> bool:
    """Returns whether the right outputs change as much as a stage's do, when inputs move to the next float32.

    A recurrent network may be chaotic on inputs that it was not trained for: what differs in the last bit of the first
    step differs everywhere in the last one. Each output that is beyond the limits, and each part of one, is compared
    with itself.

    Args:
        right: computes the outputs that the stage should have.
        feeds: inputs.
        forms: in which parts each output is judged.
        noise: how far the outputs of the stage are from the right ones.
        limits: those of the stage.
    """
    generator = np.random.default_rng(0)
    moved = [{name: _moved(array, generator) for name, array in feed.items()} for feed in feeds]
    found = noise_of_outputs(right(feeds), right(moved), forms)
    own = {(each.output, each.part): each for each in found}
    return all(_keeps_as_much(each, own.get((each.output, each.part)), limits) for each in noise)


def _moved(array: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Returns floats that are the next smaller or larger float32; other arrays as they are."""
    if array.dtype.kind != "f":
        return array
    return (array * (1 + ROUNDING * generator.choice((-1, 1), array.shape))).astype(array.dtype)


def _keeps_as_much(noise: OutputNoise, own: OutputNoise | None, limits: Limits) -> bool:
    """Returns whether an output is within its limits, or near what the model keeps of it by itself."""
    if noise.shapes:
        return False
    own_db, own_agreement = (own.sqnr_db, own.agreement) if own is not None else (None, None)
    if noise.sqnr_db is not None and noise.sqnr_db < limits.refused_db:
        return own_db is not None and noise.sqnr_db > own_db - AMPLIFIED_DB
    if noise.agreement is not None and noise.agreement < limits.refused_agreement:
        return own_agreement is not None and noise.agreement >= own_agreement
    return True
