"""Kernels as functions of arrays on the GPU, of any library: PyTorch, CuPy, or another with DLPack.

Arrays go in without a copy, by DLPack or ``__cuda_array_interface__``; results are `DeviceArray`, which PyTorch takes
with ``torch.from_dlpack`` and CuPy with ``cupy.asarray``. A function returns when its result is complete. To enqueue
kernels without waiting, or to capture them in a CUDA graph, use the classes that the functions use: `BatchedNms`,
`Attention`. Not yet measured on a GPU.
"""

from __future__ import annotations

import functools
import math
import threading
from contextlib import ExitStack
from typing import Any, Literal

import numpy as np

from edgekit.device.cuda.arrays import DeviceArray, ForeignArray, foreign_array, is_on_device
from edgekit.device.cuda.choose import driver
from edgekit.device.cuda.resources import Context, DeviceMemory, HostMemory, Stream
from edgekit.errors import UsageError
from edgekit.kernels.sdpa.device import Array, Attention, AttentionShape, workspace_bytes
from edgekit.kernels.suppression.device import CAPACITY, BatchedNms
from edgekit.limits import MAX_COUNT
from edgekit.option import given_number

__all__ = ["attention", "batched_nms", "nms"]


def nms(
    boxes: Any,
    scores: Any,
    *,
    iou_threshold: float,
    score_threshold: float = 0.0,
    max_detections: int = CAPACITY,
    index: int = 0,
) -> DeviceArray:
    """Selects boxes of one image and one class by greedy suppression; see `batched_nms`."""
    return batched_nms(
        boxes,
        scores,
        None,
        iou_threshold=iou_threshold,
        score_threshold=score_threshold,
        max_detections=max_detections,
        index=index,
    )


def batched_nms(
    boxes: Any,
    scores: Any,
    classes: Any,
    *,
    iou_threshold: float,
    score_threshold: float = 0.0,
    max_detections: int = CAPACITY,
    index: int = 0,
) -> DeviceArray:
    """Selects boxes of one image by class-aware greedy suppression; see `edgekit.kernels.suppression.reference.nms`.

    Args:
        boxes: corners ``(x1, y1, x2, y2)``; float32, shape ``(M, 4)``. Arrays may also be in host memory.
        scores: float32, shape ``(M,)``. The best 2,048 are compared.
        classes: int32, shape ``(M,)``; None: all boxes are of one class.
        iou_threshold: maximum overlap of a kept box with a better box of its class; 0 to 1.
        score_threshold: only boxes with a greater score are kept; 0 to 1.
        max_detections: maximum number of kept boxes.
        index: number of the GPU.

    Returns:
        Indices of the kept boxes, best first; int32, shape ``(K,)``.

    Raises:
        BackendUnavailable: there is no GPU, or no compiled kernel for it.
        RunError: CUDA failed.
        UsageError: an array is of another type or shape, or a threshold is out of range.
    """
    limit = min(given_number("max_detections", max_detections, 0, MAX_COUNT), CAPACITY)
    with _Call(index) as call:
        count = _dimensions(boxes, "boxes", 2)[0]
        kinds = np.zeros(count, np.int32) if classes is None else classes
        addresses = {
            "boxes": call.taken("boxes", boxes, "float32", (count, 4)).address,
            "scores": call.taken("scores", scores, "float32", (count,)).address,
            "classes": call.taken("classes", kinds, "int32", (count,)).address,
            "counts": call.sent(np.array([count], np.int32)),
            "kept": call.memory(4 * limit).address,
            "number": call.sent(np.array([0], np.int32)),
        }
        if count and limit:
            call.nms.launch(
                call.stream,
                **addresses,
                images=1,
                candidates=count,
                score_threshold=score_threshold,
                iou_threshold=iou_threshold,
                max_detections=limit,
            )
        found = int(call.fetched(addresses["number"], np.int32)[0])
        result = call.result((found,), np.dtype(np.int32))
        if found:
            call.stream.copy_on_device(result.address, addresses["kept"], result.size_bytes)
        return result


