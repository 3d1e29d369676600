"""Values passed between stages: frozen, comparable, and written to JSON as they are."""

from __future__ import annotations

import enum
import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, SupportsIndex, TypeAlias

import msgspec

from edgekit.arguments import either
from edgekit.errors import UsageError, nearest
from edgekit.limits import MAX_SIZE

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "BEGIN",
    "END",
    "EVERY_ATTENTION",
    "EXACT_DB",
    "PAD",
    "SPECIAL_TOKENS",
    "UNKNOWN",
    "FloatAttention",
    "Precision",
    "QuantScheme",
    "Shape",
    "ShapeRange",
    "Size",
    "SizeRange",
    "SlowConvolution",
    "TensorSpec",
    "in_float32",
    "precision_from_name",
    "shape_from_sizes",
    "size_from_value",
    "sizes_of",
    "sizes_take",
    "specs_at",
    "specs_text",
]

EXACT_DB = 200.0
"""Signal-to-noise ratio of equal outputs; -200 dB is that of outputs with infinities or NaN where there are none."""

SPECIAL_TOKENS = ("<pad>", "<begin>", "<end>", "<unknown>")
"""The first tokens of every vocabulary, so that translators, data sets and engines agree on their numbers."""

PAD, BEGIN, END, UNKNOWN = range(len(SPECIAL_TOKENS))


class Precision(str, enum.Enum):
    """The numeric precision of a graph; the precision of each layer in the engine is read after the build."""

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
        shape: one entry for each dimension; a string names a dynamic dimension, which is chosen at run time.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype} ({', '.join(str(d) for d in self.shape)})"


class SizeRange(NamedTuple):
    """The size range of a dynamic dimension; as text ``32:320:2048``.

    Attributes:
        min: the smallest size; 0 for a cache that is empty before a decoder's first step.
        opt: the size that the engine is tuned for, calibrated and measured at.
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
    """The shape range of an input with dynamic dimensions, as in a TensorRT optimization profile.

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
        """The size of each dimension, or its range if it is dynamic."""
        ranges = map(SizeRange, self.min, self.opt, self.max)
        return tuple(range_ if range_.min != range_.max else range_.min for range_ in ranges)


def precision_from_name(name: str) -> Precision:
    """Returns the precision with a name.

    Raises:
        UsageError: the name is unknown.
    """
    known = [str(precision) for precision in Precision]
    if not isinstance(name, str) or name not in known:
        expected = f"{', '.join(known[:-1])} or {known[-1]}"
        raise UsageError(f"unknown precision {name!r}: expected {expected}", hint=nearest(str(name), known))
    return Precision(name)


def _whole(number: object) -> int | None:
    try:
        return operator.index(number) if isinstance(number, SupportsIndex) else None
    except TypeError:  # an array of several numbers
        return None


