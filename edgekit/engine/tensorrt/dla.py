"""Which versions of TensorRT run an engine's layers on a deep-learning accelerator (DLA), and in which precisions.

Source: NVIDIA, "Working with DLA", "Strongly Typed Networks for DLA" and the release notes of TensorRT 11.4.1.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from edgekit.arguments import argument, either
from edgekit.device.jetson import Jetson
from edgekit.engine.tensorrt.options import engine_argument
from edgekit.errors import UsageError
from edgekit.specs import Precision

__all__ = ["DLA_MATRIX", "dla_elsewhere", "dla_row", "require_dla"]

Version = tuple[int, ...]

STRONGLY_TYPED: Version = (11, 4, 1)
MIN_JETPACK: Version = (7, 2, 2)


class DlaRow(NamedTuple):
    """Versions of TensorRT, and what a DLA runs with them.

    Attributes:
        since: first version.
        versions: the versions in words.
        precisions: precisions of engines that can be built for a DLA.
        why: what else is needed, or why others cannot be built.
    """

    since: Version
    versions: str
    precisions: tuple[Precision, ...]
    why: str


DLA_MATRIX = (
    DlaRow((0,), "up to 10.7", (Precision.FP16,), "INT8 needs implicit scales there, and EdgeKit's graphs have Q/DQ"),
    DlaRow((10, 8), "10.8 to 11.3", (), "these versions have no DLA"),
    DlaRow((11, 4), "11.4.0", (), "this version has a DLA on Windows alone"),
    DlaRow(
        STRONGLY_TYPED,
        "from 11.4.1",
        (Precision.FP16, Precision.INT8),
        "on Jetson AGX Orin with JetPack 7.2.2 or newer; the graph's types set the precision",
    ),
)


def dla_row(version: str) -> DlaRow:
    """Returns the row of `DLA_MATRIX` for a version such as ``10.3.0``."""
    numbers = _numbers(version)
    return next(row for row in reversed(DLA_MATRIX) if row.since <= numbers)


def require_dla(version: str, precision: Precision, board: Jetson | None, dla: int) -> None:
    """Checks that an engine of this precision can use a DLA.

    Args:
        version: version of TensorRT.
        precision: precision of the engine.
        board: the Jetson; None on another machine.
        dla: the number given to the option ``dla``.

    Raises:
        UsageError: it cannot; says with which versions it can.
    """
    _require_precision(precision)
    row = dla_row(version)
    leave_out = f"leave {engine_argument('dla')} out"
    if precision not in row.precisions:
        others = [each.versions for each in DLA_MATRIX if precision in each.precisions]
        raise UsageError(
            f"{engine_argument('dla', dla)}: expected TensorRT {' or '.join(others)} for {str(precision).upper()}, got "
            f"{version}: {row.why}",
            hint=f"build with {argument('precision', 'fp16')}, or {leave_out}" if row.precisions else leave_out,
        )
    if row.since < STRONGLY_TYPED or board is None:
        return
    jetpack = _numbers(board.jetpack)
    if "AGX Orin" not in board.board or (jetpack and jetpack < MIN_JETPACK):
        raise UsageError(
            f"{engine_argument('dla', dla)}: TensorRT {version} expects a Jetson AGX Orin with JetPack 7.2.2 or newer, "
            f"got {board.board}" + (f" with JetPack {board.jetpack}" if board.jetpack else ""),
            hint=leave_out,
        )


def dla_elsewhere(precision: Precision, dla: int) -> str:
    """Says which machines can build an engine of this precision for a DLA.

    Raises:
        UsageError: none can.
    """
    _require_precision(precision)
    rows = [
        f"{row.versions} ({row.why})" if row.since >= STRONGLY_TYPED else row.versions
        for row in DLA_MATRIX
        if precision in row.precisions
    ]
    compiler = either("`edgekit compile`", "edgekit.compile")
    return (
        f"{engine_argument('dla', dla)} has no effect on the graph: {compiler} needs it again, with TensorRT "
        f"{' or '.join(rows)}"
    )


def _require_precision(precision: Precision) -> None:
    if precision not in (Precision.FP16, Precision.INT8):
        raise UsageError(
            f"{engine_argument('dla')} goes with {argument('precision', 'fp16')} or {argument('precision', 'int8')}: a "
            f"DLA does not compute in {precision}"
        )


def _numbers(version: str) -> Version:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])
