"""Attention as TensorRT plugins, from EdgeKit's own kernels, whose PTX becomes a part of the plan.

They are quick deployable plugins with an ahead-of-time implementation (TensorRT 10.10 and later; ``tensorrt.plugin``):
a plan with them needs neither Python nor EdgeKit when it runs. One launch of one kernel is a plugin, so INT8 attention,
which is four kernels, is none: `attention_runtime.py` has it, and attention on GPUs that do not run the PTX.
`edgekit.kernels.sdpa.node` describes the nodes.

Not yet run by TensorRT on a GPU.
"""

from __future__ import annotations

import functools
import importlib
import struct
from collections.abc import Callable, Sequence
from inspect import Parameter, Signature
from pathlib import Path
from typing import Any, Literal

from edgekit.arguments import argument
from edgekit.device.cuda.choose import driver
from edgekit.engine.tensorrt.attention_runtime import mask_strides, register_runtime_attention
from edgekit.engine.tensorrt.graph_file import has_bytes, has_operator
from edgekit.errors import UsageError
from edgekit.kernels import compiled
from edgekit.kernels.sdpa.entry import ptx_with_parameters
from edgekit.kernels.sdpa.node import NAMESPACE, PLUGINS
from edgekit.kernels.sdpa.variants import HEAD_SIZES, variants

__all__ = ["attention_plugins", "register_attention"]

WARP = 32

# Parameters of ``forward`` in triton_kernels.py, by number.
QUERIES, KEYS, VALUES, OUT, LENGTHS, MASK, SCALE = 0, 1, 2, 3, 6, 7, 8
HEADS, GROUP, QUERY_LENGTH, KEY_LENGTH, HAS_LENGTHS, CAUSAL, CAUSAL_OFFSET = range(9, 16)
STRIDES = {"queries": 16, "keys": 19, "values": 22, "out": 25, "mask": 28}
NULL = (4, 5, 6, 7, 31, 32)


def attention_plugins(graph: Path) -> Literal["", "half", "int8"]:
    """Returns the type of the plugins' nodes in an ONNX file; empty if it has none."""
    if not has_operator(graph, PLUGINS):
        return ""
    # Fields 1 and 3 of AttributeProto, name and i.
    return "int8" if has_bytes(graph, rb"\x0a\x04int8\x18\x01") else "half"


def register_attention(library: Any, graph: Path) -> bool:
    """Registers the plugins of a graph, so that the library's parser finds them; a second call does nothing.

    Args:
        library: ``tensorrt``.
        graph: the ONNX file.

    Returns:
        Whether the engine needs EdgeKit when it runs.

    Raises:
        UsageError: the graph has plugins in it, and the library is TensorRT-RTX, which takes none.
    """
    kind = attention_plugins(graph)
    if kind and library.__name__ == "tensorrt_rtx":
        raise UsageError(
            "EdgeKit's attention in an engine goes with tensorrt: TensorRT-RTX takes no plugins",
            hint=f"rebuild the graph without {argument('attention', 'edgekit')}",
        )
    plugin = _ahead_of_time(library) if kind == "half" and _runs_ptx() else None
    if plugin is not None:
        _registered(plugin)
    elif kind:
        register_runtime_attention(library, driver())
    return bool(kind) and plugin is None


def _ptx() -> compiled.Binary:
    return next(binary for binary in compiled.read_index("attention").binaries if binary.is_ptx)


def _runs_ptx() -> bool:
    """Whether the GPU here runs the PTX of the package: Turing does not, and has a cubin that EdgeKit loads."""
    major, minor = driver().properties(0).compute_capability
    return 10 * major + minor >= _ptx().architecture


def _ahead_of_time(library: Any) -> Any:
    """Returns the library's module for ahead-of-time plugins; None if it is older than 10.10 and has none."""
    try:
        plugin = importlib.import_module(f"{library.__name__}.plugin")
    except ImportError:
        return None
    return plugin if hasattr(plugin, "aot_impl") else None


@functools.cache
def _registered(plugin: Any) -> None:
    for name, more in PLUGINS.items():
        describe, implement = _functions(plugin, more)
        plugin.register(f"{NAMESPACE}::{name}")(describe)
        plugin.aot_impl(f"{NAMESPACE}::{name}")(implement)


