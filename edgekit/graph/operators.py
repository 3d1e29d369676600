"""Which of ONNX's and ONNX Runtime's operators are convolutions and matrix products, and which select by value."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = [
    "BIASED_PRODUCTS",
    "ELEMENTWISE_BINARY",
    "ELEMENTWISE_UNARY",
    "INTEGER_PRODUCTS",
    "INTEGER_RECURRENT",
    "MOVES",
    "PRODUCTS",
    "RANDOM",
    "RECURRENT",
    "SELECTING",
    "needs_its_layout",
    "uses_quantized_values",
]

PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
"""Of floats; of integers where both factors come from DequantizeLinear and the backend fuses the two."""

BIASED_PRODUCTS = PRODUCTS - {"MatMul"}
"""Those whose third input is a bias."""

MOVES = frozenset({"Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
"""Place each element of one input elsewhere."""

INTEGER_PRODUCTS = frozenset(
    "QLinearConv QLinearMatMul QGemm ConvInteger MatMulInteger MatMulIntegerToFloat DynamicQuantizeMatMul "
    "QAttention".split()
)
"""What multiplies integers and nothing else: ONNX Runtime's fused operators, and what other quantizers write."""

RECURRENT = frozenset({"GRU", "LSTM", "RNN"})
"""Layers whose products multiply floats, step by step."""

INTEGER_RECURRENT = frozenset({"DynamicQuantizeLSTM"})
"""Recurrent layers whose products multiply integers."""

RANDOM = frozenset(
    "Bernoulli Dropout Multinomial RandomNormal RandomNormalLike RandomUniform RandomUniformLike".split()
)
"""Operators that draw random numbers, other ones in each run; Dropout while training."""

SELECTING = frozenset({"NonMaxSuppression", "NonZero", "TopK", "Unique"})
"""Operators that select by value."""

ELEMENTWISE_UNARY = frozenset(
    "Abs Cast Ceil Clip Elu Erf Exp Floor Gelu HardSigmoid HardSwish LeakyRelu Log Mish Neg Reciprocal Relu Round Selu "
    "Sigmoid Softplus Sqrt Tanh".split()
)
"""Operators on each element of their first input; further ones are numbers."""

ELEMENTWISE_BINARY = frozenset({"Add", "Div", "Max", "Min", "Mul", "Pow", "Sub"})
"""Operators on pairs of elements, which broadcast."""

_QUANTIZED = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"})


def needs_its_layout(node: ir.Node) -> bool:
    """Whether ONNX Runtime (1.32) computes it in one layout only, and yet moves Transposes across it.

    It takes the numbers of a Resize or Pad for those of all axes, whatever the operator's ``axes`` are, and
    interpolates cubically with channels first only: a graph whose Transposes were moved does not load, or fails when it
    runs.
    """
    if node.op_type == "Pad":
        return len(node.inputs) > 3 and node.inputs[3] is not None
    attributes = node.attributes
    return node.op_type == "Resize" and ("axes" in attributes or attributes.get_string("mode", "nearest") == "cubic")


def uses_quantized_values(node: ir.Node) -> bool:
    """Whether the operator reads or writes quantized values."""
    return (
        node.op_type in _QUANTIZED
        or node.op_type.startswith(("QLinear", "QGemm", "QAttention", "DynamicQuantize"))
        or node.op_type.endswith(("Integer", "IntegerToFloat", "NBits", "Bnb4", "BlockQuantized"))
    )
