"""Compares outputs with those of the original model: signal-to-noise ratio in decibels, agreement, and their limits."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from edgekit.errors import AccuracyError
from edgekit.quantize.output_form import OutputForm, Part
from edgekit.specs import EXACT_DB, Precision

__all__ = [
    "LIMITS",
    "LayerNoise",
    "Limits",
    "OutputNoise",
    "noise_of_outputs",
    "refuse_noise",
    "worst_db",
    "worst_noise",
]

MIN_PROBABILITY = 1e-3
"""Probabilities are compared by their logits; those closer to 0 or 1 than this count as this."""

EXCHANGED = 0.1
"""Share of selected rows that is not judged, those that differ most: near the limit, close scores exchange rows."""

SAME_ROW = 0.1
"""Distance of two rows that count as one, relative to the magnitude of each column."""

NOTHING_LEFT_DB = 0.0
"""Zeros in place of an output have this ratio, to the last bit."""

Arrays = Mapping[str, np.ndarray]
Pair = tuple[np.ndarray, np.ndarray]


class OutputNoise(msgspec.Struct, frozen=True, kw_only=True):
    """How far an output, or a part of it, differs from the original model's.

    Attributes:
        output: name of the output.
        part: ``boxes``, ``scores``, or columns such as ``0:4``; empty for the whole output.
        sqnr_db: signal to quantization noise ratio in dB; `EXACT_DB` if nothing differs; None for integers, and
            without a signal.
        agreement: share of equal elements of an integer output; share of the rows that both have, where rows are
            selected by their values; else None.
        shapes: the original's shape and the other one, where they are those of different tensors; else empty. Another
            number of rows is none: rows may be selected by their values.
    """

    output: str
    part: str = ""
    sqnr_db: float | None = None
    agreement: float | None = None
    shapes: tuple[tuple[int, ...], ...] = ()

    @property
    def where(self) -> str:
        """Output and part, for messages: ``'out' (columns 4:84)``."""
        known = self.part and not self.part[0].isdigit()
        part = f" ({self.part if known else f'columns {self.part}'})" if self.part else ""
        return f"'{self.output}'{part}"


class LayerNoise(msgspec.Struct, frozen=True, kw_only=True):
    """The noise in the output of a node.

    Attributes:
        node: name of the node.
        op_type: its operator.
        value: name of its output.
        sqnr_db: signal-to-noise ratio of the output; 200 if nothing differs, -200 with infinities or NaN.
        lost_db: how much lower that is than the ratio of its noisiest input.
        quantized: the other graph computes it on integers, or stores its output in them.
    """

    node: str
    op_type: str
    value: str
    sqnr_db: float
    lost_db: float
    quantized: bool

    @property
    def added(self) -> float:
        """Energy of the noise that the node adds, relative to that of its output."""
        return 10 ** (-self.sqnr_db / 10) - 10 ** (-(self.sqnr_db + self.lost_db) / 10)


class Limits(NamedTuple):
    """What an engine has to keep of the original model.

    Attributes:
        refused_db: below this ratio, the build fails.
        refused_agreement: below this agreement, it fails too.
        warned_db: below this ratio, the build warns.
        warned_agreement: below this agreement of an output of integers, it warns too.
    """

    refused_db: float
    refused_agreement: float
    warned_db: float
    warned_agreement: float = 0.0


LIMITS = {
    Precision.FP32: Limits(60.0, 0.9, 60.0),
    Precision.FP16: Limits(26.0, 0.5, 26.0),
    Precision.BF16: Limits(20.0, 0.5, 20.0),
    Precision.INT8: Limits(0.0, 0.0, 10.0, 0.5),
}


def _energies(pairs: Iterable[Pair]) -> tuple[float, float]:
    signal = noise = 0.0
    for a, b in pairs:
        wide = a.astype(np.float64)
        signal += float(np.square(wide).sum())
        noise += float(np.square(wide - b).sum())
    return signal, noise


def noise_of_outputs(
    reference: Sequence[Arrays], got: Sequence[Arrays], forms: Mapping[str, OutputForm] | None = None
) -> tuple[OutputNoise, ...]:
    """Compares the outputs for the same inputs, part by part.

    Probabilities are compared by their logits, so that scores near 0 count as much as others. Infinities and NaN of
    the reference are not judged. Rows that are selected by their values, as by TopK, are matched first.

    Args:
        reference: outputs of the original model by name, for each input.
        got: those of the engine or graph.
        forms: what the outputs' numbers are, see `edgekit.quantize.output_parts.forms_of_outputs`.
    """
    found: list[OutputNoise] = []
    for name in reference[0] if reference else ():
        pairs = [(a[name], b[name]) for a, b in zip(reference, got, strict=True)]
        if all(isinstance(array, np.ndarray) for pair in pairs for array in pair):
            found += _noise_of_output(name, pairs, (forms or {}).get(name, OutputForm()))
    return tuple(found)


def _noise_of_output(name: str, pairs: Sequence[Pair], form: OutputForm) -> Iterator[OutputNoise]:
    agreement = None
    shapes = next(((a.shape, b.shape) for a, b in pairs if _are_different_tensors(a, b)), ())
    if shapes:
        yield OutputNoise(output=name, agreement=0.0, shapes=shapes)
        return
    if form.unordered is not None:
        axis = form.unordered
        pairs = [(np.sort(a, axis), np.sort(b, axis)) for a, b in pairs]
        if all(a.shape == b.shape and a.dtype.kind in "iu" and a.size for a, b in pairs):
            agreement = sum(_common(a, b, axis) for a, b in pairs) / len(pairs)
    seen = [a for a, _ in pairs]
    if form.selected or any(a.shape != b.shape for a, b in pairs):
        # The parts are those of all rows: which of them are matched depends on the other graph.
        seen = [_rows(a, b)[0] for a, b in pairs]
        matched = [_matched(a, b) for a, b in pairs]
        pairs = [(a, b) for a, b, _ in matched]
        agreement = sum(share for *_, share in matched) / len(matched)
    if any(a.shape != b.shape for a, b in pairs):
        yield OutputNoise(output=name, agreement=0.0)
    elif all(a.dtype.kind in "biu" and b.dtype.kind in "biu" for a, b in pairs):
        if agreement is None:
            count = sum(a.size for a, _ in pairs)
            agreement = sum(int((a == b).sum()) for a, b in pairs) / count if count else 1.0
        yield OutputNoise(output=name, agreement=agreement)
    elif all(a.dtype.kind in "biuf" and b.dtype.kind in "biuf" for a, b in pairs):
        for part in form.parts_at(seen):
            yield OutputNoise(output=name, part=part.name, sqnr_db=_decibels(pairs, part), agreement=agreement)


def _are_different_tensors(a: np.ndarray, b: np.ndarray) -> bool:
    return a.ndim != b.ndim or (a.ndim > 2 and a.shape[-1:] != b.shape[-1:])


def _common(a: np.ndarray, b: np.ndarray, axis: int) -> float:
    """Returns the share of numbers along an axis that both arrays have there, in any order."""
    rows, others = (np.moveaxis(each, axis, -1).reshape(-1, each.shape[axis]) for each in (a, b))
    return float(np.mean([_shared(row, other) / row.size for row, other in zip(rows, others, strict=True)]))


def _shared(row: np.ndarray, other: np.ndarray) -> int:
    """Returns how many numbers two vectors share, each as often as both have it."""
    values, counts = np.unique(row, return_counts=True)
    found, times = np.unique(other, return_counts=True)
    _, first, second = np.intersect1d(values, found, assume_unique=True, return_indices=True)
    return int(np.minimum(counts[first], times[second]).sum())


def _decibels(pairs: Sequence[Pair], part: Part) -> float | None:
    judged = []
    for a, b in pairs:
        a, b = part.select(a).astype(np.float64), part.select(b).astype(np.float64)
        finite = np.isfinite(a)
        a, b = a[finite], b[finite]
        if not np.isfinite(b).all():
            return -EXACT_DB
        judged.append((_logits(a), _logits(b)) if part.probability else (a, b))
    signal, noise = _energies(judged)
    if not noise:
        return EXACT_DB
    return min(10 * math.log10(signal / noise), EXACT_DB) if signal else None


def _logits(probabilities: np.ndarray) -> np.ndarray:
    p = np.clip(probabilities, MIN_PROBABILITY, 1 - MIN_PROBABILITY)
    return np.asarray(np.log(p / (1 - p)))


def _matched(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Pairs the rows of two outputs whose rows are selected by value.

    Returns:
        The paired rows of both, without those that differ most, and the share of rows that both have.
    """
    if not a.size or not b.size:
        return a, b, float(a.shape == b.shape)
    # Infinities and NaN of the reference are not judged, and have no distance.
    rows, others = (x[np.isfinite(x).all(axis=1)] if x.dtype.kind == "f" else x for x in _rows(a, b))
    count = max(len(rows), len(others))
    if not len(rows) or not len(others):
        return rows[:0], others[:0], 1.0 if not count else 0.0
    chosen, partners, distances = _nearest(rows.astype(np.float64), others.astype(np.float64))
    keep = np.argsort(distances, kind="stable")[: max(1, round(len(distances) * (1 - EXCHANGED)))]
    same = float((distances <= SAME_ROW).sum()) / count
    return rows[chosen[keep]], others[partners[keep]], same


