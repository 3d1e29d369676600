"""ONNX Runtime's quantization scheme on the processor of this machine."""

from __future__ import annotations

from edgekit.device.cpu import Cpu, cpu
from edgekit.engine.onnxruntime.tiles import has_wrong_columns
from edgekit.specs import EVERY_ATTENTION, FloatAttention, QuantScheme, SlowConvolution

__all__ = ["LIMITS", "scheme_of_processor"]

# Operators that ONNX Runtime computes on integers in the pattern `DQ -> operator -> Q` (its QDQ selectors).
INTEGER_OPERATORS = frozenset(
    "Add AveragePool Concat Conv Flatten Gemm GlobalAveragePool LeakyRelu MatMul MaxPool Mul Reshape Resize Sigmoid "
    "Slice Split Squeeze Transpose Unsqueeze".split()
)

SLOW_CONVOLUTIONS = (
    SlowConvolution(kind="plain", channels=2, window=9),
    SlowConvolution(kind="grouped", channels=4),
    SlowConvolution(kind="depthwise", channels=1, window=25),
)
"""ONNX Runtime has an integer kernel for depthwise convolutions, and takes a matrix product for each group of others.

Measured with 1.32 on x86 with VNNI, one thread, between two 1x1 convolutions on integers, with ReLU, groups with SiLU
too, 7 to 112 pixels wide. With this one layer in float, the network takes, as a share of the time with all on integers:

- one channel a group with several outputs 0.13 to 0.33, two channels 0.27 to 0.33, four 0.44 to 0.84, eight 0.76 to
  1.20;
- without groups, windows of 3x3, 7x7 and 1x64: one channel 0.32 to 0.53, two 0.51 to 0.71, three 0.59 to 0.87, four
  0.76 to 1.26, eight 0.69 to 1.21. Three are those of an image, whose layers the stem rule decides on;
- depthwise 7x7 0.62, 5x5 0.74 to 1.01, 3x3 0.77 to 1.16;
- small products gain nothing: matrix products from 1 x 16 x 16 on 0.97 to 1.73, both of squeeze-and-excitation 1.02 to
  1.09.
"""

FLOAT_ATTENTION = (
    FloatAttention(head_size=32),
    FloatAttention(head_size=64, most_keys=128),
    FloatAttention(head_size=128, most_keys=64),
    FloatAttention(head_size=64, least_length=512, plain=True),
)
"""Measured with 1.32 on x86 with VNNI, one thread, 2 to 12 heads, as many queries as keys, with the four matrix
products around it on integers: with attention in float, the layer takes, as a share of the time with attention on
integers,

- heads of 16 and 32: 0.83 to 0.98 up to 256 keys, 0.70 to 0.92 at 384 and 512, 0.46 to 0.74 from 1024 on;
- heads of 64: 0.83 to 1.00 at 16 to 64 keys, 0.95 to 1.09 at 128, 1.03 to 1.09 at 197 and 256; as one operator, 0.96 to
  1.02 at 512, 0.96 to 1.03 at 1024 and 0.87 at 1500; with a mask, 1.05 to 1.15 from 512 on;
- heads of 128: 0.88 to 1.01 up to 64 keys, 1.03 to 1.31 from 128 on;
- 32 queries and one of 1500 keys: 1.05, 1.08."""

# Names in `edgekit.quantize.kernel_limits`.
LIMITS = frozenset({"average-dilated", "average-of-pads-rounded-up"})


def scheme_of_processor() -> QuantScheme:
    """Returns a scheme with uint8 activations around every operator, and 7-bit weights where 8 bits would overflow.

    Measured on YOLOv3-416 with VNNI: 133 ms, against 200 ms with int8 at the inputs of convolutions only. x86
    kernels multiply unsigned by signed bytes, so int8 activations are converted first. Arm kernels take both
    at the same speed (MLAS: ``MlasGemmU8X8DispatchUdot`` and ``…Ummla``), and uint8 uses all its values after a
    ReLU. Without VNNI, ``vpmaddubsw`` adds two products in 16 bits: 2 * 255 * 127 does not fit, 2 * 255 * 63
    does. A ReLU or Clip before Q is the same as the saturation of Q.
    """
    here = cpu()
    return QuantScheme(
        activation_dtype="uint8",
        operators=INTEGER_OPERATORS,
        # `FuseIntegerMatMul` outputs floats.
        quantize_outputs=INTEGER_OPERATORS - {"MatMul"},
        fused_activations=frozenset({"Relu", "Clip"}),
        per_channel_weights=True,
        weight_bits=7 if here.arch == "x86_64" and not here.fast_int8 else 8,
        float_bias=False,
        # Measured on YOLOv3-tiny, whose LeakyReLUs are table look-ups on integers: with both convolutions of the
        # stem in float it is equally fast, and they cause half of the quantization noise.
        stem_channels=16,
        channel_multiple=4,
        bodies=True,
        own_ranges=True,
        dynamic=True,
        weights_only="blocks",
        limits=LIMITS | ({"columns-of-a-part-of-a-tile"} if has_wrong_columns() else set()),
        slow_convolutions=SLOW_CONVOLUTIONS if here.arch == "x86_64" else (),
        float_attention=_float_attention(here),
    )


def _float_attention(here: Cpu) -> tuple[FloatAttention, ...]:
    """Returns the attentions that this processor computes faster in float.

    Measured with AVX2, one thread, against attention with Q/DQ pairs at its products: in float, as one operator, it
    takes 0.47 to 1.06 of the time; as single operators, since it has a mask, 0.79 to 0.89 at 128 tokens and 1.12 to
    1.14 at 512. Whole models (ViT, MiniLM, BERT, Swin, Whisper, CLIP): 0.96 to 1.01. Not measured on Arm.
    """
    if here.arch != "x86_64":
        return ()
    return FLOAT_ATTENTION if here.fast_int8 else EVERY_ATTENTION
