"""Values that the stages hand on: frozen, comparable, and written to JSON as they are."""

from __future__ import annotations

import enum
import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple, SupportsIndex, TypeAlias

import msgspec

from edgekit.errors import UsageError, nearest

__all__ = [
    "BEGIN",
    "END",
    "PAD",
    "SPECIAL_TOKENS",
    "UNKNOWN",
    "Precision",
    "QuantScheme",
    "Shape",
    "ShapeRange",
    "Size",
    "SizeRange",
    "TensorSpec",
    "precision_from_name",
    "shape_from_sizes",
    "size_from_value",
    "sizes_of",
    "sizes_take",
    "specs_at",
    "specs_text",
]

SPECIAL_TOKENS = ("<pad>", "<begin>", "<end>", "<unknown>")
"""First in every vocabulary: a translator, its data sets and its engines agree on what their numbers mean."""

PAD, BEGIN, END, UNKNOWN = range(len(SPECIAL_TOKENS))


class Precision(str, enum.Enum):
    """The arithmetic that a graph is typed in; what a backend does beyond it is read back after the build."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
    INT8 = "int8"

    def __str__(self) -> str:
        return self.value


class TensorSpec(msgspec.Struct, frozen=True):
    """Name, element type and shape of one input or output of a graph or an engine.

    Attributes:
        name: the tensor's name in the graph.
        dtype: numpy's name of the element type, such as ``float32`` or ``uint8``.
        shape: one entry a dimension; a string names a dimension that is chosen at run time.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype} ({', '.join(str(d) for d in self.shape)})"


class SizeRange(NamedTuple):
    """The sizes that one dimension may have at run time; as text ``32:320:2048``.

    Attributes:
        min: the smallest size.
        opt: the size the engine is tuned for, calibrated and measured at.
        max: the largest size.
    """

    min: int
    opt: int
    max: int

    def __str__(self) -> str:
        return f"{self.min}:{self.opt}:{self.max}"


Size: TypeAlias = "int | SizeRange"
Shape: TypeAlias = "tuple[Size, ...]"


class ShapeRange(msgspec.Struct, frozen=True):
    """The shapes that an input may have at run time; TensorRT's optimization profile.

    Attributes:
        min: smallest size of each dimension.
        opt: the sizes that the engine is tuned for.
        max: largest size of each dimension.
    """

    min: tuple[int, ...]
    opt: tuple[int, ...]
    max: tuple[int, ...]

    @property
    def sizes(self) -> Shape:
        """A number, or the range, for each dimension."""
        ranges = map(SizeRange, self.min, self.opt, self.max)
        return tuple(range_ if range_.min != range_.max else range_.min for range_ in ranges)


def precision_from_name(name: str) -> Precision:
    """The precision of that name.

    Raises:
        UsageError: there is none.
    """
    known = [str(precision) for precision in Precision]
    if name not in known:
        expected = f"{', '.join(known[:-1])} or {known[-1]}"
        raise UsageError(f"unknown precision '{name}': expected {expected}", hint=nearest(name, known))
    return Precision(name)


