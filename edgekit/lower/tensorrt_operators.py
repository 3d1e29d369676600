"""Rewrites graphs so that TensorRT can build them."""

from __future__ import annotations

import onnx_ir as ir

from edgekit.lower.float_biases import FloatBiases
from edgekit.lower.float_bytes import FloatBytes
from edgekit.lower.float_moves import FloatMoves
from edgekit.lower.norm_of_one_element import NormOfOneElement
from edgekit.lower.qlinear_as_qdq import QLinearAsQdq
from edgekit.lower.rewriting import lower
from edgekit.lower.signed_integers import SignedIntegers
from edgekit.lower.spread_kernel import SpreadKernel

__all__ = ["use_tensorrt_operators"]


def use_tensorrt_operators(model: ir.Model) -> bool:
    """Replaces operators that TensorRT does not have, or fails to build; returns whether anything was replaced.

    TensorRT reads graphs with its own parser, also where onnx_ir is not installed, so this is done before a graph is
    written.
    """
    integers = [QLinearAsQdq(), SignedIntegers(), FloatMoves(), FloatBiases(), FloatBytes()]
    return lower(model, [*integers, NormOfOneElement(), SpreadKernel()])
