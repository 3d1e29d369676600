"""Attention of arrays in device memory, with the results of `reference.attention`; see ``triton_kernels.py``."""

from __future__ import annotations

import math
from contextlib import ExitStack
from types import TracebackType

import msgspec
import numpy as np

from edgekit.device.cuda.resources import Context, Module, Stream
from edgekit.errors import BackendUnavailable, UsageError
from edgekit.kernels import compiled
from edgekit.kernels.sdpa.variants import (
    HEAD_SIZES,
    KEY_BLOCK,
    MAX_SPLITS,
    ROWS,
    SCALE_BLOCK,
    TURING,
    TYPES,
    Variant,
    columns,
    variants,
    width,
)

__all__ = ["Array", "Attention", "AttentionShape", "workspace_bytes"]

# Vectors of 16 bytes are loaded, of types with 2 bytes.
_ALIGNMENT_BYTES = 16
_ALIGNMENT_ELEMENTS = 8
# Rows of a head have 32-bit offsets in the kernels.
_MAX_OFFSET = 2**31 - 1
# A query with fewer keys than this is not worth a second kernel, which combines the splits.
_KEYS_PER_SPLIT = 256
_WARP = 32


class Array(msgspec.Struct, frozen=True):
    """An array of shape (batch, heads, rows, columns) in device memory.

    Attributes:
        address: of its first element, a multiple of 16 bytes (a mask may have any address).
        strides: of batch, heads and rows in elements, multiples of 8 (a mask may have any); 0 repeats. Columns are
            contiguous.
    """

    address: int
    strides: tuple[int, int, int]


