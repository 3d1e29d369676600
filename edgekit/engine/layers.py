"""Checks the element types of an engine's convolutions and matrix products against the requested precision."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Sequence

import msgspec

from edgekit.arguments import argument
from edgekit.errors import BuildError
from edgekit.specs import Precision
from edgekit.text import some_of

__all__ = ["Layer", "assert_precision", "layer_counts"]

DTYPES = {Precision.FP32: "float32", Precision.FP16: "float16", Precision.BF16: "bfloat16", Precision.INT8: "int8"}


class Layer(msgspec.Struct, frozen=True):
    """A convolution or matrix product of an engine.

    Attributes:
        names: names of the graph's nodes that the layer was made from.
        dtype: element type of the multiplication: ``int8`` (signed or not), ``float32``, ``float16``, ``bfloat16``, or
            ``int16`` for a float layer with 16-bit integer weights (`SplitFloatWeights`).
    """

    names: tuple[str, ...]
    dtype: str


def layer_counts(layers: Iterable[Layer]) -> dict[str, int]:
    """Counts the layers by element type, most frequent first."""
    return dict(collections.Counter(layer.dtype for layer in layers).most_common())


def assert_precision(
    target: str,
    precision: Precision,
    quantized: Sequence[str],
    built: Sequence[Layer],
    *,
    came_quantized: bool = False,
    weights_only: bool = False,
) -> tuple[str, ...]:
    """Checks that an engine multiplies in the requested precision.

    Args:
        target: name of the backend.
        precision: the requested precision.
        quantized: names of the layers that are quantized in the graph.
        built: the layers of the engine.
        came_quantized: the Q/DQ pairs are those of the user's file, which may be where the backend has no integer
            kernels; a layer in float computes the same numbers there.
        weights_only: the weights alone are quantized, to take less memory; a layer in float reads them as they are.

    Returns:
        Notes: which quantized layers run in float.

    Raises:
        BuildError: a layer runs in another type, or, of a file that came quantized, all do; the message names both.
    """
    if precision is Precision.INT8:
        return _assert_int8(target, quantized, built, came_quantized, weights_only)
    wanted = DTYPES[precision]
    others = [layer for layer in built if layer.dtype != wanted]
    # A half-precision graph may keep some layers in float32 on purpose; a float32 graph has no other layers.
    if others and (precision is Precision.FP32 or len(others) == len(built)):
        raise BuildError(
            f"{target} runs {len(others)} of {len(built)} layers in {_dtypes(others)}, expected {wanted}: "
            f"{_named(n for layer in others for n in layer.names[:1])}",
            hint=_hint(precision, others),
        )
    return ()


def _hint(precision: Precision, others: Sequence[Layer]) -> str:
    if DTYPES[Precision.INT8] in layer_counts(others):
        return f"the model is quantized: build it with {argument('precision', 'int8')}"
    if precision is Precision.FP32:
        return ""
    return f"all stay in float32, as layers inside If and Loop do: build it with {argument('precision', 'fp32')}"


def _assert_int8(
    target: str, quantized: Sequence[str], built: Sequence[Layer], came_quantized: bool, weights_only: bool
) -> tuple[str, ...]:
    if not quantized:
        if came_quantized and any(layer.dtype == "int8" for layer in built):
            return ()  # the backend moved the pairs to its layers
        raise BuildError(
            f"an INT8 engine for {target} needs Q/DQ pairs at its convolutions and matrix products; the graph has none",
            hint=f"build it with {argument('precision', 'fp32')}; if it came quantized, its integers are at other "
            "operators: for INT8, build the float model that it was made from",
        )
    others = [layer for layer in built if layer.dtype != "int8"]
    elsewhere = {name for layer in others for name in layer.names}
    not_int8 = [name for name in quantized if name in elsewhere]
    # Nodes without names can only be counted.
    unnamed = "" in quantized and len(built) - len(others) < len(quantized)
    if not not_int8 and not unnamed:
        return ()
    count = len(not_int8) or len(quantized) - (len(built) - len(others))
    which = f": {_named(not_int8)}" if any(not_int8) else ""
    found = f"{target} runs {count} of {len(quantized)} quantized layers in {_dtypes(others)}"
    if weights_only:
        return (f"{found}{which}, with weights of 8 bits",)
    where = f"the Q/DQ pairs are not where {target} fuses them"
    if came_quantized and count < len(quantized):
        return (f"{found}{which}; {where}",)
    fix = f"keep these layers in float with {argument('keep_float')}"
    if came_quantized:
        fix = (
            f"build the file as it is with {argument('precision', 'fp32')}, or the float model that it was made from "
            f"with {argument('precision', 'int8')}"
        )
    raise BuildError(
        f"{found}, expected int8{which}", hint=f"{where}: {fix}", nodes=[name for name in not_int8 if name]
    )


def _dtypes(layers: Iterable[Layer]) -> str:
    return " and ".join(layer_counts(layers))


def _named(names: Iterable[str]) -> str:
    return some_of(name or "(no name)" for name in names)
