"""Corrects biases for the mean error that quantization causes in each output channel of a product.

A product of rounded weights W' and rounded inputs x' differs from that of W and x by W'x' - Wx. The mean of this error
over pixels is not zero: a channel's weights are rounded up more than down, and small values of a tensor, such as those
of a SiLU below zero, are all rounded to the same side. Its expectation ``W' E[x'] - W E[x]`` is a constant for each
output channel, which the bias can subtract (Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias
Correction", ICCV 2019, section 4.2, which corrects the rounding of weights; here it is that of inputs too).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgekit.graph.evaluator import Evaluator
from edgekit.graph.operators import BIASED_PRODUCTS
from edgekit.quantize.spread_feeds import spread_feeds
from edgekit.quantize.tensor_threads import each_tensor

__all__ = ["InputMeans", "Limits", "input_means", "output_shift"]

INPUTS = 4
"""Number of inputs that means are computed on. Of a YOLOv8n, 1 and 16 gave the same accuracy."""


@dataclass(frozen=True)
class Limits:
    """How a tensor is rounded: to multiples of ``step``, from ``lowest * step`` to ``highest * step``."""

    step: float
    lowest: int
    highest: int


@dataclass(frozen=True)
class InputMeans:
    """Mean of each input channel of a product, of the float values and of the rounded ones: float64 ``(inputs, C)``."""

    exact: np.ndarray
    rounded: np.ndarray


def input_means(
    graph: ir.Model,
    limits: Mapping[ir.Node, Limits],
    feeds: Sequence[Mapping[str, np.ndarray]],
    *,
    threads: int = 0,
) -> dict[ir.Node, InputMeans]:
    """Computes the means of the inputs of products, over `INPUTS` of ``feeds``.

    Args:
        graph: the float graph; it is run and not modified.
        limits: how the first input of each product will be rounded.
        feeds: arrays by input name.
        threads: for ONNX Runtime; 0: its default.

    Returns:
        The means, without products whose inputs have infinite values.
    """
    chosen = spread_feeds(feeds, INPUTS)
    products = {node: rounding for node, rounding in limits.items() if _is_correctable(node)}
    if not chosen or not products:
        return {}
    given = {value.name for value in graph.graph.inputs}
    names = {node: str(node.inputs[0].name) for node in products if node.inputs[0] is not None}
    # Of so few runs, optimizing and packing take more time than they save: of a YOLOv3, 1.2 s instead of 0.9.
    evaluator = Evaluator(graph, also=sorted(set(names.values()) - given), threads=threads, packed=False)
    found: dict[ir.Node, list[tuple[np.ndarray, np.ndarray]]] = {node: [] for node in names}
    keys = list(dict.fromkeys((name, products[node]) for node, name in names.items()))
    for arrays in chosen:
        arrays = dict(arrays)
        values = {**arrays, **evaluator.run(arrays)}
        tensors = [values[name] for name, _ in keys]
        means = each_tensor(lambda tensor, index: _means(tensor, keys[index][1]), tensors, threads=threads)
        seen = dict(zip(keys, means, strict=True))
        for node, name in names.items():
            found[node].append(seen[name, products[node]])
    stacked = {node: InputMeans(*map(np.stack, zip(*pairs, strict=True))) for node, pairs in found.items()}
    return {node: means for node, means in stacked.items() if np.isfinite(means.exact).all()}


def output_shift(node: ir.Node, weight: np.ndarray, quantized: np.ndarray, means: InputMeans) -> np.ndarray | None:
    """Computes by how much quantization changes the mean of each output channel of a product.

    What differs from input to input is no constant, and is left out: the mean s with the standard error e counts
    ``1 - e² / s²`` times (the positive-part estimator of James and Stein, 1961). Otherwise, products of a few vectors
    around zero would become worse.

    It is exact for kernels of one weight. For others it neglects that zeros at the borders are part of the input.

    Args:
        node: a Conv, ConvTranspose of one group, or Gemm, with a first input ``(N, C, ...)``.
        weight: its float weight.
        quantized: the weight that the engine computes with, as real numbers, of the same shape.
        means: those of its input.

    Returns:
        float64, ``(c_out,)``; None if the channels of the input are not those of the weight.
    """
    before, after = _sums_of_kernels(node, weight), _sums_of_kernels(node, quantized)
    outputs, channels = before.shape
    groups = node.attributes.get_int("group", 1) if node.op_type == "Conv" else 1
    if means.exact.shape[1] != channels * groups:
        return None
    exact, rounded = (mean.reshape(-1, groups, channels, 1) for mean in (means.exact, means.rounded))
    before, after = (sums.reshape(groups, outputs // groups, channels) for sums in (before, after))
    return _constant_part((after @ rounded - before @ exact).reshape(-1, outputs))


def _constant_part(shifts: np.ndarray) -> np.ndarray:
    """Returns the mean of ``(inputs, c_out)`` over inputs, reduced by its uncertainty."""
    mean = shifts.mean(0)
    if len(shifts) == 1:
        return np.asarray(mean)
    error = shifts.var(0, ddof=1) / len(shifts)
    square = np.square(mean)
    return np.asarray(mean * np.maximum(1.0 - error / np.where(square > 0, square, np.inf), 0.0))


def _sums_of_kernels(node: ir.Node, weight: np.ndarray) -> np.ndarray:
    """Returns what a constant input channel adds to each output channel, float64 ``(c_out, c_in)``."""
    if node.op_type == "Gemm":
        matrix = weight.astype(np.float64)
        return matrix if node.attributes.get_int("transB", 0) else matrix.T
    kernels = weight.reshape(-1, math.prod(weight.shape[2:]))
    # A product with ones takes a tenth of the time of a sum over so short an axis.
    sums = (kernels @ np.ones(kernels.shape[1], weight.dtype)).astype(np.float64).reshape(weight.shape[:2])
    if node.op_type == "Conv":
        return np.asarray(sums)
    # An output pixel sees one of every stride's weights.
    return np.asarray(sums.T / math.prod(node.attributes.get_ints("strides", ())))


def _is_correctable(node: ir.Node) -> bool:
    weight, bias = node.inputs[1], node.inputs[2] if len(node.inputs) > 2 else None
    if node.op_type not in BIASED_PRODUCTS or weight is None or weight.const_value is None:
        return False
    return bias is None or bias.const_value is not None


def _means(array: np.ndarray, limits: Limits) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean of each channel, before and after rounding."""
    rows = array.reshape(*array.shape[:2], -1)
    steps = np.multiply(rows, np.float32(1.0 / limits.step))
    exact = rows.mean(2).mean(0, dtype=np.float64)
    np.clip(np.rint(steps, out=steps), limits.lowest, limits.highest, out=steps)
    return exact, steps.mean(2).mean(0, dtype=np.float64) * limits.step
