"""What the instruction sets of a processor would allow, by its cores and its clock."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from edgekit.device.cpu import Cpu

__all__ = ["TheoreticalPeak", "theoretical_peaks"]


class TheoreticalPeak(msgspec.Struct, frozen=True, kw_only=True):
    """What all cores would reach if every cycle issued as many instructions as the core has units for them.

    Attributes:
        precision: numpy's name of the element type.
        instructions: the instruction set.
        macs_per_s: multiply-accumulates per second of all cores.
        formula: how it is computed, as text.
    """

    precision: str
    instructions: str
    macs_per_s: float
    formula: str


class _Instructions(NamedTuple):
    precision: str
    name: str
    macs_per_cycle: float
    formula: str


# Multiply-accumulates of one core in one cycle, for two vector units, as Intel's cores since Haswell, AMD's since Zen 2
# and Arm's since Cortex-A76 have; some AVX-512 processors have one unit of 512 bits. Without a dot product instruction,
# 8-bit products take three instructions: multiply, widen, add. Sources: Intel 64 and IA-32 Architectures Optimization
# Reference Manual; Software Optimization Guide for AMD Family 17h and 19h; Arm Cortex-A78 Software Optimization Guide.
_X86 = {
    "avx2": (
        _Instructions("float32", "AVX2 FMA", 16, "2 units x 8 numbers"),
        _Instructions("int8", "AVX2 without dot product", 64 / 3, "2 units x 32 numbers / 3 instructions"),
    ),
    "avx_vnni": (_Instructions("int8", "AVX-VNNI", 64, "2 units x 32 numbers"),),
    "avx512f": (
        _Instructions("float32", "AVX-512 FMA", 32, "2 units x 16 numbers"),
        _Instructions("int8", "AVX-512 without dot product", 128 / 3, "2 units x 64 numbers / 3 instructions"),
    ),
    "avx512_vnni": (_Instructions("int8", "AVX-512 VNNI", 128, "2 units x 64 numbers"),),
    "amx_int8": (_Instructions("int8", "AMX", 1024, "16 x 16 x 64 numbers in 16 cycles"),),
}
_ARM = {
    "neon": (_Instructions("float32", "NEON FMA", 8, "2 units x 4 numbers"),),
    "asimddp": (_Instructions("int8", "SDOT", 32, "2 units x 16 numbers"),),
    "i8mm": (_Instructions("int8", "SMMLA", 64, "2 units x 32 numbers"),),
}


def theoretical_peaks(here: Cpu, clock: float | None) -> tuple[TheoreticalPeak, ...]:
    """Returns what the processor's instruction sets would allow; with and without dot products.

    Args:
        here: the processor.
        clock: its clock in MHz; None if it is not known, and the result is empty.
    """
    if clock is None:
        return ()
    known = _X86 if here.arch == "x86_64" else _ARM
    cores = here.compute_threads
    return tuple(
        TheoreticalPeak(
            precision=row.precision,
            instructions=row.name,
            macs_per_s=cores * clock * 1e6 * row.macs_per_cycle,
            formula=f"{cores} cores x {clock:.0f} MHz x {row.formula}",
        )
        for feature in here.features
        for row in known.get(feature, ())
    )
