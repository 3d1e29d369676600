"""Small ONNX graphs with explicit types: half precision, and Q/DQ pairs with half-precision scales."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

HALF = """
g (float[{batch}, 4, 8, 8] images) => (float[{batch}, 6, 8, 8] head) {{
    x = Cast <to = 10> (images)
    body = Conv <pads = [1, 1, 1, 1]> (x, w, b)
    active = LeakyRelu <alpha = 0.1> (body)
    head = Cast <to = 1> (active)
}}
"""

QUANTIZED = """
g (float[{batch}, 4, 8, 8] images) => (float[{batch}, 6, 8, 8] head) {{
    x = Cast <to = 10> (images)
    xq = QuantizeLinear (x, xs, xz)
    xd = DequantizeLinear (xq, xs, xz)
    wd = DequantizeLinear <axis = 0> (w, ws, wz)
    body = Conv <pads = [1, 1, 1, 1]> (xd, wd, b)
    active = LeakyRelu <alpha = 0.1> (body)
    last = Conv <pads = [1, 1, 1, 1]> (active, v)
    head = Cast <to = 1> (last)
}}
"""

PRODUCTS = """
g (float16[2, 5, 64] x) => (float16[10, 16] y) {
    xq = QuantizeLinear (x, xs, xz)
    xd = DequantizeLinear (xq, xs, xz)
    wd = DequantizeLinear <axis = 1> (w, ws, wz)
    p = MatMul (xd, wd)
    f = Reshape (p, shape)
    fq = QuantizeLinear (f, xs, xz)
    fd = DequantizeLinear (fq, xs, xz)
    vd = DequantizeLinear <axis = 0> (v, vs, vz)
    y = Gemm <transB = 1> (fd, vd, b)
}
"""

WEIGHTS_ONLY = """
g (float16[5, 64] x) => (float16[5, 32] y) {
    wd = DequantizeLinear <axis = 1> (w, ws, wz)
    y = MatMul (x, wd)
}
"""

ATTENTION = """
g (float[1, 2, 16, 8] q, float[1, 2, 16, 8] k, float[1, 2, 16, 8] v) => (float[1, 2, 16, 8] y) {
    y = Attention (q, k, v)
}
"""

ATTENTION_OF_ONE_TENSOR = """
g (float[1, 16, 64] x) => (float[1, 16, 64] y) {
    y = Attention <q_num_heads = 2, kv_num_heads = 2> (x, x, x)
}
"""


def half_graph(batch: int | str = 1) -> onnx.ModelProto:
    """A 3x3 convolution and a LeakyReLU in float16 between float32 inputs and outputs."""
    return _model(HALF.format(batch=batch), w=_half(6, 4, 3, 3), b=_half(6))


def quantized_graph(batch: int | str = 1) -> onnx.ModelProto:
    """A convolution with Q/DQ pairs whose scales are float16, its LeakyReLU, and a convolution in float16 after it."""
    return _model(
        QUANTIZED.format(batch=batch),
        **_activation(),
        w=_int8(6, 4, 3, 3),
        ws=np.full(6, 0.01, np.float16),
        wz=np.zeros(6, np.int8),
        b=_half(6),
        v=_half(6, 6, 3, 3),
    )


def quantized_products() -> onnx.ModelProto:
    """A MatMul whose weights are broadcast and a Gemm whose weights are transposed, both quantized."""
    return _model(
        PRODUCTS,
        **_activation(),
        w=_int8(64, 32),
        ws=np.full(32, 0.01, np.float16),
        wz=np.zeros(32, np.int8),
        shape=np.array([10, 32]),
        v=_int8(16, 32),
        vs=np.full(16, 0.01, np.float16),
        vz=np.zeros(16, np.int8),
        b=_half(16),
    )


def quantized_weights() -> onnx.ModelProto:
    """A MatMul in float16 with weight-only quantization."""
    return _model(WEIGHTS_ONLY, w=_int8(64, 32), ws=np.full(32, 0.01, np.float16), wz=np.zeros(32, np.int8))


def attention_graph(*, of_one_tensor: bool = False) -> onnx.ModelProto:
    """Attention in float32, which has no fused kernel; TensorRT-RTX 1.7 crashes if Q, K and V are one tensor."""
    return _model(ATTENTION_OF_ONE_TENSOR if of_one_tensor else ATTENTION, opset=23)


def save(model: onnx.ModelProto, folder: Path, *, weights_beside: bool = False) -> Path:
    """Writes the graph to a file, with external weights if ``weights_beside``."""
    file = folder / "graph.onnx"
    onnx.save(model, file, save_as_external_data=weights_beside, location="graph.onnx.data", size_threshold=0)
    return file


def _activation() -> dict[str, np.ndarray]:
    return {"xs": np.asarray(np.float16(0.02)), "xz": np.asarray(np.int8(0))}


def _half(*shape: int) -> np.ndarray:
    return np.random.default_rng(7).uniform(-1, 1, shape).astype(np.float16)


def _int8(*shape: int) -> np.ndarray:
    return np.random.default_rng(7).integers(-127, 128, shape).astype(np.int8)


def _model(text: str, *, opset: int = 19, **constants: np.ndarray) -> onnx.ModelProto:
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}]>{text}')
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    for node in model.graph.node:
        node.name = node.output[0]
    onnx.checker.check_model(model)
    return model
