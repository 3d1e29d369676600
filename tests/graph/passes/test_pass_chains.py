"""Random chains of operators keep their outputs, over opsets and element types."""

from __future__ import annotations

import math

import numpy as np
import pytest
from pass_graphs import OPSETS, SHAPE, TYPES, Builder, require_unchanged


def arithmetic(b, x, shape):
    """Arithmetic with a constant of a random shape that broadcasts, on either side."""
    sizes = [size if b.random.integers(2) else 1 for size in shape]
    sizes = sizes[b.random.integers(len(sizes) + 1) :] if b.random.integers(3) else [1]
    operator = str(b.random.choice(["Add", "Sub", "Mul", "Div"]))
    constant = b.random.uniform(0.5, 2, sizes) * b.random.choice([-1, 1], sizes)
    swapped = b.random.integers(2) and operator != "Div"
    return b.op(operator, *((constant, x) if swapped else (x, constant))), shape


def turn(b, x, shape):
    order = b.random.permutation(len(shape)).tolist()
    return b.op("Transpose", x, perm=order), [shape[axis] for axis in order]


def reshape(b, x, shape):
    """A change of shape by a random one of four operators."""
    kind = b.random.integers(4)
    axis = int(b.random.integers(len(shape) + 1))
    if kind == 0:
        return b.op("Flatten", x, axis=axis), [math.prod(shape[:axis]), math.prod(shape[axis:])]
    if kind == 1 and len(shape) < 5:
        return b.with_axes("Unsqueeze", x, [axis], 13), [*shape[:axis], 1, *shape[axis:]]
    ones = [index for index, size in enumerate(shape) if size == 1]
    if kind == 2 and ones and len(shape) > 2:
        return b.with_axes("Squeeze", x, ones[:1], 13), [size for index, size in enumerate(shape) if index != ones[0]]
    sizes = [*shape[:1], -1, *shape[3:]] if len(shape) > 2 else [math.prod(shape[:1]), -1, 1]
    target = [0, *sizes[1:]] if b.random.integers(2) else sizes
    rest = abs(math.prod(shape) // math.prod(sizes))
    return b.op("Reshape", x, np.array(target)), [rest if size == -1 else size for size in sizes]


def function(b, x, shape):
    if b.random.integers(3) == 0:
        low = float(b.random.uniform(-3, 0))
        return b.clip(x, low, low + 4), shape
    return b.op(str(b.random.choice(["Relu", "Sigmoid", "Tanh", "Neg", "Abs", "LeakyRelu"])), x), shape


def average(b, x, shape):
    number = int(b.random.integers(1, len(shape) + 1))
    axes = sorted(b.random.permutation(len(shape))[:number].tolist())
    axes = [2, 3] if len(shape) == 4 and b.random.integers(2) else axes
    keep = int(b.random.integers(2)) if len(axes) < len(shape) - 1 else 1
    kept = [1 if index in axes else size for index, size in enumerate(shape) if keep or index not in axes]
    return b.mean(x, axes, keep), kept


def product(b, x, shape):
    """A product with constant weights that the shape allows, or a BatchNormalization."""
    rank, kind = len(shape), b.random.integers(3)
    if kind == 0 and rank in (3, 4):
        pads = [int(b.random.integers(2))] * (2 * (rank - 2))
        weight = b.normal(3, shape[1], *[1 + 2 * pads[0]] * (rank - 2), scale=0.4)
        return b.op("Conv", x, weight, b.normal(3), pads=pads), [shape[0], 3, *shape[2:]]
    if kind == 1:
        scale, shift, mean, variance = (b.normal(shape[1]) for _ in range(4))
        return b.op("BatchNormalization", x, scale, shift, mean, np.abs(variance) + 0.3), shape
    return b.op("MatMul", x, b.normal(shape[-1], 3, scale=0.4)), [*shape[:-1], 3]


def twice(b, x, shape):
    """A sum of what two readers, which may be equal, make of one value."""
    one, other = (function(b, x, shape)[0] for _ in range(2))
    return b.op("Add", one, other), shape


def normalize(b, x, shape):
    """A Softmax; before opset 13, it is one over all axes from ``axis`` on."""
    return b.op("Softmax", x, axis=int(b.random.integers(len(shape)))), shape


def select(b, x, shape):
    """Elements of one axis, by Gather or Slice."""
    axis = int(b.random.integers(len(shape)))
    start, step = int(b.random.integers(shape[axis])), 1 + int(b.random.integers(2))
    sizes = [*shape[:axis], len(range(start, shape[axis], step)), *shape[axis + 1 :]]
    if b.random.integers(2) or (step > 1 and b.opset < 10):
        return b.op("Gather", x, np.arange(start, shape[axis], step), axis=axis), sizes
    if b.opset < 10:
        return b.op("Slice", x, axes=[axis], starts=[start], ends=[99]), sizes
    return b.op("Slice", x, *map(np.array, ([start], [99], [axis], [step]))), sizes


def join(b, x, shape):
    axis = int(b.random.integers(len(shape)))
    other, _ = function(b, x, shape)
    return b.op("Concat", x, other, axis=axis), [*shape[:axis], 2 * shape[axis], *shape[axis + 1 :]]


def window(b, x, shape):
    """A Pad, with zeros or the lowest number, and a pooling, whose last window may hang over the edge."""
    rank = len(shape) - 2
    if rank not in (1, 2) or min(shape[2:]) < 3:
        return function(b, x, shape)
    sizes = list(shape)
    operator = str(b.random.choice(["MaxPool", "AveragePool"]))
    if b.random.integers(2):
        pads = b.random.integers(0, 2, 2 * rank).tolist()
        sizes[2:] = [size + pads[axis] + pads[axis + rank] for axis, size in enumerate(sizes[2:])]
        full = [0, 0, *pads[:rank], 0, 0, *pads[rank:]]
        fill = -math.inf if operator == "MaxPool" and b.random.integers(2) else 0.0
        x = b.op("Pad", x, np.array(full), fill) if b.opset >= 11 else b.op("Pad", x, pads=full, value=fill)
    up = int(b.random.integers(2)) if b.opset >= 10 else 0
    attributes = {"ceil_mode": up} if b.opset >= 10 else {}
    sizes[2:] = [-((2 - size) // 2) + 1 if up else (size - 2) // 2 + 1 for size in sizes[2:]]
    return b.op(operator, x, kernel_shape=[2] * rank, strides=[2] * rank, **attributes), sizes


STEPS = (
    *(arithmetic, arithmetic, arithmetic, turn, turn, reshape, reshape, function, average, product, product, twice),
    *(normalize, select, join, window, window),
)
CHAIN = 7


@pytest.mark.parametrize("seed", range(40))
def test_random_chains_are_unchanged(run_in_onnxruntime, tmp_path, seed):
    choice = np.random.default_rng(seed)
    opset, dtype = int(choice.choice(OPSETS)), TYPES[str(choice.choice(list(TYPES)))]
    b = Builder(opset, dtype, ["n", *SHAPE[1:]] if seed % 2 else SHAPE, seed)
    x, shape = "x", list(SHAPE)
    for _ in range(CHAIN):
        x, shape = STEPS[b.random.integers(len(STEPS))](b, x, shape)
    require_unchanged(run_in_onnxruntime, b.model(x), tmp_path)