def size_from_value(value: int | Sequence[int], option: str, *, empty: bool = False) -> Size:
    """Converts a number, or a sequence of min, opt and max, to a size; a range of equal sizes becomes a number.

    Args:
        value: the number or the sequence.
        option: begins the message of an error.
        empty: whether a range may begin at 0.

    Raises:
        UsageError: there are not three sizes, they decrease, or one is below 1 or above `MAX_SIZE`.
    """
    numbers = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value,)
    whole = [whole for number in numbers if (whole := _whole(number)) is not None]
    least = 0 if empty and len(whole) == 3 and whole[1] else 1
    if (
        len(numbers) != len(whole)
        or len(whole) not in (1, 3)
        or not least <= whole[0] <= whole[len(whole) // 2] <= whole[-1]
    ):
        raise UsageError(
            f"{option}: expected a number of 1 or more, or a range {either('MIN:OPT:MAX', '(MIN, OPT, MAX)')} with "
            f"{'MIN <= OPT <= MAX, of which only MIN may be 0' if empty else '1 <= MIN <= OPT <= MAX'}, got "
            f"{either(':'.join(map(str, numbers)), repr(value))}",
            hint=f"give the min, opt and max size in this order, as in {either('1:4:16', '(1, 4, 16)')}",
        )
    if whole[-1] > MAX_SIZE:
        raise UsageError(f"{option}: expected at most {MAX_SIZE:,}, got {whole[-1]}")
    return whole[0] if whole[0] == whole[-1] else SizeRange(*whole)


def shape_from_sizes(sizes: Sequence[int | Sequence[int]], option: str) -> Shape:
    """Converts a size or range for each dimension to a shape; see `size_from_value`. A range may begin at 0.

    Raises:
        UsageError: a dimension is neither a size nor a range.
    """
    if not isinstance(sizes, Sequence) or isinstance(sizes, str):
        raise UsageError(f"{option}: expected a size for each dimension, as in (320, 320), got {sizes!r}")
    return tuple(size_from_value(size, option, empty=True) for size in sizes)


def specs_at(
    specs: Iterable[TensorSpec],
    shapes: Mapping[str, ShapeRange],
    which: Literal["min", "opt", "max"] = "opt",
) -> tuple[TensorSpec, ...]:
    """Returns the inputs with fixed shapes: those in ``shapes`` get the min, opt or max shape of their range."""
    return tuple(
        msgspec.structs.replace(spec, shape=getattr(shapes[spec.name], which)) if spec.name in shapes else spec
        for spec in specs
    )


def sizes_of(spec: TensorSpec, shapes: Mapping[str, ShapeRange]) -> tuple[Size | str, ...]:
    """Returns an input's shape, with the ranges in ``shapes`` for dynamic dimensions."""
    return shapes[spec.name].sizes if spec.name in shapes else spec.shape


def sizes_take(sizes: Sequence[Size | str], shape: Sequence[int]) -> bool:
    """Whether an array of a shape fits ``sizes``; a name accepts any size, a range accepts the sizes in it."""
    return len(sizes) == len(shape) and all(
        own.min <= size <= own.max if isinstance(own, SizeRange) else isinstance(own, str) or own == size
        for own, size in zip(sizes, shape, strict=True)
    )


def in_float32(array: np.ndarray, dtype: str) -> np.ndarray:
    """Converts an array of FP16, BF16 or FP64 for an input of float32; returns others unchanged.

    FP64 is numpy's default, and models whose file is in FP16 or FP64 are built with inputs of float32.

    Args:
        array: the array.
        dtype: element type of the input.
    """
    other = array.dtype.name in ("float16", "bfloat16", "float64")
    if not other or dtype != "float32":
        return array
    converted: np.ndarray = array.astype(dtype)
    return converted


def specs_text(specs: Iterable[TensorSpec], shapes: Mapping[str, ShapeRange]) -> str:
    """Formats inputs for a message: ``x: float32 (1, 3, 48, 32:320:2048); …``."""
    return "; ".join(f"{spec.name}: {spec.dtype} ({', '.join(map(str, sizes_of(spec, shapes)))})" for spec in specs)


class SlowConvolution(msgspec.Struct, frozen=True, kw_only=True):
    """Convolutions that a backend computes faster in float than on integers, among layers on integers.

    Attributes:
        kind: ``depthwise``: one channel in and out of each group; ``grouped``: other groups; ``plain``: one group.
        channels: they read at most this many channels a group.
        window: they read at least this many pixels of each channel.
    """

    kind: Literal["plain", "grouped", "depthwise"]
    channels: int
    window: int = 1


class FloatAttention(msgspec.Struct, frozen=True, kw_only=True):
    """Attentions that a backend computes faster in float than on integers, among layers on integers.

    A size that is not known when the graph is quantized fits no limit.

    Attributes:
        head_size: their queries have at most this many channels a head; None: any number.
        most_keys: they have at most this many keys; None: any number.
        least_length: they have at least this many queries, and keys.
        plain: they have no masks, and heads that one Transpose each splits and merges: what backends fuse.
    """

    head_size: int | None = None
    most_keys: int | None = None
    least_length: int = 0
    plain: bool = False


EVERY_ATTENTION = (FloatAttention(),)


class QuantScheme(msgspec.Struct, frozen=True, kw_only=True):
    """The form of a quantized graph that makes a backend use its integer kernels.

    Attributes:
        activation_dtype: element type of quantized activations; ``int8`` is symmetric with zero point 0,
            ``uint8`` is asymmetric.
        operators: ONNX operators to quantize; their inputs get Q/DQ pairs.
        quantize_outputs: operators whose outputs get a Q/DQ pair too, so that chains of them stay in integers (ONNX
            Runtime fuses ``DQ -> op -> Q``). Empty if the backend fuses the operators that follow (TensorRT).
        fused_activations: activation functions that the backend fuses into the operator before them: no Q/DQ pair is
            placed between the two.
        propagated: operators that the backend runs on integers together with their consumers: if a product needs a
            Q/DQ pair at its input, one is placed before them too (see `edgekit.quantize.passes.propagate_qdq`).
        per_channel_weights: one scale for each output channel instead of one for each tensor.
        weight_bits: 8, or 7 if the backend's 8-bit multiply-add saturates (x86 without VNNI).
        float_bias: the bias stays float; otherwise it is int32 with the scale of input times weight.
        stem_channels: the first two convolutions after an input stay in float if they read at most this many channels
            and reduce the image size, unless ``quantize_outputs`` is set and their activation is fused: INT8 saves
            little time in them, but causes most of the accuracy loss.
        without_zero_point: products that the backend runs on integers only if the zero point of their input is 0, which
            takes a range that begins at 0.
        slow_convolutions: convolutions that stay in float, because the backend computes them faster so.
        float_attention: attentions whose two products stay in float, because the backend computes them faster so.
        attention_keys: attention over at least this many keys gets a pair at each of the four factors of its products,
            symmetric ``int8`` at queries, keys and values, because the backend computes all of it faster on integers.
            0 disables this.
        attention_queries: attention of fewer queries stays in float all the same.
        bodies: the backend computes integers in the bodies of If, Loop and Scan too.
        weights_only: the form of matrix products whose weights alone are in 8 bits: ``blocks``: ONNX Runtime's
            ``MatMulNBits``; ``channels``: DequantizeLinear of weights with a scale for each column, which the backend
            does not fold; empty if it has none.
        rest: precision of what is not quantized: FP32 between INT8 layers makes TensorRT slower than FP16 throughout
            (NVIDIA/TensorRT #3197, #4554).
        float_time: how long a product takes in ``rest`` at most, as a multiple of its time on integers.
        launch_macs: multiply-accumulates on integers that take as long as it takes to start a layer.
        channel_multiple: channel padding: convolutions that read fewer channels are padded with zeros to this number,
            if the backend's fast kernels process channels in groups.
        split_channels: minimum number of input channels of a 1x1 convolution that stays in float but reads 8-bit
            activations, if its input is computed in integers: the backend multiplies them by 16-bit weights
            (`edgekit.lower.split_float_weights`). 0 disables this.
        limits: names of limits of the backend's integer kernels (`edgekit.quantize.kernel_limits`): nodes that they
            apply to stay in float.
        dynamic: the backend has integer kernels for activations whose range is found in each run.
        own_ranges: the input of a convolution may be divided by its own range in each run.
        shift_inputs: a constant may be subtracted from the input of a matrix product, because integers without zero
            point are not all used by values of one sign.
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
    limits: frozenset[str] = frozenset()
    without_zero_point: frozenset[str] = frozenset()
    slow_convolutions: tuple[SlowConvolution, ...] = ()
    float_attention: tuple[FloatAttention, ...] = ()
    attention_keys: int = 0
    attention_queries: int = 1
    bodies: bool = False
    weights_only: Literal["", "blocks", "channels"] = ""
    dynamic: bool = False
    own_ranges: bool = False
    shift_inputs: bool = False
    rest: Precision = Precision.FP32
    float_time: float = 4.0
    launch_macs: int = 0