def _functions(plugin: Any, more: tuple[str, ...]) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Returns the two functions of a plugin: the output's description, and the kernel for given shapes."""
    tensors = ("q", "k", "v", *more)
    types = {
        **dict.fromkeys(tensors, plugin.TensorDesc),
        "scale": float,
        **dict.fromkeys(("head_size", "causal", "bottom_right"), int),
        **({"repeated": int} if "mask" in more else {}),
    }
    kinds = tuple[str | bytes, str | bytes, plugin.KernelLaunchParams, plugin.SymIntExprs]

    def describe(*given: Any, **attributes: Any) -> Any:
        return given[0].like()

    def implement(*given: Any) -> Any:
        named = dict(zip(types, given, strict=False))  # the outputs and the tactic follow
        attributes = {name: value for name, value in named.items() if name not in tensors}
        return _kernel(plugin, given[:3], has_lengths="key_lengths" in more, **attributes)

    # TensorRT reads the names and types of parameters from the signatures.
    parameters = [Parameter(name, Parameter.POSITIONAL_OR_KEYWORD, annotation=kind) for name, kind in types.items()]
    rest = [Parameter(name, Parameter.POSITIONAL_OR_KEYWORD) for name in ("outputs", "tactic")]
    describe.__signature__ = Signature(parameters, return_annotation=plugin.TensorDesc)  # type: ignore[attr-defined]
    implement.__signature__ = Signature([*parameters, *rest], return_annotation=kinds)  # type: ignore[attr-defined]
    return describe, implement


def _kernel(
    plugin: Any,
    inputs: Sequence[Any],
    scale: float,
    head_size: int,
    causal: int,
    bottom_right: int,
    *,
    has_lengths: bool = False,
    repeated: int | None = None,
) -> tuple[str, bytes, Any, Any]:
    """Returns the name of the kernel, its PTX, its grid, and its integers, for the shapes of the inputs."""
    if head_size not in HEAD_SIZES:
        raise UsageError(f"head size: expected one of {', '.join(map(str, HEAD_SIZES))}, got {head_size}")
    queries, keys, _ = (tensor.shape_expr for tensor in inputs)
    batch, heads, query_length = queries[0], queries[1], queries[2]
    key_heads, key_length = keys[1], keys[2]

    def strides(rows: Any, count: Any) -> list[Any]:
        return [count * rows * head_size, rows * head_size, head_size]

    integers: dict[int, Any] = {
        HEADS: heads,
        GROUP: heads // key_heads,
        QUERY_LENGTH: query_length,
        KEY_LENGTH: key_length,
    }
    for name, rows, count in (
        ("queries", query_length, heads),
        ("keys", key_length, key_heads),
        ("values", key_length, key_heads),
        ("out", query_length, heads),
    ):
        integers |= dict(enumerate(strides(rows, count), STRIDES[name]))
    constants = dict.fromkeys(NULL, 0) | {
        SCALE: struct.unpack("<I", struct.pack("<f", scale))[0],
        HAS_LENGTHS: int(has_lengths),
        CAUSAL: causal,
        CAUSAL_OFFSET: 0,
    }
    if bottom_right:
        integers[CAUSAL_OFFSET] = key_length - query_length
    pointers = [QUERIES, KEYS, VALUES]
    if has_lengths:
        pointers.append(LENGTHS)
    if repeated is None:
        constants |= dict.fromkeys(range(STRIDES["mask"], STRIDES["mask"] + 3), 0)
    else:
        pointers.append(MASK)
        integers |= dict(enumerate(mask_strides(repeated, heads, query_length, key_length), STRIDES["mask"]))

    type_name = {"HALF": "float16", "BF16": "bfloat16"}[inputs[0].dtype.name]
    name = "forward" if repeated is None else "forward_mask"
    kernel = f"attention_{name}_{type_name}_{head_size}"
    binary = _ptx()
    variant = variants(type_name, head_size)[name]
    ptx = compiled.image("attention", binary, f"{type_name}_{head_size}").decode()
    numbers = sorted(integers)
    launch = plugin.KernelLaunchParams()
    launch.grid_x = plugin.cdiv(query_length, variant.constants["QUERY_BLOCK"]) * batch * heads
    launch.block_x = variant.warps * WARP
    launch.shared_mem = binary.shared_bytes[kernel]
    expressions = plugin.SymIntExprs(len(numbers))
    for place, number in enumerate(numbers):
        expressions[place] = plugin.SymInt32(integers[number])
    text = ptx_with_parameters(ptx, kernel, [*pointers, *numbers, OUT], constants)
    return kernel, text.encode(), launch, expressions
