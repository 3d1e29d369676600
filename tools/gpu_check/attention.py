"""Checks the attention kernels on a GPU: their error against the reference, and their time beside PyTorch."""

from __future__ import annotations

import importlib.util
import statistics
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np

from edgekit.device.cuda.choose import driver
from edgekit.device.cuda.resources import Context, DeviceMemory, HostMemory, Stream
from edgekit.kernels.sdpa.device import Array, Attention, AttentionShape, workspace_bytes
from edgekit.kernels.sdpa.reference import attention
from edgekit.kernels.sdpa.variants import HEAD_SIZES
from tools.gpu_check.timing import times_of_graph_ms

TOLERANCE, INT8_TOLERANCE = 2e-3, 2e-2
LENGTHS = (128, 256, 512, 1024, 2048, 4096, 8192)
SPEED_HEAD_SIZES = (64, 128)
HEADS, TOKENS = 16, 4096
WARMUP, REPEATS = 10, 50

# Dense FP16 with FP32 accumulation, in TFLOPS, from NVIDIA's data sheets, by a part of the GPU's name.
PEAK_TFLOPS = {
    "H200": 989,
    "H100 80GB HBM3": 989,
    "H100 PCIe": 756,
    "A100": 312,
    "L40S": 362,
    "L4": 121,
    "A10": 125,
    "RTX 4090": 165,
    "RTX 3090": 71,
}

# Shape, then what differs from plain attention.
EXACTNESS: tuple[tuple[str, dict[str, int], dict[str, Any]], ...] = (
    *((f"head size {size}", {"head_size": size}, {}) for size in HEAD_SIZES),
    ("one key", {"key_length": 1}, {}),
    ("shared heads of keys", {"key_heads": 2}, {}),
    ("causal, top left", {}, {"causal_offset": 0}),
    ("causal, bottom right", {}, {"causal_offset": 100}),
    ("key lengths", {}, {"key_lengths": (300, 0)}),
    ("mask", {}, {"mask": (1, 8, 200, 300)}),
    ("mask of keys, causal, key lengths", {}, {"mask": (2, 1, 1, 300), "causal_offset": 90, "key_lengths": (300, 77)}),
    ("single query", {"query_length": 1, "key_length": 3000}, {"key_lengths": (3000, 1234)}),
    ("single query, shared heads of keys", {"query_length": 1, "key_length": 3000, "key_heads": 2}, {}),
)


