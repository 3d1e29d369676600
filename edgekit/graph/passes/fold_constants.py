"""Folds constant expressions into initializers."""

from __future__ import annotations

import contextlib
import logging
import math
import time
import warnings
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import LiftConstantsToInitializersPass

from edgekit.graph.operators import MOVES, PRODUCTS

__all__ = ["FoldConstants"]

_MAX_ELEMENTS = 1 << 20
"""Attention masks and position encodings are smaller and are folded; large weights written as one repeated number, as
in ONNX's own test models, stay short expressions."""


_MAX_TOTAL_ELEMENTS = 1 << 26
_MAX_SECONDS = 30.0
"""Limits of one pass: a graph of constants may compute for as long as it likes."""

_GROWING = frozenset("CenterCropPad ConstantOfShape Expand EyeLike OneHot Pad Range Resize Tile Upsample".split())
"""Operators whose output can be large although their inputs are small."""
_SLOW = frozenset(
    "AffineGrid AveragePool Conv ConvInteger ConvTranspose Col2Im DFT DeformConv Einsum GRU GlobalAveragePool "
    "GlobalMaxPool GridSample LSTM LpPool MaxPool MaxRoiPool MaxUnpool NonMaxSuppression QLinearConv RNN Resize "
    "RoiAlign STFT StringNormalizer TfIdfVectorizer TopK Unique Upsample".split()
)
"""Operators that onnx's reference evaluator computes in loops of Python."""
_MAX_SLOW_ELEMENTS = 1 << 12
_BYTES = frozenset({ir.DataType.INT8, ir.DataType.UINT8})
_MAX_RANK = 64
_MAX_FILLED_ELEMENTS = 1 << 12
"""onnxscript leaves ConstantOfShape, which may stand for a large weight. Small ones are pads and sizes, on which the
shapes of what follows depend."""


class FoldConstants(ir.passes.InPlacePass):
    """Folds constant expressions and converts Constant nodes to initializers, with onnxscript's pass.

    Args:
        max_elements: nodes with larger inputs or outputs are not folded.

    Preconditions: shapes have been inferred (`InferShapes`), so that ``Shape`` of a static value folds.
    Postconditions: no Constant node is left in the main graph; no new initializer has more than ``max_elements``,
        unless it replaces one as large. A QuantizeLinear of float32 weights is folded; a DequantizeLinear and random
        numbers are not. A node whose output is large, or of unknown size although it can be large, is not computed at
        all; nor is one after the limits of a pass.
    """

    def __init__(self, max_elements: int = _MAX_ELEMENTS) -> None:
        super().__init__()
        self._max_elements = max_elements

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        # The process of a builder imports this package too, and has no use for onnxscript: 0.15 s to import.
        from onnxscript.optimizer import fold_constants_ir

        lift = LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)
        modified = lift(model).modified
        with _silence():
            folded = fold_constants_ir(
                model,
                onnx_shape_inference=False,
                input_size_limit=self._max_elements,
                output_size_limit=self._max_elements,
                should_fold=_Budget(self._max_elements).allows,
            )
        modified = lift(model).modified or folded.modified or modified
        return ir.passes.PassResult(model, modified=modified)


class _Budget:
    """What one pass may compute; sizes are judged before a node runs."""

    def __init__(self, max_elements: int) -> None:
        self._max_elements = max_elements
        self._elements = 0
        self._deadline = time.monotonic() + _MAX_SECONDS

    def allows(self, node: ir.Node) -> bool | None:
        """Returns whether to compute a node; None leaves it to onnxscript's own rules."""
        sizes = [_size(value) for value in node.outputs]
        if None in sizes and node.op_type in _GROWING:
            sizes = [_largest_size(node)]
        known = [size for size in sizes if size is not None]
        if not known and node.op_type in _GROWING:
            return False  # after the next shape inference its size is known
        if known and max(known) > self._max_elements and not _replaces_as_large(node, max(known)):
            return False
        read = sum(_size(value) or 0 for value in node.inputs if value is not None)
        if node.op_type in _SLOW and read + sum(known) > _MAX_SLOW_ELEMENTS:
            return False
        if node.op_type in PRODUCTS and read * max(known, default=1) > _MAX_TOTAL_ELEMENTS:
            return False
        self._elements += sum(known)
        if self._elements > _MAX_TOTAL_ELEMENTS or time.monotonic() >= self._deadline:
            return False
        if node.op_type == "QuantizeLinear":
            return _quantizes_weights(node)
        if node.op_type in MOVES and _moves_weight(node):
            return True
        return True if node.op_type == "ConstantOfShape" and sum(known) <= _MAX_FILLED_ELEMENTS else None


def _size(value: ir.Value) -> int | None:
    """Returns the number of elements of a value, if it is known."""
    if value.const_value is not None:
        return int(value.const_value.size)
    if value.shape is None or not value.shape.is_static():
        return None
    return math.prod(value.shape.numpy())


def _quantizes_weights(node: ir.Node) -> bool:
    """Whether a QuantizeLinear makes integers from float32 constants, which numpy rounds as ONNX Runtime does.

    Files of quantization-aware training and for TensorRT have float weights before their Q/DQ pairs. What chooses the
    kernels of a product looks at its integers.
    """
    weight, scale = node.inputs[:2]
    are_float32 = all(value is not None and value.dtype == ir.DataType.FLOAT for value in (weight, scale))
    return are_float32 and node.outputs[0].dtype in _BYTES and not node.attributes.get_int("block_size", 0)


def _largest_size(node: ir.Node) -> int | None:
    """Returns a bound of the elements that a node with constant inputs makes; None if it is not known."""
    constants = [value.const_value for value in node.inputs if value is not None and value.const_value is not None]
    if node.op_type == "Range" and len(constants) == 3:
        start, limit, delta = (float(constant.numpy().reshape(-1)[0]) for constant in constants)
        return math.ceil(abs((limit - start) / delta)) if delta else None
    if node.op_type in ("ConstantOfShape", "Expand", "Tile") and constants and constants[-1].size <= _MAX_RANK:
        elements = constants[0].size if len(constants) > 1 else 1
        return int(elements) * math.prod(int(size) for size in constants[-1].numpy().reshape(-1))
    return None


def _replaces_as_large(node: ir.Node, elements: int) -> bool:
    return any(value is not None and (_size(value) or 0) >= elements for value in node.inputs)


def _moves_weight(node: ir.Node) -> bool:
    """Whether a node gives a constant that nothing else reads another shape: onnxscript leaves that of a large one."""
    data = node.inputs[0]
    return data is not None and data.const_value is not None and len(data.uses()) == 1 and not data.is_graph_output()


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Suppresses log messages about operators that are not folded, and numpy's warnings of infinities and NaN."""
    loggers = [logging.getLogger(name) for name in ("onnxscript.optimizer", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
