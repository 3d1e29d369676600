"""Computes what does not depend on any input, once, and keeps the result as an initializer."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

import onnx_ir as ir
from onnx_ir.passes.common import LiftConstantsToInitializersPass

__all__ = ["FoldConstants"]

_LARGEST_ELEMENTS = 1 << 20
"""Tables for attention masks and position codes stay below; weights written as one repeated number, as in ONNX's
own test models, stay the short expression that they are."""


class FoldConstants(ir.passes.InPlacePass):
    """Folds constant expressions and turns Constant nodes into initializers, by onnxscript's own pass.

    Args:
        largest_elements: what reads or gives more than this stays.

    Preconditions: shapes have been inferred (`InferShapes`), so that ``Shape`` of a static value folds.
    Postconditions: no Constant node is left in the main graph; no result of more elements has been
        made, unless it replaces as many. Q/DQ pairs and random numbers are not folded.
    """

    def __init__(self, largest_elements: int = _LARGEST_ELEMENTS) -> None:
        super().__init__()
        self._largest_elements = largest_elements

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        # The process of a builder imports this package too, and has no use for onnxscript: 0.15 s to import.
        from onnxscript.optimizer import fold_constants_ir

        lift = LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)
        modified = lift(model).modified
        with _silence():
            folded = fold_constants_ir(
                model,
                onnx_shape_inference=False,
                input_size_limit=self._largest_elements,
                output_size_limit=self._largest_elements,
            )
        modified = lift(model).modified or folded.modified or modified
        return ir.passes.PassResult(model, modified=modified)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keeps remarks on operators that stay as they are from the user's screen."""
    logger = logging.getLogger("onnxscript.optimizer")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