def check_attention(
    lengths: tuple[int, ...] = LENGTHS,
    *,
    tokens: int = TOKENS,
    exactness: tuple[tuple[str, dict[str, int], dict[str, Any]], ...] = EXACTNESS,
    warmup: int = WARMUP,
    repeats: int = REPEATS,
) -> dict[str, Any]:
    """Returns the error of each kind of attention, the times by length, and the errors that are too large."""
    found: dict[str, Any] = {"errors": [], "speed": [], "problems": []}
    with Context(driver()) as context, Attention(context) as kernels:
        for name, sizes, options in exactness:
            for int8 in (False, True):
                error = _error(context, kernels, sizes, options, int8=int8)
                limit = INT8_TOLERANCE if int8 else TOLERANCE
                found["errors"].append({"case": name, "int8": int8, "relative_error": error})
                if not error <= limit:
                    kind = "INT8" if int8 else "FP16"
                    found["problems"].append(f"{name}, {kind}: expected a relative error of {limit}, got {error:.2e}")
        peak = _peak_tflops(context.driver.properties(0).name)
        for length in lengths:
            for size in SPEED_HEAD_SIZES:
                for causal in (False, True):
                    shape = _shape(
                        batch=max(1, tokens // length),
                        heads=HEADS,
                        key_heads=HEADS,
                        query_length=length,
                        key_length=length,
                        head_size=size,
                    )
                    found["speed"].append(_speed(context, kernels, shape, causal, peak, warmup, repeats))
    return found


def _shape(**sizes: int) -> AttentionShape:
    default = {"batch": 2, "heads": 8, "key_heads": 8, "query_length": 200, "key_length": 300, "head_size": 64}
    return AttentionShape(**(default | sizes))


def _arrays(shape: AttentionShape) -> dict[str, np.ndarray]:
    random = np.random.default_rng((shape.query_length, shape.key_length, shape.head_size))
    sizes = {
        "q": (shape.heads, shape.query_length),
        "k": (shape.key_heads, shape.key_length),
        "v": (shape.key_heads, shape.key_length),
    }
    return {
        name: random.standard_normal((shape.batch, *size, shape.head_size), np.float32).astype(np.float16)
        for name, size in sizes.items()
    }


def _error(
    context: Context, kernels: Attention, sizes: dict[str, int], options: dict[str, Any], *, int8: bool
) -> float:
    """Returns the error of the result, as its norm over the norm of the reference."""
    shape = _shape(**sizes)
    arrays = _arrays(shape)
    if "mask" in options:
        arrays["mask"] = np.random.default_rng(1).standard_normal(options["mask"]).astype(np.float16)
    if "key_lengths" in options:
        arrays["key_lengths"] = np.array(options["key_lengths"], np.int32)
    causal_offset = options.get("causal_offset")
    with _OnDevice(context, kernels, shape, arrays, causal_offset, int8=int8) as frame:
        frame.launch()
        found = frame.result().astype(np.float64)
    right = attention(**arrays, causal_offset=causal_offset)
    return float(np.linalg.norm(found - right) / np.linalg.norm(right))


def _speed(
    context: Context,
    kernels: Attention,
    shape: AttentionShape,
    causal: bool,
    peak: float | None,
    warmup: int,
    repeats: int,
) -> dict[str, Any]:
    """Returns the median time of one launch of a graph, in FP16 and INT8, and those of PyTorch's backends."""
    arrays = _arrays(shape)
    row: dict[str, Any] = {
        "batch": shape.batch,
        "heads": shape.heads,
        "length": shape.query_length,
        "head_size": shape.head_size,
        "causal": causal,
    }
    # Two products, each with a multiplication and an addition; a causal mask leaves about half of them.
    operations = 4 * shape.batch * shape.heads * shape.query_length * shape.key_length * shape.head_size
    operations //= 2 if causal else 1
    for name, int8 in (("fp16", False), ("int8", True)):
        with _OnDevice(context, kernels, shape, arrays, 0 if causal else None, int8=int8) as frame:
            row[f"{name}_median_us"] = frame.median_us(warmup, repeats)
    row["fp16_tflops"] = operations / row["fp16_median_us"] / 1e6
    if peak:
        row["fp16_share_of_peak"] = row["fp16_tflops"] / peak
    if _has_torch():
        row |= _torch_us(arrays, causal, warmup, repeats)
    return row


def _peak_tflops(name: str) -> float | None:
    return next((peak for part, peak in PEAK_TFLOPS.items() if part in name), None)


class _OnDevice:
    """Arrays of one attention in device memory."""

    def __init__(
        self,
        context: Context,
        kernels: Attention,
        shape: AttentionShape,
        arrays: dict[str, np.ndarray],
        causal_offset: int | None,
        *,
        int8: bool,
    ) -> None:
        self._context, self._kernels, self._shape, self._int8 = context, kernels, shape, int8
        self._arrays, self._causal_offset = arrays, causal_offset

    def __enter__(self) -> _OnDevice:
        context, shape = self._context, self._shape
        with ExitStack() as stack:
            stack.enter_context(context.current())
            self._stream = stack.enter_context(Stream(context))
            self._memory = {}
            self._host = {}
            sizes = (shape.batch, shape.heads, shape.query_length, shape.head_size)
            for name, array in (self._arrays | {"out": np.empty(sizes, np.float16)}).items():
                self._host[name] = stack.enter_context(HostMemory(context, array.nbytes))
                self._memory[name] = stack.enter_context(DeviceMemory(context, array.nbytes))
                if name != "out":
                    self._host[name].array[:] = np.frombuffer(array.tobytes(), np.uint8)
                    self._stream.copy_to_device(self._memory[name].address, self._host[name].array)
            size = workspace_bytes(shape, int8=self._int8, masked="mask" in self._arrays)
            self._workspace = stack.enter_context(DeviceMemory(context, size)).address if size else 0
            self._kernels.prepare(dtype="float16", head_size=shape.head_size)
            self._stream.synchronize()
            self._resources = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._resources.close()

    def launch(self) -> None:
        lengths = self._memory.get("key_lengths")
        given = {name: _array(self._memory[name].address, self._arrays[name]) for name in "qkv"}
        mask = self._arrays.get("mask")
        out = Array(self._memory["out"].address, given["q"].strides)
        self._kernels.launch(
            self._stream,
            self._shape,
            **given,
            out=out,
            dtype="float16",
            causal_offset=self._causal_offset,
            key_lengths=lengths.address if lengths else 0,
            mask=None if mask is None else _array(self._memory["mask"].address, mask),
            int8=self._int8,
            workspace=self._workspace,
        )

    def result(self) -> np.ndarray:
        shape = self._shape
        self._stream.copy_to_host(self._host["out"].array, self._memory["out"].address)
        self._stream.synchronize()
        sizes = (shape.batch, shape.heads, shape.query_length, shape.head_size)
        return self._host["out"].array[:].view(np.float16).reshape(sizes).copy()

    def median_us(self, warmup: int, repeats: int) -> float:
        times_ms = times_of_graph_ms(self._context, self._stream, self.launch, warmup=warmup, repeats=repeats)
        return 1000 * statistics.median(times_ms)


def _array(address: int, array: np.ndarray) -> Array:
    """Returns a contiguous array; axes of size 1 are repeated."""
    strides = [
        0 if size == 1 else stride // array.itemsize
        for size, stride in zip(array.shape[:3], array.strides[:3], strict=True)
    ]
    return Array(address, (strides[0], strides[1], strides[2]))


def _has_torch() -> bool:
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()


def _torch_us(arrays: dict[str, np.ndarray], causal: bool, warmup: int, repeats: int) -> dict[str, Any]:
    """Returns the median time of each backend of PyTorch's attention; None: it does not take this GPU or shape."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    q, k, v = (torch.from_numpy(arrays[name]).cuda() for name in "qkv")
    backends = {
        "flash": SDPBackend.FLASH_ATTENTION,
        "cudnn": SDPBackend.CUDNN_ATTENTION,
        "efficient": SDPBackend.EFFICIENT_ATTENTION,
    }
    found: dict[str, Any] = {}
    for name, backend in backends.items():
        try:
            with sdpa_kernel([backend]):
                found[f"torch_{name}_median_us"] = _median_torch_us(
                    lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal), warmup, repeats
                )
        except RuntimeError:  # "No available kernel"
            found[f"torch_{name}_median_us"] = None
    return found


def _median_torch_us(work: Callable[[], Any], warmup: int, repeats: int) -> float:
    """Measures as `_OnDevice.median_us` does: a captured graph, so that the time is that of the GPU."""
    import torch

    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(3):
            work()
    side.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    times_ms = []
    for _ in range(warmup + repeats):
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times_ms.append(start.elapsed_time(end))
    return 1000 * statistics.median(times_ms[warmup:])