def size_from_value(value: int | Sequence[int], option: str) -> Size:
    """One dimension: a number, or the range that its least, usual and greatest size are; a number if all are equal.

    Raises:
        UsageError: they are not three, fall, or one is below 1; ``option`` is what the message begins with.
    """
    numbers = tuple(value) if isinstance(value, Sequence) else (value,)
    whole = [operator.index(number) for number in numbers if isinstance(number, SupportsIndex)]
    if (
        len(numbers) != len(whole)
        or len(whole) not in (1, 3)
        or not 0 < whole[0] <= whole[len(whole) // 2] <= whole[-1]
    ):
        raise UsageError(
            f"{option}: expected a number of 1 or more, or a range MIN:OPT:MAX with 1 <= MIN <= OPT <= MAX, got "
            f"{':'.join(map(str, numbers))}",
            hint="least, usual and greatest size, in this order, as in 1:4:16",
        )
    return whole[0] if whole[0] == whole[-1] else SizeRange(*whole)


def shape_from_sizes(sizes: Sequence[int | Sequence[int]], option: str) -> Shape:
    """A shape, a number or a range a dimension; see `size_from_value`.

    Raises:
        UsageError: a dimension is neither.
    """
    return tuple(size_from_value(size, option) for size in sizes)


def specs_at(
    specs: Iterable[TensorSpec],
    shapes: Mapping[str, ShapeRange],
    which: Literal["min", "opt", "max"] = "opt",
) -> tuple[TensorSpec, ...]:
    """The inputs with a number for each dimension: those that ``shapes`` has are of this size of their ranges."""
    return tuple(
        msgspec.structs.replace(spec, shape=getattr(shapes[spec.name], which)) if spec.name in shapes else spec
        for spec in specs
    )


def sizes_of(spec: TensorSpec, shapes: Mapping[str, ShapeRange]) -> tuple[Size | str, ...]:
    """The input's sizes, with the ranges that ``shapes`` has in the places of names."""
    return shapes[spec.name].sizes if spec.name in shapes else spec.shape


def sizes_take(sizes: Sequence[Size | str], shape: Sequence[int]) -> bool:
    """Whether an array of that shape fits, where a name stands for any size and a range for those in it."""
    return len(sizes) == len(shape) and all(
        own.min <= size <= own.max if isinstance(own, SizeRange) else isinstance(own, str) or own == size
        for own, size in zip(sizes, shape, strict=True)
    )


def specs_text(specs: Iterable[TensorSpec], shapes: Mapping[str, ShapeRange]) -> str:
    """The inputs as a message shows them: ``x: float32 (1, 3, 48, 32:320:2048); …``."""
    return "; ".join(f"{spec.name}: {spec.dtype} ({', '.join(map(str, sizes_of(spec, shapes)))})" for spec in specs)


class QuantScheme(msgspec.Struct, frozen=True, kw_only=True):
    """What a backend wants a quantized graph to look like, so that its integer kernels are used.

    Attributes:
        activation_dtype: element type of quantized activations; ``int8`` is symmetric with zero point 0,
            ``uint8`` has a zero point of its own.
        operators: ONNX operators that are to run on integers; Q/DQ pairs stand at their inputs.
        quantize_outputs: a Q/DQ pair stands at the outputs of these operators too, so that chains of
            them stay in integers (ONNX Runtime fuses ``DQ -> op -> Q``). Empty where the backend fuses what
            follows the operator (TensorRT).
        fused_activations: activation functions that the backend fuses into the operator before them: no
            Q/DQ stands between the two.
        propagated: operators that the backend takes into integers with what reads them: where a product wants a pair at
            its input, one stands before them too (see `edgekit.quantize.passes.propagate_qdq`).
        per_channel_weights: one scale an output channel instead of one a tensor.
        weight_bits: 8, or 7 where the backend's 8-bit multiply-add saturates (x86 without VNNI).
        float_bias: the bias stays float; otherwise it is int32 with the scale of input times weight.
        stem_channels: the first two convolutions from an input stay in float while they read no more channels
            than this and the image shrinks behind them, unless ``quantize_outputs`` and their activation is fused:
            there integers gain little time, and lose most of what all of quantization loses.
        rest: what is not quantized is typed in this: FP32 between INT8 makes TensorRT slower than FP16 throughout
            (NVIDIA/TensorRT #3197, #4554).
        channel_multiple: convolutions that read fewer channels get channels of zeros up to this number, where the
            backend's fast kernels take channels by the group.
        split_channels: a 1x1 convolution that stays in float and reads as many channels or more is handed bytes where
            what stands before it runs on integers: the backend multiplies them by weights of 16 bits
            (`edgekit.lower.split_float_weights`). 0 if it does not.
    """

    activation_dtype: Literal["uint8", "int8"]
    operators: frozenset[str]
    quantize_outputs: frozenset[str] = frozenset()
    fused_activations: frozenset[str] = frozenset()
    propagated: frozenset[str] = frozenset()
    per_channel_weights: bool = True
    weight_bits: int = 8
    float_bias: bool = True
    stem_channels: int = 0
    channel_multiple: int = 1
    split_channels: int = 0
    rest: Precision = Precision.FP32