def attention(
    q: Any,
    k: Any,
    v: Any,
    *,
    scale: float | None = None,
    causal: bool = False,
    key_lengths: Any = None,
    mask: Any = None,
    precision: Literal["fp16", "int8"] = "fp16",
    index: int = 0,
) -> DeviceArray:
    """Computes scaled dot-product attention, ``softmax(scale * Q K^T + mask) V``.

    Args:
        q: queries; float16, shape ``(batch, heads, queries, head size)``. The last axis is contiguous; other strides
            are multiples of 8 elements. Head sizes are 32, 64, 80, 96 and 128.
        k: keys, shape ``(batch, key heads, keys, head size)``; each key head serves ``heads / key heads`` heads.
        v: values, of the shape of ``k``.
        scale: factor of the logits; None is ``1 / sqrt(head size)``.
        causal: query ``i`` sees the keys 0 to ``i`` only, as in PyTorch's ``is_causal`` and ONNX's ``Attention``.
        key_lengths: number of keys of each image or sequence, the first ones of its row; int32, shape ``(batch,)``.
        mask: added to the logits; float16, shape ``(batch, heads, queries, keys)``, or 1 for an axis that is repeated.
        precision: ``int8`` computes ``Q K^T`` in INT8 (SageAttention, arXiv 2410.02367).
        index: number of the GPU.

    Returns:
        Of the type and the shape of ``q``; a query that sees no key gets zeros.

    Raises:
        BackendUnavailable: there is no GPU, or no compiled kernel for it.
        RunError: CUDA failed.
        UsageError: an array is of another type or shape, or has unsupported strides.
    """
    if precision not in ("fp16", "int8"):
        raise UsageError(f"precision: expected fp16 or int8, got {precision}")
    with _Call(index) as call:
        batch, heads, queries, size = _dimensions(q, "q", 4)
        _, key_heads, keys, _ = _dimensions(k, "k", 4)
        shape = AttentionShape(
            batch=batch, heads=heads, key_heads=key_heads, query_length=queries, key_length=keys, head_size=size
        )
        whole = (batch, key_heads, keys, size)
        arrays = {
            "q": _array(call.taken("q", q, "float16", (batch, heads, queries, size), dense=False)),
            "k": _array(call.taken("k", k, "float16", whole, dense=False)),
            "v": _array(call.taken("v", v, "float16", whole, dense=False)),
        }
        if mask is not None:
            sizes = _dimensions(mask, "mask", 4)
            full = (batch, heads, queries, keys)
            expected = tuple(own if own == 1 else wanted for own, wanted in zip(sizes, full, strict=True))
            arrays["mask"] = _array(call.taken("mask", mask, "float16", expected, dense=False))
        lengths = 0 if key_lengths is None else call.taken("key_lengths", key_lengths, "int32", (batch,)).address
        space = workspace_bytes(shape, int8=precision == "int8", masked=mask is not None)
        result = call.result((batch, heads, queries, size), np.dtype(np.float16))
        steps = (heads * queries * size, queries * size, size)
        call.attention.launch(
            call.stream,
            shape,
            **arrays,
            out=Array(result.address, steps),
            dtype="float16",
            scale=scale,
            causal_offset=0 if causal else None,
            key_lengths=lengths,
            int8=precision == "int8",
            workspace=call.memory(space).address if space else 0,
        )
        return result


class _Tools:
    """What the functions keep from call to call for a GPU: context, stream, and loaded kernels."""

    def __init__(self, index: int) -> None:
        self.lock = threading.Lock()
        self.context = Context(driver(), index)
        self.stream = Stream(self.context)

    @functools.cached_property
    def nms(self) -> BatchedNms:
        return BatchedNms(self.context, images=1, index=self.context.index)

    @functools.cached_property
    def attention(self) -> Attention:
        return Attention(self.context, index=self.context.index)


@functools.cache
def _tools(index: int) -> _Tools:
    return _Tools(index)


