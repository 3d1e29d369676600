"""TensorRT's quantization scheme; the same for TensorRT 10, 11 and TensorRT-RTX."""

from __future__ import annotations

from edgekit.graph.operators import PRODUCTS
from edgekit.specs import Precision, QuantScheme, SlowConvolution

__all__ = ["SCHEME"]

SCHEME = QuantScheme(
    activation_dtype="int8",
    operators=PRODUCTS,
    propagated=frozenset("Add Concat Flatten MaxPool Reshape Resize Squeeze Transpose Unsqueeze".split()),
    fused_activations=frozenset(
        "Clip Elu Gelu HardSigmoid HardSwish LeakyRelu Mish Mul PRelu Relu Sigmoid Softplus Tanh".split()
    ),
    per_channel_weights=True,
    float_bias=True,
    stem_channels=16,
    own_ranges=True,
    shift_inputs=True,
    slow_convolutions=(SlowConvolution(kind="plain", channels=3),),
    rest=Precision.FP16,
    float_time=2.0,
    launch_macs=5_000_000,
)
"""int8 with zero point 0, a scale for each output channel of weights, and pairs at the inputs of products only.

TensorRT moves Q towards the input and DQ towards the output of operators that only move elements, fuses DQ into the
product that reads it, and fuses the operators after the product, up to the next Q, into its epilogue (NVIDIA, "Working
with Quantized Types", on the processing and placement of Q/DQ). So there is no pair between a product and its
activation function. At a residual sum, there is one at the shortcut, and none at the other input, which is still in
the convolution's accumulator. Biases are added there too and stay in float. All other operators are FP16, or INT8
would be slower than FP16 alone.

The first two convolutions stay in FP16 while they read at most 16 channels, and so does each that reads at most 3. An
instruction of a tensor core multiplies 32 channels of INT8 or 16 of FP16 (PTX ISA, ``mma.m16n8k32`` and
``mma.m16n8k16``), so that INT8 gains little in them; they cause much of the noise. On YOLOv3-tiny, the first alone
raises the agreement with FP32 from 0.955 to 0.979 (calibrated on the shipped set; 0.972 to 0.983 on five photos). The
second is 2.9 % of the work of nudenet's YOLOv8n, whose typed graph keeps 39.1 dB instead of 37.1, and 7 % of that of
YOLOv3-tiny. The transform of sound into frequencies in basic_pitch is convolutions of one channel: its typed graph
keeps 30.6 dB instead of 19.6. What either costs on a GPU is not yet measured.

Tensor cores compute twice as many products of int8 as of FP16 in the same time (NVIDIA's data sheets: 20 and 10 TMAC/s
of an Orin Nano at 67 TOPS). A kernel is started in some 5 µs (NVIDIA, "Getting Started with CUDA Graphs"), in which a
layer that reaches a twentieth of the peak rate does 5 million multiply-accumulates: in networks of smaller layers, it
hardly matters which precision they have. Neither was measured yet.
"""
