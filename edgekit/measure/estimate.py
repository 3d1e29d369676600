"""Estimates the latency of a model on a board that is not here: the roofline's bound, and what engines reach of it.

The time of a run is modelled as::

    time = compute_s * compute_factor(precision) + memory_s * memory_factor
         + (layers * layer_clocks + call_clocks) / clock

``compute_s`` and ``memory_s`` are the least times for all arithmetic and for all bytes by the board's peaks, and the
factors are one over the share of the peaks that kernels reach. Each layer costs the start of a kernel. A call from
Python costs copies and synchronization, which an estimate leaves out. The factors are fitted to published latencies of
boards of one class, by least squares of relative errors, none of them negative. Each model is left out in turn and
predicted by the others: these errors are the error bar. Each board is left out in turn too.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Sequence

import msgspec
import numpy as np

from edgekit.arguments import argument
from edgekit.errors import UsageError
from edgekit.measure.boards import Board, Source, board_from_name, boards, peaks_from_board, sources_of
from edgekit.measure.fused_layers import FusedLayer
from edgekit.measure.published import Published, layers_from_published, published
from edgekit.measure.roofline import Operator, Peaks, Roofline, roofline_from_layers

__all__ = ["MIN_PAIRS", "Efficiency", "Estimate", "HeldOut", "efficiency_of", "estimate_from_layers"]

MIN_PAIRS = 20
"""With fewer published latencies of a class of boards, there is no estimate."""
COVERAGE = 0.8
"""Share of the latencies of models that were not fitted that the error bar covers."""
PRECISIONS = ("float32", "float16", "int8")
TIMED = ("gpu", "call")
"""What is fitted: the time of a whole program says too little about the engine."""


class HeldOut(msgspec.Struct, frozen=True, kw_only=True):
    """A published latency, and what the others predict for it.

    Attributes:
        model: a model in ``published_models.json``.
        board: key of the board.
        precision: numpy's name of the precision.
        batch: batch size.
        published_ms: the published latency.
        predicted_ms: the latency by factors that were fitted without this model.
    """

    model: str
    board: str
    precision: str
    batch: int
    published_ms: float
    predicted_ms: float


class Efficiency(msgspec.Struct, frozen=True, kw_only=True):
    """The factors of one class of boards.

    Attributes:
        kind: class of the boards.
        compute_factors: time per least time of the arithmetic, by precision.
        memory_factor: time per least time of the memory traffic.
        layer_clocks: clocks of the GPU for each layer.
        call_clocks: clocks of the GPU for a call from Python.
        pairs: number of published latencies that were fitted.
        models: number of models among them.
        boards: keys of the boards among them.
        held_out: each latency, predicted without its model.
        model_error: median relative error, without sign, of predictions of models that were not fitted.
        board_error: the same of predictions for boards that were not fitted.
        low: published over predicted, of models that were not fitted, at the lower end of the error bar.
        high: the same at the upper end; 80 % of them are between the two.
    """

    kind: str
    compute_factors: dict[str, float]
    memory_factor: float
    layer_clocks: float
    call_clocks: float
    pairs: int
    models: int
    boards: tuple[str, ...]
    held_out: tuple[HeldOut, ...]
    model_error: float
    board_error: float
    low: float
    high: float

    def layer_ms(self, layer: Operator, peaks: Peaks, clock_mhz: float) -> float:
        """Returns the estimated time of a layer in an engine, without the call from Python."""
        precision = layer.precision if layer.precision in self.compute_factors else "float32"
        arithmetic_s = peaks.compute_s(layer.macs or 0, layer.precision) * self.compute_factors[precision]
        memory_s = (layer.bytes or 0) / peaks.bytes_per_s * self.memory_factor
        return 1000 * (arithmetic_s + memory_s + self.layer_clocks / (clock_mhz * 1e6))


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """The latency of a model on a board, before it was built for it.

    Attributes:
        name: the model's name.
        board: key of the board.
        board_name: the product; ``this machine`` has the name of its CPU.
        precision: ``int8``, ``fp16``, ``fp32``, or ``as built`` for an engine.
        inputs: shapes of the inputs, as text.
        macs: multiply-accumulates of one run.
        roofline: the bound of each layer and of the whole.
        latency_ms: the estimate; None if the class of the board has too few published latencies.
        low_ms: lower end of its error bar, but not below the bound.
        high_ms: upper end of its error bar.
        layer_ms: the estimate of each layer, in the order of the roofline's points; empty without an estimate.
        efficiency: the factors that it was made with.
        pairs: number of published latencies of the class of the board.
        sources: where the figures of the board are published.
        notes: what the figures leave out.
    """

    name: str
    board: str
    board_name: str
    precision: str
    inputs: tuple[str, ...]
    macs: int
    roofline: Roofline
    latency_ms: float | None = None
    low_ms: float | None = None
    high_ms: float | None = None
    layer_ms: tuple[float, ...] = ()
    efficiency: Efficiency | None = None
    pairs: int = 0
    sources: tuple[Source, ...] = ()
    notes: tuple[str, ...] = ()


def estimate_from_layers(
    layers: Sequence[FusedLayer], board: str, *, name: str, precision: str, inputs: tuple[str, ...] = ()
) -> Estimate:
    """Estimates the latency of merged layers on a board.

    Args:
        layers: see `edgekit.measure.fused_layers`.
        board: key of the board in ``boards.toml``.
        name: the model's name.
        precision: the precision, for the report.
        inputs: shapes of the inputs, for the report.

    Raises:
        UsageError: there is no such board, or it does not compute in a precision of the layers.
    """
    found = board_from_name(board)
    peaks = peaks_from_board(found)
    _require_precisions(layers, found, peaks)
    roofline = roofline_from_layers(layers, peaks)
    efficiency = efficiency_of(found.kind)
    made = Estimate(
        name=name,
        board=board,
        board_name=found.name,
        precision=precision,
        inputs=inputs,
        macs=sum(layer.macs for layer in layers),
        roofline=roofline,
        pairs=len(_pairs_of(found.kind)),
        sources=sources_of(found),
        notes=(found.note,) if found.note else (),
    )
    if efficiency is None:
        return made
    layer_ms = tuple(efficiency.layer_ms(layer, peaks, found.clock_mhz) for layer in layers)
    latency_ms = sum(layer_ms)
    return msgspec.structs.replace(
        made,
        latency_ms=latency_ms,
        low_ms=max(roofline.bound_ms, latency_ms * efficiency.low),
        high_ms=latency_ms * efficiency.high,
        layer_ms=layer_ms,
        efficiency=efficiency,
    )


def _require_precisions(layers: Iterable[Operator], board: Board, peaks: Peaks) -> None:
    for layer in layers:
        if layer.macs and layer.precision not in peaks.macs_per_s:
            known = ", ".join(sorted(peaks.macs_per_s))
            raise UsageError(
                f"{board.name}: expected a precision with a published rate ({known}), got {layer.precision}",
                hint=f"choose another precision, such as {argument('precision', 'fp16')}",
            )


@functools.cache
def efficiency_of(kind: str) -> Efficiency | None:
    """Returns the factors of a class of boards; None if fewer than `MIN_PAIRS` latencies of it are published.

    Args:
        kind: class of boards, such as ``jetson-orin``.
    """
    pairs = _pairs_of(kind)
    if len(pairs) < MIN_PAIRS:
        return None
    rows = np.array([_row(pair) for pair in pairs])
    times = np.array([pair.latency_ms for pair in pairs])
    predicted = _predicted_without(rows, times, [pair.model for pair in pairs])
    elsewhere = _predicted_without(rows, times, [pair.board for pair in pairs])
    ratios = times / predicted
    low, high = np.quantile(ratios, ((1 - COVERAGE) / 2, (1 + COVERAGE) / 2))
    *compute, memory, per_layer, per_call = (float(factor) for factor in _fitted(rows, times))
    return Efficiency(
        kind=kind,
        compute_factors=dict(zip(PRECISIONS, compute, strict=True)),
        memory_factor=memory,
        layer_clocks=per_layer,
        call_clocks=per_call,
        pairs=len(pairs),
        models=len({pair.model for pair in pairs}),
        boards=tuple(dict.fromkeys(pair.board for pair in pairs)),
        held_out=tuple(
            HeldOut(
                model=pair.model,
                board=pair.board,
                precision=pair.precision,
                batch=pair.batch,
                published_ms=pair.latency_ms,
                predicted_ms=float(value),
            )
            for pair, value in zip(pairs, predicted, strict=True)
        ),
        model_error=float(np.median(np.abs(predicted / times - 1))),
        board_error=float(np.median(np.abs(elsewhere / times - 1))),
        low=float(low),
        high=float(high),
    )


def _pairs_of(kind: str) -> list[Published]:
    known = boards().boards
    return [pair for pair in published() if known[pair.board].kind == kind and pair.what in TIMED]


def _row(pair: Published) -> list[float]:
    """What each factor is multiplied with, in ms: see the formula of this module."""
    board = boards().boards[pair.board]
    peaks = peaks_from_board(board)
    layers = layers_from_published(pair.model, pair.precision, pair.batch)
    compute_ms = 1000 * sum(peaks.compute_s(layer.macs, pair.precision) for layer in layers)
    memory_ms = 1000 * sum(layer.bytes for layer in layers) / peaks.bytes_per_s
    clock_ms = 1 / (board.clock_mhz * 1e3)
    arithmetic = [compute_ms if precision == pair.precision else 0.0 for precision in PRECISIONS]
    return [*arithmetic, memory_ms, len(layers) * clock_ms, clock_ms * (pair.what == "call")]


def _predicted_without(rows: np.ndarray, times: np.ndarray, groups: Sequence[str]) -> np.ndarray:
    """Predicts each time by factors that were fitted without its group."""
    predicted = np.zeros(len(times))
    for group in set(groups):
        out = np.array([other == group for other in groups])
        predicted[out] = rows[out] @ _fitted(rows[~out], times[~out])
    return predicted


def _fitted(rows: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Solves for factors that are not negative, with the least sum of squared relative errors.

    The best solution with some factors at zero is that of plain least squares on the others, so that all choices of
    factors are tried (Lawson and Hanson, "Solving Least Squares Problems", 1974, chapter 23, need not be followed for
    six unknowns).
    """
    relative, ones = rows / times[:, None], np.ones(len(times))
    best, error = np.zeros(rows.shape[1]), np.inf
    for size in range(1, rows.shape[1] + 1):
        for chosen in itertools.combinations(range(rows.shape[1]), size):
            values = np.linalg.lstsq(relative[:, chosen], ones, rcond=None)[0]
            if values.min() < 0:
                continue
            residual = float(((relative[:, chosen] @ values - ones) ** 2).sum())
            if residual < error:
                best, error = np.zeros(rows.shape[1]), residual
                best[list(chosen)] = values
    return best
