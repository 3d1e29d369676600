"""Compiles the attention kernels of a type and a head size: ``python -m tools.triton_to_ptx float16 64 80``.

A process of its own for ``tools/build_kernels``. Writes JSON to the standard output: PTX and bytes of shared memory of
each kernel. The last argument is the compute capability that Triton compiles for.
"""

from __future__ import annotations

import json
import os
import re
import sys

from edgekit.kernels.sdpa.variants import KEY_BLOCK, Variant, variants

# The driver of CUDA 12.0 takes PTX 8.0, which is the first with the instructions of sm_90.
OPTIONS = {"ptx_version": 80, "enable_fp_fusion": True}
# A multiply and an add may be fused; without line numbers, a binary is a third as large.
os.environ |= {"TRITON_DEFAULT_FP_FUSION": "1", "TRITON_DISABLE_LINE_INFO": "1"}
FLAGS = tuple(f"{name}={value}" for name, value in OPTIONS.items())

POINTERS = {
    **dict.fromkeys(("queries", "keys", "values", "out", "mask", "source"), ""),
    **dict.fromkeys(("query_scales", "key_scales", "means", "scales", "states", "sums"), "*fp32"),
    "lengths": "*i32",
    "quantized": "*i8",
}
TRITON_TYPES = {"float16": "*fp16", "bfloat16": "*bf16"}


def main(arguments: list[str]) -> int:
    type_name, head_size, capability = arguments[0], int(arguments[1]), int(arguments[2])
    found = {}
    for name, variant in variants(type_name, head_size, capability=capability).items():
        ptx, shared_bytes = _compiled(variant, type_name, capability)
        kernel = f"attention_{name}_{type_name}_{head_size}"
        found[kernel] = {
            "ptx": re.sub(rf"\b{variant.function}(?=\(|_param_)", kernel, ptx),
            "shared_bytes": shared_bytes,
        }
    json.dump(found, sys.stdout)
    return 0


def _compiled(variant: Variant, type_name: str, capability: int) -> tuple[str, int]:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from edgekit.kernels.sdpa import triton_kernels

    function = getattr(triton_kernels, variant.function)
    types, attributes = {}, {}
    for index, parameter in enumerate(function.arg_names):
        types[parameter] = _type(parameter, variant, type_name)
        divisor = _divisor(parameter, types[parameter], variant)
        if divisor > 1:
            attributes[index,] = [["tt.divisibility", divisor]]
    compiled = triton.compile(
        ASTSource(function, types, variant.constants, attributes),
        target=GPUTarget("cuda", capability, 32),
        options={**OPTIONS, "num_warps": variant.warps, "num_stages": variant.stages},
    )
    return compiled.asm["ptx"], compiled.metadata.shared


def _type(parameter: str, variant: Variant, type_name: str) -> str:
    if parameter in variant.constants:
        return "constexpr"
    if parameter in ("queries", "keys") and variant.constants.get("INT8"):
        return "*i8"
    if parameter in POINTERS:
        return POINTERS[parameter] or TRITON_TYPES[type_name]
    return "fp32" if parameter in ("scale", "factor") else "i32"


def _divisor(parameter: str, type_name: str, variant: Variant) -> int:
    """What an argument is a multiple of, so that 16 bytes are loaded at once; the launcher checks it."""
    if parameter == "mask" or parameter.startswith("mask_"):
        return 1
    if parameter == "keys_per_split":
        return KEY_BLOCK
    if type_name.startswith("*"):
        return 16
    if parameter.endswith(("_batch", "_head", "_row")):
        return 16 if parameter.startswith(("queries", "keys")) and variant.constants.get("INT8") else 8
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
