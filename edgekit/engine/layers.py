"""Which layers a graph wants in integers, and whether an engine runs them so."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edgekit.errors import BackendUnavailable, BuildError, GraphError
from edgekit.extras import install_command
from edgekit.specs import Precision

if TYPE_CHECKING:
    import onnx

__all__ = [
    "INTEGER_PRODUCTS",
    "PRODUCTS",
    "Layer",
    "assert_precision",
    "layer_counts",
    "quantized_layers",
    "read_graph",
]

PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})

# What somebody else's quantizer writes instead of Q/DQ pairs; these multiply integers and nothing else.
INTEGER_PRODUCTS = frozenset("QLinearConv QLinearMatMul QGemm ConvInteger MatMulInteger MatMulIntegerToFloat".split())

DTYPES = {Precision.FP32: "float32", Precision.FP16: "float16", Precision.BF16: "bfloat16", Precision.INT8: "int8"}


class Layer(msgspec.Struct, frozen=True):
    """A convolution or matrix product of an engine.

    Attributes:
        names: the graph's nodes that it was made of.
        dtype: element type that it multiplies in: ``int8`` (signed or not), ``float32``, ``float16``, ``bfloat16``, or
            ``int16``, for a float layer whose weights are multiplied as integers of 16 bits (`split_float_weights`).
    """

    names: tuple[str, ...]
    dtype: str


def read_graph(path: Path) -> onnx.ModelProto:
    """The ONNX file, without the weights that it keeps in files beside it.

    Raises:
        GraphError: not an ONNX file.
        BackendUnavailable: the package ``onnx`` is not installed.
    """
    try:
        import google.protobuf.message
        import onnx
    except ImportError as e:
        raise BackendUnavailable(
            "building an engine needs the package 'onnx', which is not installed",
            hint=install_command("build", "onnx"),
        ) from e
    try:
        return onnx.load(path, load_external_data=False)
    except (google.protobuf.message.DecodeError, OSError) as e:
        raise GraphError(f"cannot read {path}: expected an ONNX file: {e}") from e


def quantized_layers(graph: onnx.ModelProto, *, joining: bool = False) -> tuple[str, ...]:
    """Names of the convolutions and matrix products of integers, or of two factors from DequantizeLinear, in order.

    Args:
        graph: of any operators.
        joining: the target joins integers without a Q behind: factors come through a Concat too.
    """
    dequantized: set[str] = set()
    for node in graph.graph.node:
        joins = joining and node.op_type == "Concat" and dequantized.issuperset(node.input)
        if node.op_type == "DequantizeLinear" or joins:
            dequantized.update(node.output)
    return tuple(
        node.name
        for node in graph.graph.node
        if node.op_type in INTEGER_PRODUCTS
        or (node.op_type in PRODUCTS and all(factor in dequantized for factor in node.input[:2]))
    )


def layer_counts(layers: Iterable[Layer]) -> dict[str, int]:
    """How many layers run in which element type, most first."""
    return dict(collections.Counter(layer.dtype for layer in layers).most_common())


def assert_precision(target: str, precision: Precision, quantized: Sequence[str], built: Sequence[Layer]) -> None:
    """Checks that an engine multiplies in the element type that was asked for.

    Args:
        target: the backend's name.
        precision: what was asked for.
        quantized: the layers that the graph wants in integers, as `quantized_layers` lists them.
        built: the layers of the engine.

    Raises:
        BuildError: a layer runs in another type, which is named.
    """
    if precision is Precision.INT8:
        _assert_int8(target, quantized, built)
        return
    wanted = DTYPES[precision]
    others = [layer for layer in built if layer.dtype != wanted]
    # A graph in half precision may keep some layers in float32 on purpose; one in float32 keeps none elsewhere.
    if others and (precision is Precision.FP32 or len(others) == len(built)):
        raise BuildError(
            f"{target} runs {len(others)} of {len(built)} layers in {_dtypes(others)}, expected {wanted}: "
            f"{_some(n for layer in others for n in layer.names[:1])}",
            hint="the model is quantized: build it with --int8" if DTYPES[Precision.INT8] in _dtypes(others) else "",
        )


def _assert_int8(target: str, quantized: Sequence[str], built: Sequence[Layer]) -> None:
    if not quantized:
        raise BuildError(
            f"an INT8 engine for {target} needs Q/DQ pairs at its convolutions and matrix products; the graph has none",
            hint="quantize the graph first, or build with --fp32",
        )
    others = [layer for layer in built if layer.dtype != "int8"]
    elsewhere = {name for layer in others for name in layer.names}
    fallen = [name for name in quantized if name in elsewhere]
    # A node without a name can only be counted.
    unnamed = "" in quantized and len(built) - len(others) < len(quantized)
    if fallen or unnamed:
        count = len(fallen) or len(quantized) - (len(built) - len(others))
        which = f": {_some(fallen)}" if any(fallen) else ""
        raise BuildError(
            f"{target} runs {count} of {len(quantized)} quantized layers in {_dtypes(others)}, expected int8{which}",
            hint=f"the Q/DQ pairs are not where {target} fuses them: keep these layers in float with --keep-float, or, "
            "if the model came quantized, build it from its float original",
        )


def _dtypes(layers: Iterable[Layer]) -> str:
    return " and ".join(layer_counts(layers))


def _some(names: Iterable[str], limit: int = 8) -> str:
    names = [name or "(no name)" for name in names]
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
