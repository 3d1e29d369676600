"""Merges the two products of a layer whose weights were split into two planes into one layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from edgekit.engine.layers import Layer

__all__ = ["with_planes_as_one"]


def with_planes_as_one(layers: Iterable[Layer]) -> list[Layer]:
    """Merges the two products of each layer split by `SplitFloatWeights` into one layer of type ``int16``."""
    from edgekit.lower.split_float_weights import LOWER, UPPER  # needs onnx_ir, which runtime-only boards lack

    named = [(next((name for name in layer.names if name.endswith((UPPER, LOWER))), ""), layer) for layer in layers]
    lower = {plane.removesuffix(LOWER): layer.dtype for plane, layer in named if plane.endswith(LOWER)}
    return [
        _as_one(plane.removesuffix(UPPER), layer.dtype, lower) if plane else layer
        for plane, layer in named
        if not plane.endswith(LOWER)
    ]


def _as_one(name: str, upper: str, lower: Mapping[str, str]) -> Layer:
    others = [dtype for dtype in (upper, lower[name]) if dtype != "int8"]
    return Layer((name,), others[0] if others else "int16")