class AttentionShape(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes of attention.

    Attributes:
        batch: number of images or sequences.
        heads: heads of the queries.
        key_heads: heads of keys and values; each is shared by ``heads / key_heads`` consecutive heads of the queries.
        query_length: number of queries of a head.
        key_length: number of keys of a head; the capacity of a cache.
        head_size: one of 32, 64, 80, 96 and 128.
    """

    batch: int
    heads: int
    key_heads: int
    query_length: int
    key_length: int
    head_size: int


def workspace_bytes(shape: AttentionShape, *, int8: bool = False, masked: bool = False) -> int:
    """Returns the device memory that `Attention.launch` needs besides its arrays; 0 in most cases."""
    return sum(_sizes_of_workspace(shape, int8=int8, masked=masked).values())


class Attention:
    """Computes ``softmax(scale * Q K^T + mask) V`` on the GPU, without host synchronization.

    The launches can be captured in a CUDA graph; call `prepare` before. Not yet measured on a GPU.

    Args:
        context: the context of the arrays.
        index: number of the GPU.

    Raises:
        BackendUnavailable: no compiled kernel fits the GPU and its driver.
    """

    def __init__(self, context: Context, *, index: int = 0) -> None:
        self._context = context
        self._binary = compiled.choose("attention", context.driver.properties(index))
        self._modules: dict[str, Module] = {}
        self._resources = ExitStack()

    def close(self) -> None:
        """Unloads the kernels; a second call does nothing."""
        self._modules.clear()
        self._resources.close()

    def __enter__(self) -> Attention:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    @property
    def capability(self) -> int:
        """Compute capability times ten of the GPUs that the kernels were compiled for."""
        return self._binary.architecture

    def prepare(self, *, dtype: str, head_size: int, int8: bool = False) -> None:
        """Loads the kernels of a type and a head size, which the first launch does otherwise.

        Raises:
            BackendUnavailable: they need a GPU of compute capability 8.0 or later.
            UsageError: there are no kernels for them.
        """
        if dtype not in TYPES:
            raise UsageError(f"dtype: expected {' or '.join(TYPES)}, got {dtype}")
        if head_size not in HEAD_SIZES:
            raise UsageError(f"head size: expected one of {', '.join(map(str, HEAD_SIZES))}, got {head_size}")
        if int8 and dtype != "float16":
            raise UsageError(f"dtype: expected float16 with INT8, got {dtype}")
        if self.capability == TURING and (int8 or dtype != "float16"):
            raise BackendUnavailable(
                f"attention in {'INT8' if int8 else dtype} needs a GPU of compute capability 8.0 or later, got 7.5",
                hint="compute it in float16",
            )
        self._module(f"{dtype}_{head_size}")

    def launch(
        self,
        stream: Stream,
        shape: AttentionShape,
        *,
        q: Array,
        k: Array,
        v: Array,
        out: Array,
        dtype: str,
        scale: float | None = None,
        causal_offset: int | None = None,
        key_lengths: int = 0,
        mask: Array | None = None,
        int8: bool = False,
        workspace: int = 0,
    ) -> None:
        """Submits attention to a stream of the current context.

        Args:
            stream: the stream.
            shape: sizes of the arrays.
            q: queries.
            k: keys.
            v: values.
            out: output, of the shape of ``q``. A row that sees no key is zeros.
            dtype: type of ``q``, ``k``, ``v``, ``mask`` and ``out``, ``float16`` or ``bfloat16``.
            scale: factor of the logits, positive; None is ``1 / sqrt(head size)``.
            causal_offset: row ``i`` sees the keys 0 to ``i + causal_offset`` only; None: it sees all. With 0, the mask
                is aligned at the top left, as in ONNX's ``Attention`` and PyTorch; with ``key_length - query_length``,
                at the bottom right.
            key_lengths: address of the number of keys of each image or sequence, the first ones of its row; int32,
                shape ``(batch,)``; 0: all keys count.
            mask: added to the logits; shape ``(batch, heads, query_length, key_length)``, with a stride of 0 where it
                is repeated.
            int8: compute ``Q K^T`` in INT8, with a scale for each 64 rows and the mean of the keys subtracted, which
                changes no weight (SageAttention, arXiv 2410.02367); ``float16`` only.
            workspace: address of `workspace_bytes` bytes, a multiple of 256; other launches in other streams must not
                use it at the same time.

        Raises:
            BackendUnavailable: the type needs a GPU of compute capability 8.0 or later; see `prepare`.
            UsageError: a size, a stride or an address is not supported.
        """
        self.prepare(dtype=dtype, head_size=shape.head_size, int8=int8)
        _check(shape, {"q": q, "k": k, "v": v, "out": out}, mask)
        factor = 1 / math.sqrt(shape.head_size) if scale is None else scale
        if not (factor > 0 and math.isfinite(factor)):
            raise UsageError(f"scale: expected a positive number, got {factor}")
        sizes = _sizes_of_workspace(shape, int8=int8, masked=mask is not None)
        if sizes and (not workspace or workspace % 256):
            raise UsageError(f"workspace: expected an address that is a multiple of 256, got {workspace:#x}")
        if int8 and max(sizes["q"], sizes["k"]) > _MAX_OFFSET:
            raise UsageError(
                f"int8: expected less than 2 GiB of queries and of keys, got {sizes['q']} and {sizes['k']}"
            )
        areas, end = {}, workspace
        for name, size in sizes.items():
            areas[name] = np.uint64(end)
            end += size
        launch = _Launch(self, stream, shape, f"{dtype}_{shape.head_size}", np.uint64(key_lengths), areas)
        if "states" in areas:
            launch.decode(q, k, v, out, factor, causal_offset)
            return
        if int8:
            launch.quantize(q, k, factor)
        launch.forward(q, k, v, out, factor, causal_offset, mask)

    def _module(self, part: str) -> Module:
        if part not in self._modules:
            image = compiled.image("attention", self._binary, part)
            self._modules[part] = self._resources.enter_context(Module(self._context, image))
        return self._modules[part]

    def _launch(
        self,
        stream: Stream,
        part: str,
        name: str,
        variant: Variant,
        grid: tuple[int, int, int],
        arguments: list[np.generic],
    ) -> None:
        kernel = f"attention_{name}_{part}"
        # Triton's kernels have two more parameters, for scratch memory that these do not use.
        self._module(part).launch(
            kernel,
            grid,
            (variant.warps * _WARP, 1, 1),
            [*arguments, np.uint64(0), np.uint64(0)],
            stream,
            shared_bytes=self._binary.shared_bytes.get(kernel, 0),
        )


class _Launch:
    """The kernels of one call of `Attention.launch`, with their arguments."""

    def __init__(
        self,
        attention: Attention,
        stream: Stream,
        shape: AttentionShape,
        part: str,
        key_lengths: np.uint64,
        areas: dict[str, np.uint64],
    ) -> None:
        self._attention = attention
        self._stream = stream
        self._shape = shape
        self._part = part
        self._variants = variants(part.rpartition("_")[0], shape.head_size, capability=attention.capability)
        self._key_lengths = key_lengths
        self._has_lengths = np.int32(key_lengths != 0)
        self._areas = areas

    def forward(
        self, q: Array, k: Array, v: Array, out: Array, scale: float, causal_offset: int | None, mask: Array | None
    ) -> None:
        shape, areas, null = self._shape, self._areas, np.uint64(0)
        name = f"forward{'_int8' if areas else ''}{'_mask' if mask else ''}"
        if areas:
            row = width(shape.head_size)
            lengths = {"q": shape.heads * shape.query_length, "k": shape.key_heads * shape.key_length}
            q = Array(int(areas["q"]), (lengths["q"] * row, shape.query_length * row, row))
            k = Array(int(areas["k"]), (lengths["k"] * row, shape.key_length * row, row))
        blocks = _blocks(shape.query_length, int(self._variants[name].constants["QUERY_BLOCK"]))
        self._run(
            name,
            (blocks * shape.batch * shape.heads, 1, 1),
            [
                *(np.uint64(array.address) for array in (q, k, v, out)),
                areas.get("q_scales", null),
                areas.get("k_scales", null),
                self._key_lengths,
                np.uint64(mask.address if mask else 0),
                np.float32(scale),
                np.int32(shape.heads),
                np.int32(shape.heads // shape.key_heads),
                np.int32(shape.query_length),
                np.int32(shape.key_length),
                self._has_lengths,
                np.int32(causal_offset is not None),
                # Beyond these limits, a greater offset changes nothing, but would overflow.
                np.int32(max(-shape.query_length, min(causal_offset or 0, shape.key_length))),
                *_strides(q, k, v, out),
                *_strides(mask or Array(0, (0, 0, 0))),
            ],
        )

    def quantize(self, q: Array, k: Array, scale: float) -> None:
        shape, areas, null = self._shape, self._areas, np.uint64(0)
        self._run(
            "mean",
            (shape.batch * shape.key_heads, 1, 1),
            [
                np.uint64(k.address),
                areas["k_means"],
                self._key_lengths,
                np.int32(shape.key_heads),
                np.int32(shape.key_length),
                self._has_lengths,
                *_strides(k),
            ],
        )
        # The softmax is computed with powers of two.
        for name, array, means, factor, heads, length in (
            ("k", k, areas["k_means"], 1.0, shape.key_heads, shape.key_length),
            ("q", q, null, scale * math.log2(math.e), shape.heads, shape.query_length),
        ):
            self._run(
                "quantize",
                (_blocks(length, SCALE_BLOCK) * shape.batch * heads, 1, 1),
                [
                    np.uint64(array.address),
                    areas[name],
                    areas[f"{name}_scales"],
                    means,
                    self._key_lengths if name == "k" else null,
                    np.float32(factor),
                    np.int32(heads),
                    np.int32(length),
                    np.int32(means != 0),
                    self._has_lengths if name == "k" else np.int32(0),
                    *_strides(array),
                ],
            )

    def decode(self, q: Array, k: Array, v: Array, out: Array, scale: float, causal_offset: int | None) -> None:
        shape, areas = self._shape, self._areas
        splits = _splits(shape)
        group = shape.heads // shape.key_heads
        last = shape.key_length - 1 if causal_offset is None else causal_offset
        self._run(
            "decode",
            (splits * shape.batch * shape.key_heads, _blocks(group, ROWS), 1),
            [
                *(np.uint64(array.address) for array in (q, k, v)),
                areas["states"],
                areas["sums"],
                self._key_lengths,
                np.float32(scale),
                np.int32(shape.key_heads),
                np.int32(group),
                np.int32(splits),
                np.int32(max(0, min(last + 1, shape.key_length))),
                self._has_lengths,
                np.int32(_blocks(_blocks(shape.key_length, splits), KEY_BLOCK) * KEY_BLOCK),
                *_strides(q)[:2],
                *_strides(k, v),
            ],
        )
        self._run(
            "combine",
            (shape.batch * shape.heads, 1, 1),
            [
                areas["states"],
                areas["sums"],
                np.uint64(out.address),
                np.int32(shape.heads),
                np.int32(splits),
                *_strides(out)[:2],
            ],
        )

    def _run(self, name: str, grid: tuple[int, int, int], arguments: list[np.generic]) -> None:
        self._attention._launch(self._stream, self._part, name, self._variants[name], grid, arguments)


def _sizes_of_workspace(shape: AttentionShape, *, int8: bool, masked: bool) -> dict[str, int]:
    """Sizes of the parts of the workspace in bytes, multiples of 256, by name."""
    heads, key_heads = shape.batch * shape.heads, shape.batch * shape.key_heads
    sizes = {}
    if int8:
        row = width(shape.head_size)
        sizes = {
            "q": heads * shape.query_length * row,
            "k": key_heads * shape.key_length * row,
            "q_scales": heads * _blocks(shape.query_length, SCALE_BLOCK) * 4,
            "k_scales": key_heads * _blocks(shape.key_length, SCALE_BLOCK) * 4,
            "k_means": key_heads * columns(shape.head_size) * 4,
        }
    elif shape.query_length == 1 and not masked and shape.key_length > _KEYS_PER_SPLIT:
        cells = heads * _splits(shape)
        sizes = {"states": cells * shape.head_size * 4, "sums": cells * 2 * 4}
    return {name: _blocks(size, 256) * 256 for name, size in sizes.items()}


def _splits(shape: AttentionShape) -> int:
    """Number of parts of the keys, of the same length, a multiple of KEY_BLOCK; the last parts may be empty."""
    return min(_blocks(shape.key_length, _KEYS_PER_SPLIT), MAX_SPLITS)


def _strides(*arrays: Array) -> list[np.generic]:
    return [np.int32(stride) for array in arrays for stride in array.strides]


def _blocks(size: int, block: int) -> int:
    return -(-size // block)


def _check(shape: AttentionShape, arrays: dict[str, Array], mask: Array | None) -> None:
    for name, size in msgspec.structs.asdict(shape).items():
        if size < 1:
            raise UsageError(f"{name}: expected 1 or more, got {size}")
    if shape.heads % shape.key_heads:
        raise UsageError(f"heads: expected a multiple of the {shape.key_heads} heads of the keys, got {shape.heads}")
    for name, array in arrays.items():
        if not array.address or array.address % _ALIGNMENT_BYTES:
            raise UsageError(f"{name}: expected an address that is a multiple of 16, got {array.address:#x}")
        if any(stride % _ALIGNMENT_ELEMENTS for stride in array.strides):
            raise UsageError(f"{name}: expected strides that are multiples of 8 elements, got {array.strides}")
    for name, array in (arrays | ({"mask": mask} if mask else {})).items():
        rows = shape.key_length if name in ("k", "v") else shape.query_length
        length = shape.key_length if name == "mask" else shape.head_size
        batch, head, row = array.strides
        if not all(0 <= offset <= _MAX_OFFSET for offset in (batch, head, row, (rows - 1) * row + length)):
            raise UsageError(
                f"{name}: expected strides, and elements of a head, from 0 to {_MAX_OFFSET}, "
                f"got strides {array.strides} and {rows} rows"
            )
