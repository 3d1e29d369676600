"""What the float graph computes in the channels of its tensors, on some of its inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from edgekit.graph.evaluator import Evaluator

__all__ = ["ChannelsSeen", "Extremes", "ObservedChannels"]

INPUTS = 8
"""Number of inputs that channels are observed on."""
ROWS = 256
"""About how many rows of a product's input its error is computed on."""


class Extremes(NamedTuple):
    """Smallest and largest value of each channel (the last axis), over inputs."""

    lo: np.ndarray
    hi: np.ndarray

    @property
    def magnitudes(self) -> np.ndarray:
        return np.asarray(np.maximum(-self.lo, self.hi))


class ChannelsSeen(NamedTuple):
    """What was observed of a tensor: in each input, the extremes of its channels, and some of its rows.

    Attributes:
        lo: smallest value, ``(inputs, C)``.
        hi: largest value, ``(inputs, C)``.
        rows: from each input, ``(rows, C)``.
        counts: how many rows of the tensor each of them stands for.
    """

    lo: np.ndarray
    hi: np.ndarray
    rows: list[np.ndarray]
    counts: list[np.ndarray]

    def extremes(self, inputs: slice) -> Extremes:
        return Extremes(self.lo[inputs].min(0), self.hi[inputs].max(0))


@dataclass(eq=False)
class ObservedChannels:
    """What was observed of one float graph on its inputs, for those who quantize it several times.

    A build tries several policies and ranges, and the float graph computes the same numbers in each.

    Attributes:
        seen: tensors by name, and whether their rows were taken; None for one that has no finite extremes.
    """

    seen: dict[tuple[str, bool], ChannelsSeen | None] = field(default_factory=dict)

    def observed(
        self,
        graph: ir.Model,
        wanted: Iterable[tuple[str, bool]],
        feeds: Sequence[Mapping[str, np.ndarray]],
        *,
        threads: int = 0,
    ) -> dict[str, ChannelsSeen]:
        """Returns what is seen of tensors, without those that have no finite extremes; runs the graph for new ones.

        Args:
            graph: the float graph.
            wanted: names of tensors, and whether rows of them are needed.
            feeds: inputs of the graph; the first `INPUTS` are used.
            threads: for ONNX Runtime; 0: its default.
        """
        wanted = set(wanted)
        if missing := sorted(wanted - self.seen.keys()):
            found = _observed(graph, missing, feeds[:INPUTS], threads)
            self.seen |= {key: _joined(each) for key, each in found.items()}
        return {key[0]: seen for key in wanted if (seen := self.seen[key]) is not None}


def _observed(
    graph: ir.Model, wanted: Sequence[tuple[str, bool]], feeds: Sequence[Mapping[str, np.ndarray]], threads: int
) -> dict[tuple[str, bool], list[tuple[np.ndarray, ...]]]:
    evaluator = Evaluator(graph, also=sorted({name for name, _ in wanted}), threads=threads, optimized=True)
    found: dict[tuple[str, bool], list[tuple[np.ndarray, ...]]] = {key: [] for key in wanted}
    for feed in feeds:
        results = evaluator.run(dict(feed))
        for name, rows in wanted:
            # A sequence of another length may be part of an input, but an empty one has no extremes.
            if results[name].size:
                found[name, rows].append(_observed_rows(results[name], judged=rows, count=ROWS // len(feeds)))
    return found


def _joined(found: Sequence[tuple[np.ndarray, ...]]) -> ChannelsSeen | None:
    if not found:
        return None
    lo, hi, rows, counts = zip(*found, strict=True)
    seen = ChannelsSeen(np.stack(lo), np.stack(hi), list(rows), list(counts))
    return seen if np.isfinite(seen.lo).all() and np.isfinite(seen.hi).all() else None


def _observed_rows(array: np.ndarray, *, judged: bool, count: int) -> tuple[np.ndarray, ...]:
    """Returns the extremes of the channels, rows, and how many rows each of these stands for.

    Half of them are those of the largest values, which are rounded or clipped most; the others are evenly chosen.
    """
    rows = array.reshape(-1, array.shape[-1])
    if not judged:
        return rows.min(0), rows.max(0), rows[:0], np.zeros(0)
    magnitudes = np.abs(rows)
    mean = magnitudes.mean(0)
    peaks = (magnitudes / np.where(mean > 0, mean, 1)).max(1)
    half = min(max(1, count // 2), len(rows))
    order = np.argsort(-peaks, kind="stable")
    largest, others = order[:half], np.sort(order[half:])
    evenly = others[np.arange(min(half, len(others))) * len(others) // max(1, min(half, len(others)))]
    counts = np.repeat([1.0, len(others) / max(1, len(evenly))], [len(largest), len(evenly)])
    return rows.min(0), rows.max(0), rows[np.concatenate([largest, evenly])], counts
