"""Replaces the arithmetic of a GELU by the operator."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from edgekit.graph.arithmetic import is_close, polynomial, replaced, scaled_by, sole_reader, with_number

__all__ = ["RecognizeGelu"]

_OPSET = 20
_MAX_NODES = 6
_ROOT, _CUBIC = math.sqrt(2 / math.pi), 0.044715


def _half(number: float) -> float:
    return float(np.float16(number))


_FORMS: dict[str, tuple[str, tuple[tuple[float, ...], ...]]] = {
    "Erf": ("none", ((0.0, math.sqrt(0.5)), (0.0, _half(math.sqrt(0.5))), (0.0, 1 / _half(math.sqrt(2))))),
    "Tanh": ("tanh", ((0.0, _ROOT, 0.0, _ROOT * _CUBIC), (0.0, _half(_ROOT), 0.0, _half(_ROOT) * _half(_CUBIC)))),
}
"""``approximate`` of ONNX's Gelu, and the polynomials of the input that the function may read: exact, and with the
constants of FP16 files, which move the result by less than -80 dB."""


class RecognizeGelu(ir.passes.InPlacePass):
    """Replaces ``0.5 * x * (1 + erf(x / sqrt(2)))``, and its form with ``tanh``, by ``Gelu``.

    The factors may be in any order, and the polynomial in the ``tanh`` in any form (Hendrycks and Gimpel, "Gaussian
    Error Linear Units", 2016). Measured alone on ONNX Runtime, the form with ``tanh`` takes a third of the time as one
    operator, that with ``erf`` 0.9, on OpenVINO both 0.9 to 1.0.

    Preconditions: Constant nodes have been converted (`FoldConstants`); values have their ranks; the opset is 20 or
        newer, else nothing is changed.
    Postconditions: no such expression of one value is left whose parts nothing else reads. The Gelu has the name and
        the output of its last node. Nodes that nothing reads any more are left to `RemoveDead`.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        if model.opset_imports.get("", 0) < _OPSET:
            return ir.passes.PassResult(model, modified=False)
        cores = [node for node in model.graph.all_nodes() if node.op_type in _FORMS and node.domain == ""]
        return ir.passes.PassResult(model, modified=any([_replace(core) for core in cores]))


def _replace(core: ir.Node) -> bool:
    approximate, expected = _FORMS[core.op_type]
    value, factor, offset = core.outputs[0], 1.0, 0.0
    x: ir.Value | None = None
    for _ in range(_MAX_NODES):
        node = sole_reader(value)
        if node is None:
            return False
        step = with_number(node, value)
        if step is not None:
            factor, offset = factor * step[0], offset * step[0] + step[1]
        elif node.op_type == "Mul" and x is None and is_close(offset, abs(factor)):
            other = node.inputs[1] if node.inputs[0] is value else node.inputs[0]
            # Both functions are odd: of a negative input, as in Keras' erfc(-x / sqrt(2)), they are subtracted.
            x, scale = _gated(core.inputs[0], other, expected, math.copysign(1.0, factor))
            factor, offset = abs(factor) * scale, offset * scale
        else:
            return False
        value = node.outputs[0]
        if x is not None and is_close(factor, 0.5) and is_close(offset, 0.5):
            return replaced(node, "Gelu", [x], {"approximate": approximate}) is not None
    return False


def _gated(
    source: ir.Value | None, other: ir.Value | None, expected: tuple[tuple[float, ...], ...], sign: float
) -> tuple[ir.Value | None, float]:
    """Returns ``x`` and ``s`` with ``other = s * x``, if ``sign * source`` is one of the polynomials of ``x``."""
    for x, scale in scaled_by(other) if other is not None else ():
        found = [sign * number for number in polynomial(source, x) or ()]
        if any(len(found) == len(each) and all(map(is_close, found, each)) for each in expected):
            return x, scale
    return None, 0.0
