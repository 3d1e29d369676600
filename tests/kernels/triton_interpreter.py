"""A process that runs kernels in Triton's interpreter; see `attention_on_host.InterpretedKernels`."""

from __future__ import annotations

import os
import pickle
import struct
import sys
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"

import torch
import triton.language as tl
from triton.runtime.interpreter import InterpreterBuilder

from edgekit.kernels.sdpa import triton_kernels


def dot(builder: InterpreterBuilder, a: Any, b: Any, *rest: Any) -> Any:
    """A matrix product of bfloat16, whose bits Triton 3.9's interpreter multiplies as if they were integers."""
    a, b = (
        builder.cast_impl(operand, tl.float32) if operand.dtype.scalar == tl.bfloat16 else operand for operand in (a, b)
    )
    return create_dot(builder, a, b, *rest)


create_dot = InterpreterBuilder.create_dot
InterpreterBuilder.create_dot = dot


def main() -> None:
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what Triton prints is no answer
    while header := sys.stdin.buffer.read(8):
        data = sys.stdin.buffer.read(struct.unpack("<Q", header)[0])
        data = pickle.dumps(run(*pickle.loads(data)))
        answers.write(struct.pack("<Q", len(data)) + data)
        answers.flush()


def run(
    function: str, constants: dict[str, Any], grid: tuple[int, int, int], memories: dict[int, bytes], values: list[Any]
) -> dict[int, bytes]:
    buffers = {
        key: torch.frombuffer(bytearray(data or b"\0" * 16), dtype=torch.uint8) for key, data in memories.items()
    }
    arguments = [tensor(buffers, *value) if isinstance(value, tuple) else value for value in values]
    getattr(triton_kernels, function)[grid](*arguments, **constants)
    return {key: buffers[key].numpy().tobytes()[: len(data)] for key, data in memories.items()}


def tensor(buffers: dict[int, torch.Tensor], memory: int, offset: int, dtype: str) -> torch.Tensor:
    kind = getattr(torch, dtype)
    size = (buffers[memory].numel() - offset) // kind.itemsize * kind.itemsize
    return buffers[memory][offset : offset + size].view(kind)


if __name__ == "__main__":
    main()
