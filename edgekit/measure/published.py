"""Published latencies of models on boards, and the layers of these models.

The latencies are in ``published.toml``, each with its source. The layers are in ``published_models.json``, as counts of
multiply-accumulates, weights and activations of each merged layer at batch size 1; ``tools/published_models.py`` writes
them.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import msgspec

from edgekit.measure.boards import Source
from edgekit.measure.fused_layers import FusedLayer

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["MODELS_FILE", "Published", "layers_from_published", "published"]

FILE = Path(__file__).with_name("published.toml")
MODELS_FILE = Path(__file__).with_name("published_models.json")
ITEM_BYTES = {"float32": 4, "float16": 2, "int8": 1}

Timed: TypeAlias = Literal["gpu", "call", "program"]


class Published(msgspec.Struct, frozen=True, kw_only=True):
    """A published latency.

    Attributes:
        model: a model in ``published_models.json``.
        board: key of the board in ``boards.toml``.
        precision: ``float32``, ``float16`` or ``int8``.
        batch: batch size.
        latency_ms: the published figure, for the whole batch.
        what: ``gpu``: the engine alone; ``call``: a call from Python, with copies and synchronization; ``program``: a
            frame of an application.
        source: where it is published.
    """

    model: str
    board: str
    precision: str
    batch: int
    latency_ms: float
    what: Timed
    source: Source


class _Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    model: str
    batch: int = 1
    float32: float | None = None
    float16: float | None = None
    int8: float | None = None


class _Series(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    source: Source
    board: str
    what: Timed
    latency_ms: tuple[_Row, ...]


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    series: tuple[_Series, ...]


class _Counts(NamedTuple):
    macs: int
    weights: int
    activations: int


class _Model(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    input: str
    layers: tuple[_Counts, ...]


@functools.cache
def published() -> tuple[Published, ...]:
    """Returns all published latencies."""
    found = msgspec.convert(tomllib.loads(FILE.read_text(encoding="utf-8")), _File)
    return tuple(
        Published(
            model=row.model,
            board=series.board,
            precision=precision,
            batch=row.batch,
            latency_ms=latency_ms,
            what=series.what,
            source=series.source,
        )
        for series in found.series
        for row in series.latency_ms
        for precision in ITEM_BYTES
        if (latency_ms := getattr(row, precision)) is not None
    )


@functools.cache
def _models() -> dict[str, _Model]:
    return msgspec.json.decode(MODELS_FILE.read_bytes(), type=dict[str, _Model])


@functools.cache
def layers_from_published(model: str, precision: str, batch: int = 1) -> tuple[FusedLayer, ...]:
    """Returns the layers of a model of ``published_models.json``.

    Args:
        model: its name there.
        precision: ``float32``, ``float16`` or ``int8``.
        batch: batch size: arithmetic and activations grow with it, weights do not.
    """
    size = ITEM_BYTES[precision]
    return tuple(
        FusedLayer(
            name=f"{model}.{index}",
            operator="",
            precision=precision,
            macs=batch * counts.macs,
            weight_bytes=size * counts.weights,
            activation_bytes=size * batch * counts.activations,
        )
        for index, counts in enumerate(_models()[model].layers)
    )
