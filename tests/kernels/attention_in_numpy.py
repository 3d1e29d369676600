"""The attention kernels in numpy, for tests of the launcher where Triton is not installed.

They show that the launcher's arguments are right and in order; that the Triton kernels are is shown elsewhere.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from edgekit.kernels.sdpa.variants import SCALE_BLOCK
from tests.fakes.fake_cuda import Pointer
from tests.kernels.attention_on_host import dtype_of, parameters


class Arguments:
    """The arguments of a launch, by the names of the kernel's parameters."""

    def __init__(self, kernel: str, arguments: list[Any], capability: int) -> None:
        self.type_name, self.function, self.constants, self.names = parameters(kernel, capability)
        assert [pointer.memory.size for pointer in arguments[-2:]] == [0, 0]
        self.values = dict(zip(self.names, arguments[:-2], strict=True))

    def __getattr__(self, name: str) -> Any:
        return self.values[name]

    def flat(self, name: str, *sizes: int) -> np.ndarray:
        """A contiguous array."""
        pointer: Pointer = self.values[name]
        array = pointer.array(dtype_of(name, self.type_name, self.constants))
        return array[: int(np.prod(sizes))].reshape(sizes)

    def strided(self, name: str, *sizes: int) -> np.ndarray:
        pointer: Pointer = self.values[name]
        array = pointer.array(dtype_of(name, self.type_name, self.constants))
        strides = [self.values.get(f"{name}_{axis}", 0) for axis in ("batch", "head", "row")] + [1]
        last = sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
        assert last < array.size, f"{name}: the last element is beyond the memory"
        return as_strided(array, sizes, [stride * array.itemsize for stride in strides])

    def read(self, name: str, *sizes: int) -> np.ndarray:
        return np.array(self.strided(name, *sizes), np.float64, order="C")

    def key_lengths(self, batch: int, length: int) -> np.ndarray:
        return np.clip(self.flat("lengths", batch), 0, length) if self.has_lengths else np.full(batch, length)


def numpy_kernels(kernel: str, grid: tuple[int, int, int], arguments: list[Any], *, capability: int = 80) -> None:
    given = Arguments(kernel, arguments, capability)
    KERNELS[given.function](given, grid)


