"""Tells trained weights from those of an initialization, which are independent random numbers."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from edgekit.graph.operators import PRODUCTS

__all__ = ["has_random_weights"]

FEWEST_NUMBERS = 4096
FEWEST_SIDE = 8
FEWEST_MATRICES = 3
"""Smaller matrices, and fewer of them, do not tell."""
ROWS, COLUMNS = 256, 1024
"""Part of a matrix that is looked at: a part of independent numbers is independent too."""
INDEPENDENT = 1.05
"""Largest singular value, relative to its limit for independent numbers, that still counts as theirs."""
RANDOM_SHARE = 0.9
"""Share of the matrices that have to be random: some constants of a graph, such as positions, are no weights."""


def has_random_weights(graph: ir.Model) -> bool:
    """Whether the convolutions and matrix products of a graph still have the weights of their initialization.

    The largest singular value of an m x n matrix of independent numbers with variance 1 is near sqrt(m) + sqrt(n),
    whatever their distribution (Bai and Yin 1993, doi:10.1214/aop/1176989118). Training aligns the rows of a matrix, so
    that it has larger ones (Martin and Mahoney 2021, JMLR 22:165). Rows are first divided by their root mean square:
    batch normalization is often folded into them.

    Args:
        graph: a float graph whose weights are initializers.

    Returns:
        False if there are too few large matrices to tell.
    """
    found = []
    for node in graph.graph:
        if node.op_type not in PRODUCTS:
            continue
        for value in node.inputs[:2]:
            if value is not None and value.const_value is not None and value.const_value.size >= FEWEST_NUMBERS:
                rows = _rows(value.const_value.numpy(), node)
                if min(rows.shape) >= FEWEST_SIDE:
                    found.append(_is_independent(rows))
    return len(found) >= FEWEST_MATRICES and sum(found) >= RANDOM_SHARE * len(found)


def _rows(weights: np.ndarray, node: ir.Node) -> np.ndarray:
    """Returns a part of the weights, with an output in each row of root mean square 1; without those that are zero."""
    if weights.ndim < 2 or weights.dtype.kind != "f":
        return np.empty((0, 0))
    if node.op_type == "ConvTranspose":
        weights = weights.swapaxes(0, 1)
    elif node.op_type == "MatMul" or (node.op_type == "Gemm" and not node.attributes.get_int("transB", 0)):
        weights = weights.reshape(-1, weights.shape[-1]).T
    part = weights[:ROWS].reshape(min(ROWS, len(weights)), -1)[:, :COLUMNS].astype(np.float64)
    sizes = np.sqrt(np.square(part).mean(axis=1))
    usable = np.isfinite(sizes) & (sizes > 0)
    rows: np.ndarray = part[usable] / sizes[usable, None]
    return rows


def _is_independent(rows: np.ndarray) -> bool:
    products = rows @ rows.T if len(rows) <= rows.shape[1] else rows.T @ rows
    largest = math.sqrt(np.linalg.eigvalsh(products)[-1])
    return largest <= INDEPENDENT * (math.sqrt(rows.shape[0]) + math.sqrt(rows.shape[1]))