def _rows(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns two outputs as matrices, a row for each box, label or other selected element."""
    if not a.size or not b.size:
        return a, b
    # Rows of numbers are the last but one axis of boxes (N, 4) or (B, N, 4); labels (N,) and (B, N) have one number.
    single = a.ndim < 2 or (a.ndim == 2 and (a.shape[0] == b.shape[0] == 1 or a.shape[1] != b.shape[1]))
    rows, others = (x.reshape(-1, 1) if single else x.reshape(-1, x.shape[-1]) for x in (a, b))
    return rows, others


def _nearest(rows: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs each row with one of the others, nearest pairs first: indices of both, and the distances."""
    scale = np.sqrt(np.square(rows).mean(axis=0))
    scale[scale == 0] = 1.0
    if rows.shape[1] == 1:  # the best pairing of single numbers is by order
        first, second = (np.argsort(x[:, 0], kind="stable")[::-1] for x in (rows, others))
        n = min(len(first), len(second))
        first, second = first[:n], second[:n]
        return first, second, np.abs(rows[first, 0] - others[second, 0]) / scale[0]
    distances = np.abs(rows[:, None] / scale - others[None] / scale).max(axis=2)
    order = np.argsort(distances, axis=None, kind="stable")
    pairs: list[tuple[int, int]] = []
    free_rows, free_others = np.ones(len(rows), bool), np.ones(len(others), bool)
    for flat in order:
        i, j = divmod(int(flat), len(others))
        if free_rows[i] and free_others[j]:
            free_rows[i] = free_others[j] = False
            pairs.append((i, j))
            if len(pairs) == min(len(rows), len(others)):
                break
    first, second = np.array(pairs).T
    return first, second, distances[first, second]


def worst_noise(noise: Iterable[OutputNoise]) -> OutputNoise | None:
    """Returns the output or part with the lowest signal-to-noise ratio; None if none has one."""
    judged = [each for each in noise if each.sqnr_db is not None]
    return min(judged, key=lambda each: each.sqnr_db or 0.0, default=None)


def worst_db(noise: Iterable[OutputNoise]) -> float:
    """Returns the lowest signal-to-noise ratio of an output or part; `EXACT_DB` if none has one."""
    worst = worst_noise(noise)
    return EXACT_DB if worst is None or worst.sqnr_db is None else worst.sqnr_db


def refuse_noise(
    noise: Sequence[OutputNoise], limits: Limits, *, what: str, reference: str, given: str = "", hint: str = ""
) -> None:
    """Raises an error if an output, or a part of one, is beyond the limits.

    Args:
        noise: the outputs.
        limits: the limits of the precision.
        what: what computed the outputs, for the message: ``the INT8 engine for cpu``.
        reference: what computed the reference.
        given: the inputs, such as `` given x: float32 (1, 3, 8, 8)``.
        hint: how to go on.

    Raises:
        AccuracyError: names the output and part, the limit, and what was found; another shape is beyond any limit.
    """
    for each in noise:
        if each.shapes:
            expected, got = each.shapes
            raise AccuracyError(
                f"output {each.where} of {what}{given}: expected shape {expected} as in {reference}, got {got}",
                hint=hint,
            )
        if each.agreement is not None and each.agreement < limits.refused_agreement:
            raise AccuracyError(
                f"output {each.where} of {what}{given}: expected {100 * limits.refused_agreement:.0f} % of its values "
                f"as in {reference}, got {100 * each.agreement:.1f} %",
                hint=hint,
            )
    worst = worst_noise(noise)
    if worst is None or worst.sqnr_db is None or worst.sqnr_db > limits.refused_db:
        return
    if worst.sqnr_db == limits.refused_db and worst.sqnr_db != NOTHING_LEFT_DB:
        return
    lost = " is lost in noise" if worst.sqnr_db <= NOTHING_LEFT_DB else ""
    bound = "above" if worst.sqnr_db == limits.refused_db else "of at least"
    raise AccuracyError(
        f"output {worst.where} of {what}{given}{lost}: expected a signal-to-noise ratio {bound} "
        f"{limits.refused_db:.0f} dB against {reference}, got {_shown(worst.sqnr_db)}",
        hint=hint,
    )


def _shown(decibels: float) -> str:
    return "infinities or NaN" if decibels <= -EXACT_DB else f"{decibels:.1f} dB"
