"""TensorRT's quantization scheme; the same for TensorRT 10, 11 and TensorRT-RTX."""

from __future__ import annotations

from edgekit.graph.operators import PRODUCTS
from edgekit.specs import Precision, QuantScheme

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
    stem_channels=3,
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

A first convolution that reads an image stays in FP16: three channels do not fill an integer kernel, and on YOLOv3-tiny
the agreement with FP32 rises from 0.955 to 0.979 (calibrated on the shipped set; 0.972 to 0.983 on five photos).

Tensor cores compute twice as many products of int8 as of FP16 in the same time (NVIDIA's data sheets: 20 and 10 TMAC/s
of an Orin Nano at 67 TOPS). A kernel is started in some 5 µs (NVIDIA, "Getting Started with CUDA Graphs"), in which a
layer that reaches a twentieth of the peak rate does 5 million multiply-accumulates: in networks of smaller layers, it
hardly matters which precision they have. Neither was measured yet.
"""
