"""Folds constant expressions into initializers."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

import onnx_ir as ir
from onnx_ir.passes.common import LiftConstantsToInitializersPass

__all__ = ["FoldConstants"]

_MAX_ELEMENTS = 1 << 20
"""Attention masks and position encodings are smaller and are folded; large weights written as one repeated number, as
in ONNX's own test models, stay short expressions."""


class FoldConstants(ir.passes.InPlacePass):
    """Folds constant expressions and converts Constant nodes to initializers, with onnxscript's pass.

    Args:
        max_elements: nodes with larger inputs or outputs are not folded.

    Preconditions: shapes have been inferred (`InferShapes`), so that ``Shape`` of a static value folds.
    Postconditions: no Constant node is left in the main graph; no new initializer has more than ``max_elements``,
        unless it replaces one as large. Q/DQ pairs and random numbers are not folded.
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
            )
        modified = lift(model).modified or folded.modified or modified
        return ir.passes.PassResult(model, modified=modified)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Suppresses onnxscript's log messages about operators that are not folded."""
    logger = logging.getLogger("onnxscript.optimizer")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
