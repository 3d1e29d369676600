"""The peaks of boards and GPUs that their data sheets state; the figures are in ``boards.toml``."""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from edgekit.arguments import either
from edgekit.errors import UsageError, nearest
from edgekit.measure.roofline import Peaks

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = [
    "Board",
    "Boards",
    "Source",
    "board_from_name",
    "boards",
    "names_of_boards",
    "peaks_from_board",
    "runs_on",
    "sources_of",
]

FILE = Path(__file__).with_name("boards.toml")


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A document with figures.

    Attributes:
        title: its title.
        url: where it is published.
    """

    title: str
    url: str


class Rate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Arithmetic of a GPU in one precision, in TOPS or TFLOPS of two operations per multiply-accumulate.

    Attributes:
        dense: without structured sparsity; None if it follows from multiprocessors, clock and architecture.
        sparse: with structured sparsity (2:4), as marketing counts; None if the source does not state it.
        source: key of the source.
    """

    dense: float | None = None
    sparse: float | None = None
    source: str = ""


class Bandwidth(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bandwidth of the memory, in GB/s (10^9 bytes)."""

    gb_per_s: float
    source: str


class PowerModes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Names of the power modes, or the power limit of a card."""

    names: tuple[str, ...]
    source: str


class Architecture(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A generation of GPUs.

    Attributes:
        compute_capability: its compute capability, such as ``8.6``.
        source: key of the source.
        macs_per_clock: dense multiply-accumulates of one multiprocessor in one clock, by precision.
    """

    compute_capability: str
    source: str
    macs_per_clock: dict[str, int]


class Board(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"kind": "class"}):
    """A board or a GPU.

    Attributes:
        name: the product.
        kind: boards of one class share efficiency factors, such as ``jetson-orin``.
        architecture: key of its architecture.
        multiprocessors: streaming multiprocessors of the GPU.
        clock_mhz: the highest clock that the data sheet states.
        bandwidth: of the memory.
        memory_gb: size of the memory.
        cache_mb: the cache in front of the memory, in MiB.
        power_modes: power modes, or the power limit.
        rates: arithmetic by precision.
        note: what the figures are of.
    """

    name: str
    kind: str
    architecture: str
    multiprocessors: int
    clock_mhz: float
    bandwidth: Bandwidth
    memory_gb: float
    cache_mb: float
    power_modes: PowerModes
    rates: dict[str, Rate]
    note: str = ""


class Boards(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of ``boards.toml``."""

    sources: dict[str, Source]
    architectures: dict[str, Architecture]
    boards: dict[str, Board]


@functools.cache
def boards() -> Boards:
    """Returns all boards, their architectures, and the sources of the figures."""
    return msgspec.convert(tomllib.loads(FILE.read_text(encoding="utf-8")), Boards)


def board_from_name(name: str) -> Board:
    """Returns the board with this name.

    Raises:
        UsageError: there is no such board.
    """
    known = boards().boards
    if not isinstance(name, str) or name not in known:
        raise UsageError(f"unknown board {name!r}", hint=nearest(str(name), known))
    return known[name]


def names_of_boards() -> str:
    """Returns where the names of the boards are, for hints: the command that lists them, or the names in Python."""
    return either("`edgekit estimate --boards` lists the names", f"the names: {', '.join(sorted(boards().boards))}")


def runs_on(board: Board, compute_capabilities: Sequence[str]) -> bool:
    """Whether an engine for these compute capabilities runs on a board; ``8.0+`` means 8.0 and higher."""
    here = boards().architectures[board.architecture].compute_capability
    return any(
        _version(here) >= _version(built[:-1]) if built.endswith("+") else here == built
        for built in compute_capabilities
    )


def _version(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(".")))


def arithmetic_ops_per_s(board: Board, precision: str) -> float:
    """Returns dense operations per second that follow from multiprocessors, clock and architecture."""
    per_clock = boards().architectures[board.architecture].macs_per_clock[precision]
    return 2.0 * board.multiprocessors * board.clock_mhz * 1e6 * per_clock


def peaks_from_board(board: Board) -> Peaks:
    """Returns the published peaks of a board.

    A published rate is rounded: the larger of it and the one that follows from the architecture counts. FP32 has the
    rate of TF32 where the GPU has it, because TensorRT computes FP32 in TF32 by default.
    """
    rates = {
        precision: max((rate.dense or 0.0) * 1e12, arithmetic_ops_per_s(board, precision)) / 2
        for precision, rate in board.rates.items()
    }
    fastest = max(rates["float32"], rates.pop("tfloat32", 0.0))
    return Peaks(
        name=board.name,
        kind="published",
        macs_per_s=rates | {"float32": fastest},
        bytes_per_s=board.bandwidth.gb_per_s * 1e9,
        cache_bytes=int(board.cache_mb * 2**20),
    )


def sources_of(board: Board) -> tuple[Source, ...]:
    """Returns the sources of the figures of a board, each once."""
    found = boards()
    keys = [rate.source or found.architectures[board.architecture].source for rate in board.rates.values()]
    return tuple(found.sources[key] for key in dict.fromkeys([*keys, board.bandwidth.source]))