def softmax_parts(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights, and their logarithm's base: the maximum of each row, 0 if that is -inf."""
    largest = logits.max(-1, keepdims=True, initial=-np.inf)
    return np.exp2(logits - np.where(largest == -np.inf, 0, largest)), largest


def forward(given: Arguments, grid: tuple[int, int, int]) -> None:
    size = given.constants["A"] + given.constants["VALUE_B"]
    width = given.constants["A"] + given.constants["QUERY_B"]
    heads, rows, length = given.heads, given.query_length, given.key_length
    blocks = -(-rows // given.constants["QUERY_BLOCK"])
    batch = grid[0] // blocks // heads
    assert grid == (blocks * batch * heads, 1, 1)
    key_heads = heads // given.group
    q = given.read("queries", batch, heads, rows, width)
    k = given.read("keys", batch, key_heads, length, width)
    v = given.read("values", batch, key_heads, length, size)
    scale = given.scale * np.log2(np.e)
    if given.constants["INT8"]:
        q *= scales(given, "query_scales", batch, heads, rows)
        k *= scales(given, "key_scales", batch, key_heads, length)
        scale = 1.0
    # Not a call of BLAS, whose threads wait for each other on small products.
    logits = scale * np.einsum("bhid,bhjd->bhij", q, k.repeat(given.group, 1))
    if given.constants["HAS_MASK"]:
        logits += np.log2(np.e) * given.read("mask", batch, heads, rows, length)
    index = np.arange(length)
    logits[np.broadcast_to(index >= given.key_lengths(batch, length)[:, None, None, None], logits.shape)] = -np.inf
    if given.causal:
        logits[..., index > np.arange(rows)[:, None] + given.causal_offset] = -np.inf
    weights, _ = softmax_parts(logits)
    total = weights.sum(-1, keepdims=True)
    mean = np.einsum("bhij,bhjd->bhid", weights, v.repeat(given.group, 1)) / np.where(total, total, 1)
    given.strided("out", batch, heads, rows, size)[...] = mean


def scales(given: Arguments, name: str, batch: int, heads: int, rows: int) -> np.ndarray:
    blocks = given.flat(name, batch, heads, -(-rows // SCALE_BLOCK))
    return blocks.repeat(SCALE_BLOCK, -1)[:, :, :rows, None].astype(np.float64)


def mean(given: Arguments, grid: tuple[int, int, int]) -> None:
    batch, size = grid[0] // given.heads, given.constants["HEAD_SIZE"]
    keys = given.read("keys", batch, given.heads, given.length, size)
    means = given.flat("means", batch, given.heads, given.constants["COLUMNS"])
    for b, length in enumerate(given.key_lengths(batch, given.length)):
        means[b, :, :size] = keys[b, :, :length].sum(1) / max(1, length)


def quantize(given: Arguments, grid: tuple[int, int, int]) -> None:
    heads, rows, size = given.heads, given.length, given.constants["HEAD_SIZE"]
    blocks = -(-rows // SCALE_BLOCK)
    batch = grid[0] // blocks // heads
    assert grid == (blocks * batch * heads, 1, 1)
    source = given.read("source", batch, heads, rows, size)
    if given.has_means:
        source -= given.flat("means", batch, heads, given.constants["COLUMNS"])[:, :, None, :size]
    source[np.arange(rows) >= given.key_lengths(batch, rows)[:, None, None].repeat(heads, 1)] = 0
    source *= given.factor
    levels = given.flat("quantized", batch, heads, rows, given.constants["WIDTH"])
    levels[...] = 0
    for block in range(blocks):
        tile = slice(block * SCALE_BLOCK, (block + 1) * SCALE_BLOCK)
        largest = np.abs(source[:, :, tile]).max((2, 3))
        scale = np.where(largest, largest / 127, 1)
        given.flat("scales", batch, heads, blocks)[:, :, block] = scale
        levels[:, :, tile, :size] = np.rint(source[:, :, tile] / scale[..., None, None])


def decode(given: Arguments, grid: tuple[int, int, int]) -> None:
    size = given.constants["A"] + given.constants["B"]
    key_heads, group, splits, length = given.key_heads, given.group, given.splits, given.key_length
    batch = grid[0] // splits // key_heads
    assert grid == (splits * batch * key_heads, -(-group // given.constants["ROWS"]), 1)
    assert splits * given.keys_per_split >= length
    heads = key_heads * group
    q = given.read("queries", batch, heads, 1, size)
    k = given.read("keys", batch, key_heads, length, size).repeat(group, 1)
    v = given.read("values", batch, key_heads, length, size).repeat(group, 1)
    logits = given.scale * np.log2(np.e) * (q @ k.swapaxes(2, 3))[:, :, 0]
    logits[np.arange(length) >= given.key_lengths(batch, length)[:, None, None].repeat(heads, 1)] = -np.inf
    for split in range(splits):
        keys = slice(split * given.keys_per_split, (split + 1) * given.keys_per_split)
        weights, largest = softmax_parts(logits[:, :, keys])
        given.flat("states", batch, heads, splits, size)[:, :, split] = (weights[:, :, None] @ v[:, :, keys])[:, :, 0]
        sums = given.flat("sums", batch, heads, splits, 2)
        sums[:, :, split, 0], sums[:, :, split, 1] = largest[..., 0], weights.sum(-1)


def combine(given: Arguments, grid: tuple[int, int, int]) -> None:
    batch, size = grid[0] // given.heads, given.constants["HEAD_SIZE"]
    states = given.flat("states", batch, given.heads, given.splits, size).astype(np.float64)
    sums = given.flat("sums", batch, given.heads, given.splits, 2).astype(np.float64)
    weights, _ = softmax_parts(sums[..., 0])
    total = (weights * sums[..., 1]).sum(-1)[..., None]
    out = (weights[..., None] * states).sum(2) / np.where(total, total, 1)
    given.strided("out", batch, given.heads, 1, size)[:, :, 0] = out


KERNELS = {
    "forward": forward,
    "mean": mean,
    "quantize": quantize,
    "decode": decode,
    "combine": combine,
}
