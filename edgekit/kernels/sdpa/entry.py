"""Rewrites the PTX of a kernel so that its parameters are those that another program passes.

TensorRT's ahead-of-time plugins pass the inputs, then 32-bit integers, then the outputs, and nothing else. The PTX of
Triton refers to parameters by name, so they can be declared in any order, and a parameter can become a constant.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from edgekit.errors import UsageError

__all__ = ["ptx_with_parameters"]


def ptx_with_parameters(ptx: str, kernel: str, order: Sequence[int], constants: Mapping[int, int]) -> str:
    """Returns a PTX module of one kernel with other parameters.

    Args:
        ptx: a PTX module with one or more kernels.
        kernel: name of the kernel.
        order: numbers of the parameters that stay, in their new order.
        constants: bits of the parameters that become constants, by number. Every parameter that the kernel reads is in
            ``order`` or here.

    Raises:
        UsageError: the module has no such kernel, or the kernel reads another parameter.
    """
    header, *kernels = re.split(r"(?=^\.visible \.entry )", ptx, flags=re.MULTILINE)
    found = [text for text in kernels if re.match(rf"\.visible \.entry {kernel}\(", text)]
    if len(found) != 1:
        raise UsageError(f"expected one kernel '{kernel}' in the PTX, got {len(found)}")
    start, declared, body = re.split(r"\((.*?)\)", found[0].rstrip("\0"), maxsplit=1, flags=re.DOTALL)
    declarations = [line.strip() for line in declared.split(",")]

    def load(match: re.Match[str]) -> str:
        bits, register, number = match[1], match[2], int(match[3])
        if number in order:
            return match[0]
        if number not in constants:
            raise UsageError(
                f"parameter {number} of '{kernel}': expected a place or a constant, as the kernel reads it"
            )
        return f"mov.b{bits} \t{register}, {constants[number]:#x};"

    body = re.sub(rf"ld\.param\.b(\d+) \t(%\w+), \[{kernel}_param_(\d+)\];", load, body)
    parameters = ",\n\t".join(declarations[number] for number in order)
    return f"{header}{start}(\n\t{parameters}\n){body}"