class _Call(ExitStack):
    """One call of a function: its temporary memory, which is freed when the stream is done."""

    def __init__(self, index: int) -> None:
        super().__init__()
        self._tools = _tools(index)
        self.context, self.stream = self._tools.context, self._tools.stream

    def __enter__(self) -> _Call:
        super().__enter__()
        self.enter_context(self._tools.lock)
        self.enter_context(self.context.current())
        self._temporary = self.enter_context(ExitStack())
        self.enter_context(self.stream.until_done())
        return self

    @property
    def nms(self) -> BatchedNms:
        return self._tools.nms

    @property
    def attention(self) -> Attention:
        return self._tools.attention

    def memory(self, size_bytes: int) -> DeviceMemory:
        """Allocates memory until the end of the call."""
        return self._temporary.enter_context(DeviceMemory(self.context, max(1, size_bytes)))

    def sent(self, array: np.ndarray) -> int:
        """Enqueues the copy of an array to the device; returns its address there."""
        memory = self.memory(array.nbytes)
        if array.nbytes:
            host = self._temporary.enter_context(HostMemory(self.context, array.nbytes))
            host.array[:] = np.frombuffer(array.tobytes(), np.uint8)
            self.stream.copy_to_device(memory.address, host.array)
        return memory.address

    def fetched(self, address: int, dtype: type) -> np.ndarray:
        """Waits for the stream and copies one element to the host."""
        host = self._temporary.enter_context(HostMemory(self.context, np.dtype(dtype).itemsize))
        self.stream.copy_to_host(host.array, address)
        self.stream.synchronize()
        return np.array(host.array[:].view(np.ndarray)).view(dtype)

    def result(self, shape: tuple[int, ...], dtype: np.dtype) -> DeviceArray:
        """Allocates memory for a result, which the caller owns."""
        memory = DeviceMemory(self.context, max(1, math.prod(shape) * dtype.itemsize))
        return DeviceArray(self.context, memory.address, shape, dtype, owner=memory, index=self.context.index)

    def taken(self, name: str, array: Any, dtype: str, shape: tuple[int, ...], *, dense: bool = True) -> ForeignArray:
        """Takes an argument, which lives until the end of the call; a small one may be in host memory.

        Raises:
            UsageError: it is of another type or shape, or, if it must be ``dense``, has gaps.
        """
        if is_on_device(array):
            found = foreign_array(array, self.stream)
            self._temporary.callback(lambda: found)  # its owner is needed until the stream is done
        else:
            host = np.asarray(array)
            found = ForeignArray(
                self.sent(host), host.shape, None, host.dtype.name, host.itemsize, index=-1, owner=None
            )
        if (found.dtype, found.shape) != (dtype, shape):
            raise UsageError(f"{name}: expected {dtype} {shape}, got {found.dtype} {found.shape}")
        if dense and not found.is_contiguous:
            raise UsageError(f"{name}: expected a contiguous array, got strides of {found.strides} bytes")
        return found


def _dimensions(array: Any, name: str, count: int) -> tuple[int, ...]:
    if is_on_device(array) and not hasattr(array, "shape"):
        shape = tuple(array.__cuda_array_interface__["shape"])
    else:
        shape = tuple(np.shape(array) if not hasattr(array, "shape") else array.shape)
    if len(shape) != count:
        raise UsageError(f"{name}: expected an array with {count} axes, got shape {shape}")
    return shape


def _array(found: ForeignArray) -> Array:
    """Converts strides to elements; an axis of size 1 is repeated.

    Raises:
        UsageError: the last axis has gaps.
    """
    steps = tuple(
        0 if size == 1 else stride // found.itemsize for size, stride in zip(found.shape, found.strides, strict=True)
    )
    if found.shape[3] != 1 and steps[3] != 1:
        raise UsageError(f"expected arrays whose last axis is contiguous, got strides of {found.strides} bytes")
    return Array(found.address, (steps[0], steps[1], steps[2]))
