"""OpenVINO's quantization scheme on the processor of this machine."""

from __future__ import annotations

from edgekit.device.cpu import cpu
from edgekit.engine.openvino.lowering import may_lower
from edgekit.specs import QuantScheme, SlowConvolution

__all__ = ["scheme_of_processor"]

INTEGER_OPERATORS = frozenset(
    "Add AveragePool Concat Conv ConvTranspose Gemm GlobalAveragePool MatMul MaxPool ReduceMean Resize".split()
)

SLOW_CONVOLUTIONS = (SlowConvolution(kind="grouped", channels=1),)
"""Measured with 2026.4 on x86 with VNNI, one thread, between two 1x1 convolutions on integers, with ReLU, groups with
SiLU too, 7 to 112 pixels wide. With this one layer in float, the network takes, as a share of the time with all on
integers: one channel a group with several outputs 0.59 to 0.86, two channels 0.85 to 1.00, four and eight 1.29 to 1.79;
depthwise 0.98 to 1.08; without groups, one to 32 channels 1.07 to 2.57. Small products gain nothing: matrix products
from 1 x 16 x 16 on 0.97 to 1.68, both of squeeze-and-excitation 1.00 to 1.08."""

ATTENTION_KEYS = 96
"""Measured with 2026.4 on x86 with VNNI, one thread, with the four matrix products around it: with attention on
integers, the layer takes, as a share of the time with attention in float, 0.93 to 0.99 at 4 to 32 keys, 0.90 at 49 and
64, 0.83 to 0.87 at 77 to 128, 0.69 to 0.74 at 197 and 256, 0.56 to 0.63 at 512 and 1024 and 0.44 to 0.52 at 1500 and
2048, with heads of 16 to 256 channels, with masks and without. Models: Whisper's encoder (1500 keys) 0.62 and ViT-Tiny
(197) 0.86 with the same SNR, BERT (128) 0.94 with 0.2 dB less; with fewer keys, little time for the noise: CLIP's text
encoder (77) 0.98 with 0.7 dB less, a Llama (64) 0.96 with 0.9 dB less, Swin-Tiny (49) 0.96, MiniLM (64) 0.98."""

ATTENTION_QUERIES = 16
"""Of 128 keys that come from a cache, 1 to 8 queries take 0.94 of the time with attention on integers, and the cache
has to be rounded in each run. A Llama's step of one token takes 0.96, and keeps 11.6 dB instead of 21.5."""

# Names in `edgekit.quantize.kernel_limits`.
LIMITS = frozenset(
    {"average-of-pads", "average-of-pads-behind-matmul", "concat-of-other-axes", "groups-of-many-outputs"}
)


def scheme_of_processor() -> QuantScheme:
    """Returns a scheme with uint8 activations at the inputs of products, and of the operators between them.

    OpenVINO fuses activation functions, residual sums and the next Q into the convolution before them if both
    inputs of the sum have Q/DQ, and it pools and concatenates integers if Q/DQ are before and not after the
    operator. With pairs at products only, sums and poolings run in float32 with conversions around them: measured
    against NNCF's INT8, this takes 1.33 times as long on residual blocks as in ResNet, 1.10 on YOLOv3 and 1.09 on
    YOLOv3-tiny; with pairs at all of these operators, 1.00, 1.02 and 1.05, where the rest is due to the float
    heads. Signed activations are as fast as unsigned. Without VNNI, oneDNN's 8-bit products overflow as ONNX
    Runtime's do. A ConvTranspose whose input has a zero point runs in float32 (2026.4), and a symmetric range would
    cost it a bit.

    Weights alone in 8 bits are read as they are by its matrix products, which quantize their inputs in groups of 32
    themselves. Measured with 2026.4 and VNNI, one thread: one token of a Llama takes 0.51 of the time of FP32, and
    MiniLM 0.54. Scales for blocks of 32 weights of a column take up to 1.1 times as long.
    """
    from edgekit.lower.split_float_weights import MIN_CHANNELS  # needs onnx_ir, as quantization does

    here = cpu()
    return QuantScheme(
        activation_dtype="uint8",
        operators=INTEGER_OPERATORS,
        fused_activations=frozenset({"Clip", "HardSwish", "LeakyRelu", "Relu", "Sigmoid"}),
        per_channel_weights=True,
        weight_bits=7 if here.arch == "x86_64" and not here.fast_int8 else 8,
        float_bias=True,
        own_ranges=True,
        weights_only="channels",
        limits=LIMITS,
        without_zero_point=frozenset({"ConvTranspose"}),
        slow_convolutions=SLOW_CONVOLUTIONS if here.arch == "x86_64" else (),
        split_channels=MIN_CHANNELS if may_lower() else 0,
        attention_keys=ATTENTION_KEYS if may_lower() else 0,
        attention_queries=ATTENTION_QUERIES,
    )
