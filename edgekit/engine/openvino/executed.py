"""Reads the graph that OpenVINO's CPU plugin executes: the operators behind each layer, and the element types."""

from __future__ import annotations

from typing import Any

from edgekit.device.cpu import cpu

__all__ = ["PRODUCTS", "element_type", "fact", "group_size", "is_integer", "original_names", "product_type"]

PRODUCTS = frozenset({"Convolution", "GroupConvolution", "Deconvolution", "FullyConnected", "MatMul"})
"""Types of the layers that are convolutions or matrix products."""

DTYPES = {
    "f32": "float32",
    "f16": "float16",
    "bf16": "bfloat16",
    "u8": "int8",
    "i8": "int8",
    "u4": "int4",
    "i4": "int4",
    "i32": "int32",
    "i64": "int64",
    "boolean": "bool",
}

# If the plugin moves a bias to another node, it renames the product `name/WithoutBiases`.
_WITHOUT_BIAS = "/WithoutBiases"

_GROUP_SIZE = "DYNAMIC_QUANTIZATION_GROUP_SIZE"

# Places of the zero points among the inputs of a FullyConnected: data, weights, bias, scales, zero points.
_ZERO_POINTS = 4


def fact(operator: Any, name: str) -> str:
    """Returns an entry of an operator's ``rt_info`` as text."""
    value = operator.get_rt_info()[name]
    return str(getattr(value, "value", value))


def original_names(operator: Any) -> tuple[str, ...]:
    """Returns the names of the operators that a layer of the executed graph was made from."""
    names = (name.removesuffix(_WITHOUT_BIAS) for name in fact(operator, "originalLayersNames").split(",") if name)
    return tuple(dict.fromkeys(names))


def is_integer(value: Any) -> bool:
    """Whether a value of the executed graph has integers of 8 bits."""
    return value.get_element_type().get_type_name() in ("u8", "i8")


def element_type(operator: Any) -> str:
    """Returns what OpenVINO calls the type that a layer computes in, by the name that numpy has for it."""
    name = fact(operator, "runtimePrecision")
    return DTYPES.get(name, name)


def group_size(compiled: Any) -> int:
    """Returns how many elements share a range in products that quantize their inputs themselves; 0 if none does."""
    return int(compiled.get_property(_GROUP_SIZE))


def product_type(operator: Any, group: int) -> str:
    """Returns the element type that a convolution or matrix product multiplies.

    OpenVINO 2026.4 names the type of the weights, also where it makes floats of them, because the other factor is one.
    A FullyConnected multiplies integers nevertheless if it quantizes its input itself. Measured with VNNI: it does so
    for sums of at least ``group`` numbers, with weights that are unsigned or have no zero points.

    Args:
        operator: a layer of the executed graph, one of `PRODUCTS`.
        group: see `group_size`.
    """
    named = element_type(operator)
    data, weights, *others = operator.input_values()
    if named not in ("int8", "int4") or (is_integer(data) and is_integer(weights)):
        return named
    return "int8" if is_integer(weights) and _quantizes_its_input(weights, others, group) else "float32"


def _quantizes_its_input(weights: Any, others: list[Any], group: int) -> bool:
    here = cpu()
    if not group or (here.arch == "x86_64" and not here.fast_int8):
        return False
    zeros = others[_ZERO_POINTS - 2] if len(others) > _ZERO_POINTS - 2 else None
    plain = zeros is None or not is_integer(zeros)
    signed = weights.get_element_type().get_type_name() == "i8"
    return int(weights.get_partial_shape()[-1].get_length()) >= group and (plain or not signed)
