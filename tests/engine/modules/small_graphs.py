"""Small ONNX graphs, made with onnx's helpers, and quantized with ONNX Runtime's tool or by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from edgekit.lower.rewriting import lower

SHAPE = (1, 4, 8, 8)


def conv_graph(quantized: bool = False, quantized_output: bool = True, batch: int | str = 1) -> onnx.ModelProto:
    """Two 3x3 convolutions with a LeakyReLU between them; with Q/DQ at the first one if ``quantized``."""
    rng = np.random.default_rng(7)
    weights = rng.uniform(-1, 1, (6, 4, 3, 3)).astype(np.float32)
    head = rng.uniform(-1, 1, (3, 6, 1, 1)).astype(np.float32)
    constants = {"head.weight": head}
    nodes = []
    if quantized:
        scale = np.float32(np.abs(weights).max() / 63)  # 7 bits, which are exact without VNNI too
        constants |= {
            "x.scale": np.float32(1 / 255),
            "x.zero": np.uint8(0),
            "body.scale": scale,
            "body.zero": np.int8(0),
            "body.quantized": np.round(weights / scale).astype(np.int8),
            "y.scale": np.float32(0.1),
            "y.zero": np.uint8(128),
        }
        nodes += [
            helper.make_node("QuantizeLinear", ["images", "x.scale", "x.zero"], ["x.q"], "x.q"),
            helper.make_node("DequantizeLinear", ["x.q", "x.scale", "x.zero"], ["x"], "x.dq"),
            helper.make_node(
                "DequantizeLinear", ["body.quantized", "body.scale", "body.zero"], ["body.weight"], "w.dq"
            ),
        ]
    else:
        constants["body.weight"] = weights
    nodes.append(helper.make_node("Conv", ["x" if quantized else "images", "body.weight"], ["body"], "body"))
    last = "body"
    if quantized and quantized_output:
        nodes += [
            helper.make_node("QuantizeLinear", ["body", "y.scale", "y.zero"], ["y.q"], "y.q"),
            helper.make_node("DequantizeLinear", ["y.q", "y.scale", "y.zero"], ["y"], "y.dq"),
        ]
        last = "y"
    nodes += [
        helper.make_node("LeakyRelu", [last], ["active"], "active", alpha=0.1),
        helper.make_node("Conv", ["active", "head.weight"], ["head"], "head"),
    ]
    used = {name for node in nodes for name in node.input}
    return _model(
        nodes,
        helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, *SHAPE[1:]]),
        helper.make_tensor_value_info("head", TensorProto.FLOAT, [batch, 3, 6, 6]),
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items() if name in used],
    )


def product_graph(operator: str, weights: np.ndarray, step: float) -> onnx.ModelProto:
    """One product of bytes x (see `as_input`) and int8 weights (inputs, outputs), rounded to steps of ``step``."""
    rows, columns = weights.shape
    conv = operator == "Conv"
    constants = {
        "one": np.float32(1),
        "x.zero": np.uint8(0),
        "w.zero": np.int8(0),
        "w": weights.T[:, :, None, None].copy() if conv else weights,
        "step": np.float32(step),
        "y.zero": np.uint8(128),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "one", "x.zero"], ["x.q"]),
        helper.make_node("DequantizeLinear", ["x.q", "one", "x.zero"], ["x.dq"]),
        helper.make_node("DequantizeLinear", ["w", "one", "w.zero"], ["w.dq"]),
        helper.make_node(operator, ["x.dq", "w.dq"], ["product"], "product"),
        helper.make_node("QuantizeLinear", ["product", "step", "y.zero"], ["y.q"]),
        helper.make_node("DequantizeLinear", ["y.q", "step", "y.zero"], ["y"]),
    ]
    return _model(
        nodes,
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", rows, 1, 1] if conv else ["N", rows]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", columns, 1, 1] if conv else ["N", columns]),
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )


def as_input(operator: str, x: np.ndarray) -> np.ndarray:
    """The rows of x as the input of `product_graph`."""
    return (x[:, :, None, None] if operator == "Conv" else x).astype(np.float32)


def unknown_operator() -> onnx.ModelProto:
    """A graph with an unknown operator."""
    node = helper.make_node("Frobnicate", ["images"], ["head"], "odd", domain="nobody")
    value = helper.make_tensor_value_info
    return _model([node], value("images", TensorProto.FLOAT, [1]), value("head", TensorProto.FLOAT, [1]), [], "nobody")


def run_unfused(model: onnx.ModelProto | Path, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Runs the graph operator by operator: ONNX Runtime without its fusions."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    given = model if isinstance(model, Path) else model.SerializeToString()
    session = onnxruntime.InferenceSession(given, options, providers=["CPUExecutionProvider"])
    return [np.asarray(output) for output in session.run(None, feeds)]


def run_exactly(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Runs the graph with ONNX Runtime's fusions, and with sums of 8-bit products that do not overflow on any CPU."""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [np.asarray(output) for output in session.run(None, feeds)]


def rewritten(model: onnx.ModelProto, *passes: ir.passes.InPlacePass) -> tuple[onnx.ModelProto, bool]:
    """Returns the graph after passes, without unused nodes, and whether it was changed."""
    graph = ir.from_proto(model)
    modified = lower(graph, passes)
    return ir.to_proto(graph), modified


def stays(model: onnx.ModelProto, one: ir.passes.InPlacePass) -> bool:
    """Whether a pass leaves the graph unchanged, and reports that."""
    graph = ir.from_proto(model)
    before = ir.to_proto(graph).SerializeToString()
    return not one(graph).modified and ir.to_proto(graph).SerializeToString() == before


def save(model: onnx.ModelProto, folder: Path) -> Path:
    """The graph as a file."""
    file = folder / "graph.onnx"
    onnx.save(model, file)
    return file


def _model(
    nodes: list[onnx.NodeProto],
    given: onnx.ValueInfoProto,
    wanted: onnx.ValueInfoProto,
    constants: list[onnx.TensorProto],
    domain: str = "",
) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "small", [given], [wanted], constants)
    opsets = [helper.make_opsetid("", 20)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    if not domain:
        onnx.checker.check_model(model)
    return model
