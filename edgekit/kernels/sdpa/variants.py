"""The variants of the attention kernels that are shipped, for the compiler and for the launcher."""

from __future__ import annotations

import msgspec

__all__ = [
    "HEAD_SIZES",
    "KEY_BLOCK",
    "MAX_SPLITS",
    "ROWS",
    "SCALE_BLOCK",
    "TURING",
    "TYPES",
    "Variant",
    "columns",
    "parts",
    "split",
    "variants",
    "width",
]

HEAD_SIZES = (32, 64, 80, 96, 128)
TYPES = ("float16", "bfloat16")
"""Types of queries, keys, values, mask and output. INT8 is for float16 only, because its P V is in FP16."""
TURING = 75
"""Compute capability times ten of the GPUs whose tensor cores Triton does not use: it multiplies with FMA there, cannot
compile products of INT8, and bfloat16 has no instructions. So only float16 has kernels for it."""
KEY_BLOCK = 64
SCALE_BLOCK = 64
"""Rows that share a scale in INT8."""
ROWS = 16
"""Queries of a tile of ``decode``; a tensor core's instruction has 16 rows."""
MAX_SPLITS = 128
_COMBINED = 32
# A thread that multiplies with FMA has whole rows of both tiles in registers: greater tiles spill.
_FMA_KEYS = 16
_FMA_TILE = (64, _FMA_KEYS, 8, 1)


class Variant(msgspec.Struct, frozen=True, kw_only=True):
    """How a kernel is compiled.

    Attributes:
        function: its name in ``triton_kernels.py``.
        constants: values of its compile-time parameters.
        warps: warps of a block.
        stages: depth of the software pipeline that loads keys and values.
    """

    function: str
    constants: dict[str, int | bool]
    warps: int
    stages: int = 1


def split(size: int) -> tuple[int, int]:
    """Splits a head size into two powers of two; the second may be 0."""
    # Tiles of 128 columns need more registers than two of 64.
    first = min(1 << (size.bit_length() - 1), 64)
    return first, size - first


def columns(head_size: int) -> int:
    """Returns the power of two that is not less than the head size."""
    return 1 << (head_size - 1).bit_length()


def width(head_size: int) -> int:
    """Returns the row length of quantized arrays: the instructions for INT8 take multiples of 32."""
    return -(-head_size // 32) * 32


def parts(*, capability: int = 80) -> tuple[tuple[str, int], ...]:
    """Returns types and head sizes; the kernels of one pair are one module."""
    types = TYPES[:1] if capability == TURING else TYPES
    return tuple((type_name, head_size) for type_name in types for head_size in HEAD_SIZES)


def variants(type_name: str, head_size: int, *, capability: int = 80) -> dict[str, Variant]:
    """Returns the kernels of a type and a head size, by name.

    Args:
        type_name: one of `TYPES`.
        head_size: one of `HEAD_SIZES`.
        capability: compute capability times ten, of the GPU or of Triton's target. The warps and the block of queries
            are the same for all but `TURING`.
    """
    turing = capability == TURING
    int8 = type_name == "float16" and not turing
    found = {}
    for precision in ("", "_int8") if int8 else ("",):
        for masked in (False, True):
            name = f"forward{precision}{'_mask' if masked else ''}"
            found[name] = _forward(head_size, masked, bool(precision), capability)
    a, b = split(head_size)
    stages = 1 if turing else 3
    found["decode"] = Variant(
        function="decode",
        constants={"ROWS": ROWS, "KEY_BLOCK": _FMA_KEYS if turing else KEY_BLOCK, "A": a, "B": b, "STAGES": stages},
        warps=4,
        stages=stages,
    )
    tile = {"HEAD_SIZE": head_size, "COLUMNS": columns(head_size)}
    found["combine"] = Variant(function="combine", constants={"SPLITS": _COMBINED, **tile}, warps=4)
    if int8:
        found["mean"] = Variant(function="mean", constants={"ROWS": KEY_BLOCK, **tile}, warps=8)
        found["quantize"] = Variant(
            function="quantize", constants={"ROWS": SCALE_BLOCK, "WIDTH": width(head_size), **tile}, warps=4
        )
    return found


def _forward(head_size: int, masked: bool, int8: bool, capability: int) -> Variant:
    query_block, key_block, warps, stages = _tile(head_size, masked, int8, capability)
    a, b = split(head_size)
    return Variant(
        function="forward",
        constants={
            "QUERY_BLOCK": query_block,
            "KEY_BLOCK": key_block,
            "SCALE_BLOCK": SCALE_BLOCK,
            "A": a,
            "QUERY_B": split(width(head_size))[1] if int8 else b,
            "VALUE_B": b,
            "HAS_MASK": masked,
            "INT8": int8,
            "STAGES": stages,
        },
        warps=warps,
        stages=stages,
    )


def _tile(head_size: int, masked: bool, int8: bool, capability: int) -> tuple[int, int, int, int]:
    """Returns the block of queries, the block of keys, the warps and the stages."""
    if capability == TURING:
        return _FMA_TILE
    # A mask takes registers, so its tiles are smaller. Windows with a bias, as in Swin, are short, too: blocks of 128
    # queries would be half empty. Shared memory holds the keys and values of each stage; a block has at most 99 KiB on
    # sm_86, 89 and 120. With 64 keys, head size 64 spills registers, but not with wgmma, which has operands in memory.
    query_block = 64 if masked else 128
    key_block = 32 if masked or (head_size == 64 and capability < 90) else KEY_BLOCK
    # INT8 with a mask has 128 columns of everything at the largest head size, too many registers for 4 warps.
    many = head_size == 128 if masked and int8 else head_size > 64 and not masked
    return query_block, key_block, 8 if many else 4, 3 if masked or head_size <= 64 else 2
