"""Activation functions: the nonlinearities between layers, without which a stack of layers would be one linear map.

Each class is the torch module of that name plus its derivative. The notes on INT8 rest on these facts:

- Quantization divides a tensor's range into 255 equal steps, with an error of at most half a step. Accuracy therefore
  depends on the input and output ranges, and on how much of them is rarely used, not on the formula.
- Both the input and the output are quantized, and most functions here discard the negative half of the input range.
  ReLU avoids the second loss, because clipping to the quantized range computes it. Measured after the next layer, ReLU
  is 1 to 3 dB better than the others.
- On INT8 values, an elementwise function is a lookup table of 256 entries, so its cost does not depend on its formula.
  A target without lookup tables dequantizes before the function and quantizes after it.

The SNR of each function, between two layers on the target ``cpu``, is in ``tests/models/test_activations.py``.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

__all__ = [
    "GELU",
    "Hardswish",
    "LeakyReLU",
    "Mish",
    "PReLU",
    "ReLU",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Tanh",
]


class Sigmoid(nn.Sigmoid):
    """Maps any number to a probability; 0.5 at 0.

    ::

        formula     s(x) = 1 / (1 + exp(-x))
        range       (0, 1)
        derivative  s(x) * (1 - s(x)), at most 1/4

    The small derivative makes deep networks hard to train: ten layers multiply the gradient by less than one millionth.

    INT8: the output range is known without calibration, and the step is 1/255. Probabilities below 1/510 become 0, and
    those above 1 - 1/510 become 1, so a detector's scores are better computed in float.
    """

    def derivative(self, x: torch.Tensor) -> torch.Tensor:
        """Computes the slope at each ``x``."""
        s = torch.sigmoid(x)
        return s * (1 - s)


class Tanh(nn.Tanh):
    """A scaled sigmoid that is symmetric around zero (LeNet-5 in LeCun et al. 1998 uses it).

    ::

        formula     tanh(x) = (exp(x) - exp(-x)) / (exp(x) + exp(-x)) = 2 * sigmoid(2 * x) - 1
        range       (-1, 1)
        derivative  1 - tanh(x)**2, at most 1

    INT8: the output range is known, the step is 2/255, and both ends saturate: inputs beyond +-3.2 give equal outputs.
    """

    def derivative(self, x: torch.Tensor) -> torch.Tensor:
        """Computes the slope at each ``x``."""
        return 1 - torch.tanh(x) ** 2


class ReLU(nn.ReLU):
    """Sets negative values to zero (Nair and Hinton 2010; trains six times faster than tanh in AlexNet's paper).

    ::

        formula     max(0, x)
        range       [0, inf)
        derivative  0 for x < 0, 1 for x > 0; undefined at 0, where the code uses 0

    INT8: free. With the zero point at the lowest integer, quantization clips negative values, and all 256 integers
    represent the positive range.
    """

    def derivative(self, x: torch.Tensor) -> torch.Tensor:
        """Computes the slope at each ``x``."""
        return (x > 0).to(x.dtype)


class LeakyReLU(nn.LeakyReLU):
    """A ReLU with a small slope for negative values (Maas et al. 2013; Darknet's slope is 0.1).

    ::

        formula     x for x >= 0, slope * x for x < 0
        range       (-inf, inf)
        derivative  1 for x > 0, slope for x < 0; undefined at 0, where the code uses the slope

    INT8: ten adjacent negative input values map to one output value. With a lookup table (ONNX Runtime), both input and
    output are quantized, which costs 2.5 dB compared with ReLU. Fused with the previous layer (OpenVINO, TensorRT),
    only the output is quantized.
    """

    def derivative(self, x: torch.Tensor) -> torch.Tensor:
        """Computes the slope at each ``x``."""
        return torch.where(x > 0, torch.ones_like(x), torch.full_like(x, self.negative_slope))


class PReLU(nn.PReLU):
    """A LeakyReLU with a learned slope, per tensor or per channel (He et al. 2015, arXiv:1502.01852).

    ::

        formula     x for x >= 0, slope[channel] * x for x < 0
        range       (-inf, inf)
        derivative  1 for x > 0, slope[channel] for x < 0; undefined at 0, where the code uses the slope

    INT8: as LeakyReLU, but ONNX Runtime has no per-channel lookup table and computes it in float. A channel with a
    slope above 1 or below 0 can dominate the range of the tensor.
    """

    def derivative(self, x: torch.Tensor) -> torch.Tensor:
        """Computes the slope at each ``x``; channels are the second axis."""
        slope = self.weight.view(1, -1, *[1] * (x.dim() - 2)) if x.dim() > 1 else self.weight
        return torch.where(x > 0, torch.ones_like(x), slope.expand_as(x))


class GELU(nn.GELU):
    """``x`` times the standard normal CDF of ``x`` (Hendrycks and Gimpel 2016, arXiv:1606.08415).

    ::

        formula     x * P(x),  P(x) = (1 + erf(x / sqrt(2))) / 2
        range       [-0.170, inf), minimum at x = -0.752
        derivative  P(x) + x * p(x),  p(x) = exp(-x**2 / 2) / sqrt(2 * pi)

    INT8: it differs from ReLU only by the dip below zero, and in a range up to 20 the depth of 0.17 is only two steps.
    The input needs signed values; the output uses almost no integers for negative values.
    """

    def derivative(self, x: torch.Tensor) -> torch.Tensor:
        """Computes the slope at each ``x``, for the formula with ``erf``."""
        below = (1 + torch.erf(x / math.sqrt(2))) / 2
        density = torch.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
        return below + x * density


class SiLU(nn.SiLU):
    """``x`` times its own sigmoid, also called Swish (Elfwing et al. 2017, arXiv:1702.03118).

    ::

        formula     x * s(x),  s(x) = 1 / (1 + exp(-x))
        range       [-0.278, inf), minimum at x = -1.278
        derivative  s(x) * (1 + x * (1 - s(x)))

    INT8: as GELU, with a dip 1.6 times as deep. ONNX expresses it as Sigmoid and Mul, so the sigmoid is quantized too,
    in steps of 1/255; the effect is too small to measure next to the two other quantizations.
    """

    def derivative(self, x: torch.Tensor) -> torch.Tensor:
        """Computes the slope at each ``x``."""
        s = torch.sigmoid(x)
        return s * (1 + x * (1 - s))


class Mish(nn.Mish):
    """``x`` times tanh of softplus, between SiLU and GELU (Misra 2019, arXiv:1908.08681; used in YOLOv4's backbone).

    ::

        formula     x * tanh(softplus(x)),  softplus(x) = log(1 + exp(x))
        range       [-0.309, inf), minimum at x = -1.192
        derivative  t + x * s(x) * (1 - t**2),  t = tanh(softplus(x)),  s = sigmoid

    INT8: as GELU. As a lookup table it would cost the same as the others; in float it is the most expensive.
    """

    def derivative(self, x: torch.Tensor) -> torch.Tensor:
        """Computes the slope at each ``x``."""
        t = torch.tanh(functional.softplus(x))
        return t + x * torch.sigmoid(x) * (1 - t**2)


class Hardswish(nn.Hardswish):
    """A SiLU approximation without ``exp``, for hardware without a fast one (Howard et al. 2019, arXiv:1905.02244).

    ::

        formula     x * min(max(x + 3, 0), 6) / 6
        range       [-0.375, inf), minimum at x = -1.5
        derivative  0 for x < -3, (2 * x + 3) / 6 between, 1 for x > 3

    INT8: designed for integers, but a lookup table computes SiLU at the same cost. ONNX Runtime computes it in float,
    between a dequantization and a quantization; OpenVINO and TensorRT fuse it with the previous layer.
    """

    def derivative(self, x: torch.Tensor) -> torch.Tensor:
        """Computes the slope at each ``x``."""
        return torch.where(x <= -3, torch.zeros_like(x), torch.where(x >= 3, torch.ones_like(x), (2 * x + 3) / 6))


class Softmax(nn.Softmax):
    """Maps a vector to probabilities that sum to 1; for two elements it is the sigmoid of their difference.

    ::

        formula     p[i] = exp(x[i]) / sum(exp(x[j]) for all j); the maximum is subtracted first to avoid overflow
        range       (0, 1), the sum along ``dim`` is 1
        derivative  d p[i] / d x[j] = p[i] * ((1 if i == j else 0) - p[j])

    INT8: the step is 1/255 or less. With many classes most probabilities are below half a step: they become 0, and the
    sum is no longer 1. After a layer of 32 outputs it has the lowest SNR of all functions here. Classifiers therefore
    output logits, which have the same maximum; in attention, probabilities of 0 do no harm. It reads a whole vector, so
    it cannot be a lookup table.
    """

    def derivative(self, x: torch.Tensor) -> torch.Tensor:
        """Computes the Jacobian of each vector.

        Args:
            x: vectors along the last axis, ``(..., n)``.

        Returns:
            ``(..., n, n)``: row ``i``, column ``j`` is the slope of ``p[i]`` along ``x[j]``.
        """
        p = torch.softmax(x, dim=-1)
        return torch.diag_embed(p) - p.unsqueeze(-1) * p.unsqueeze(-2)
