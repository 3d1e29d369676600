"""Activation functions: what stands between two layers, without which any number of them would be one.

Each is torch's module of that name, with its derivative as code. Where a docstring says what INT8 makes of it:

- A tensor's range is cut into 255 steps of equal size, and a rounded number is wrong by half a step at most. So it is
  not the formula that costs accuracy, but the range of what goes in and comes out, and how much of it is rarely used.
- What goes in is rounded as well as what comes out, over a range of which most functions here throw away the negative
  half. ReLU alone is spared that: rounding cuts off what lies outside of the range, and does its work. Measured after
  the next layer, that is 1 to 3 dB between ReLU and the others.
- A function of one number is, on integers, a table of 256 entries: however much its formula costs in float, it costs
  the same there. Where a target has no such table, integers become floats before it and integers again after it.

The signal to noise of each, between two layers on the target ``cpu``, is in ``tests/models/test_activations.py``.
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
    """A probability out of any number: 0.5 at 0.

    ::

        formula     s(x) = 1 / (1 + exp(-x))
        range       (0, 1)
        derivative  s(x) * (1 - s(x)), at most 1/4

    The derivative is why deep stacks of it could not be trained: ten of them multiply the gradient by less than one
    millionth.

    INT8: the range is known before anything is calibrated, and the step is 1/255. Probabilities below 1/510 become 0,
    and those above 1 - 1/510 become 1: a detector's scores are better computed in float.
    """

    def derivative(self, x: torch.Tensor) -> torch.Tensor:
        """Slope at each ``x``."""
        s = torch.sigmoid(x)
        return s * (1 - s)


class Tanh(nn.Tanh):
    """The sigmoid, stretched to stand evenly around zero (LeCun et al. 1998 train LeNet-5 with it).

    ::

        formula     tanh(x) = (exp(x) - exp(-x)) / (exp(x) + exp(-x)) = 2 * sigmoid(2 * x) - 1
        range       (-1, 1)
        derivative  1 - tanh(x)**2, at most 1

    INT8: the range is known, the step is 2/255, and both ends saturate: beyond +-3.2 all is the same.
    """

    def derivative(self, x: torch.Tensor) -> torch.Tensor:
        """Slope at each ``x``."""
        return 1 - torch.tanh(x) ** 2


class ReLU(nn.ReLU):
    """Nothing below zero, everything above (Nair and Hinton 2010; by AlexNet's paper it learns six times as fast).

    ::

        formula     max(0, x)
        range       [0, inf)
        derivative  0 for x < 0, 1 for x > 0; 0 is taken at 0, where there is none

    INT8: free. Where the zero point is the least integer, rounding into the range cuts off what is negative, and all
    256 integers are left for what is not.
    """

    def derivative(self, x: torch.Tensor) -> torch.Tensor:
        """Slope at each ``x``."""
        return (x > 0).to(x.dtype)


class LeakyReLU(nn.LeakyReLU):
    """A ReLU that is never quite dead: a little gets through below zero (Maas et al. 2013; Darknet's is 0.1).

    ::

        formula     x for x >= 0, slope * x for x < 0
        range       (-inf, inf)
        derivative  1 for x > 0, slope for x < 0; the slope is taken at 0, where there is none

    INT8: below zero ten numbers that were a step apart before it share one step after it. Where a target has a table
    for it (ONNX Runtime), it is rounded on both sides and costs 2.5 dB against ReLU; where it is computed with the
    layer before it (OpenVINO, TensorRT), on one side only.
    """

    def derivative(self, x: torch.Tensor) -> torch.Tensor:
        """Slope at each ``x``."""
        return torch.where(x > 0, torch.ones_like(x), torch.full_like(x, self.negative_slope))


class PReLU(nn.PReLU):
    """A LeakyReLU whose slope is learned, one for all channels or one a channel (He et al. 2015, arXiv:1502.01852).

    ::

        formula     x for x >= 0, slope[channel] * x for x < 0
        range       (-inf, inf)
        derivative  1 for x > 0, slope[channel] for x < 0; the slope is taken at 0, where there is none

    INT8: as LeakyReLU; but a table for each channel is none that ONNX Runtime has, so that it is computed in float.
    A channel whose slope is greater than 1 or negative can take the range from all others.
    """

    def derivative(self, x: torch.Tensor) -> torch.Tensor:
        """Slope at each ``x``; the channels are the second axis."""
        slope = self.weight.view(1, -1, *[1] * (x.dim() - 2)) if x.dim() > 1 else self.weight
        return torch.where(x > 0, torch.ones_like(x), slope.expand_as(x))


class GELU(nn.GELU):
    """``x`` times the probability that a normal number is less (Hendrycks and Gimpel 2016, arXiv:1606.08415).

    ::

        formula     x * P(x),  P(x) = (1 + erf(x / sqrt(2))) / 2
        range       [-0.170, inf), least at x = -0.752
        derivative  P(x) + x * p(x),  p(x) = exp(-x**2 / 2) / sqrt(2 * pi)

    INT8: the dip below zero is all that tells it from a ReLU, and in a range that reaches up to 20 its 0.17 are two
    steps. What goes in needs a sign; what comes out spends almost none of its integers on one.
    """

    def derivative(self, x: torch.Tensor) -> torch.Tensor:
        """Slope at each ``x``, of the formula with ``erf``."""
        below = (1 + torch.erf(x / math.sqrt(2))) / 2
        density = torch.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
        return below + x * density


class SiLU(nn.SiLU):
    """``x`` times its own sigmoid, also called Swish (Elfwing et al. 2017, arXiv:1702.03118).

    ::

        formula     x * s(x),  s(x) = 1 / (1 + exp(-x))
        range       [-0.278, inf), least at x = -1.278
        derivative  s(x) * (1 + x * (1 - s(x)))

    INT8: as GELU, with a dip half as deep again. ONNX writes it as a Sigmoid and a Mul, so that the sigmoid is rounded
    too, to 1/255, before the product is; next to the two other roundings that cannot be measured.
    """

    def derivative(self, x: torch.Tensor) -> torch.Tensor:
        """Slope at each ``x``."""
        s = torch.sigmoid(x)
        return s * (1 + x * (1 - s))


class Mish(nn.Mish):
    """Between SiLU and GELU, by one more step (Misra 2019, arXiv:1908.08681; YOLOv4's backbone has it).

    ::

        formula     x * tanh(softplus(x)),  softplus(x) = log(1 + exp(x))
        range       [-0.309, inf), least at x = -1.192
        derivative  t + x * s(x) * (1 - t**2),  t = tanh(softplus(x)),  s = sigmoid

    INT8: as GELU. On integers it would be the same table as the others; in float it is the dearest of all.
    """

    def derivative(self, x: torch.Tensor) -> torch.Tensor:
        """Slope at each ``x``."""
        t = torch.tanh(functional.softplus(x))
        return t + x * torch.sigmoid(x) * (1 - t**2)


class Hardswish(nn.Hardswish):
    """SiLU out of straight lines, for machines without a fast ``exp`` (Howard et al. 2019, arXiv:1905.02244).

    ::

        formula     x * min(max(x + 3, 0), 6) / 6
        range       [-0.375, inf), least at x = -1.5
        derivative  0 for x < -3, (2 * x + 3) / 6 between, 1 for x > 3

    INT8: made for it, and yet a table serves a SiLU as well: here its gain is gone. ONNX Runtime computes it in float
    between integers; OpenVINO and TensorRT with the product before it.
    """

    def derivative(self, x: torch.Tensor) -> torch.Tensor:
        """Slope at each ``x``."""
        return torch.where(x <= -3, torch.zeros_like(x), torch.where(x >= 3, torch.ones_like(x), (2 * x + 3) / 6))


class Softmax(nn.Softmax):
    """Probabilities that sum to 1 out of a vector of any numbers; with two of them, the sigmoid of their difference.

    ::

        formula     p[i] = exp(x[i]) / sum(exp(x[j]) for all j); the greatest x is subtracted first, or exp overflows
        range       (0, 1), the sum along ``dim`` is 1
        derivative  d p[i] / d x[j] = p[i] * ((1 if i == j else 0) - p[j])

    INT8: the step is 1/255 or less, and of many classes most are below half of that: their probabilities become 0 and
    the sum is no longer 1. Behind a layer of 32 numbers it has the least signal to noise of all functions here. A
    classifier is therefore asked for its logits, whose greatest is the same; in attention, the zeros are what it means
    to say. It reads a whole vector, so that no table can stand for it.
    """

    def derivative(self, x: torch.Tensor) -> torch.Tensor:
        """The Jacobian of each vector.

        Args:
            x: vectors along the last axis, ``(..., n)``.

        Returns:
            ``(..., n, n)``: row ``i``, column ``j`` is the slope of ``p[i]`` along ``x[j]``.
        """
        p = torch.softmax(x, dim=-1)
        return torch.diag_embed(p) - p.unsqueeze(-1) * p.unsqueeze(-2)
