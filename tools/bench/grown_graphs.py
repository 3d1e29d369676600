"""Makes graphs of any number of nodes, in the shapes that networks have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["CHANNELS", "KINDS", "grown"]

CHANNELS = 16
KINDS = ("chain", "residual", "branches", "shapes", "sums")


class _Network:
    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self._generator = np.random.default_rng(0)

    def add(self, operator: str, inputs: list[str], **attributes: object) -> str:
        name = f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def conv(self, value: str, inputs: int = CHANNELS) -> str:
        name = f"n{len(self.nodes)}"
        weight = self._generator.standard_normal((CHANNELS, inputs, 1, 1)).astype(np.float32) * 0.005
        self.weights.append(numpy_helper.from_array(weight, f"{name}.weight"))
        self.weights.append(numpy_helper.from_array(np.zeros(CHANNELS, np.float32), f"{name}.bias"))
        return self.add("Conv", [value, f"{name}.weight", f"{name}.bias"])


def grown(kind: str, nodes: int, file: Path) -> Path:
    """Writes an ONNX file with about so many nodes, one of `KINDS`; opset 20."""
    network = _Network()
    x = network.conv("x", 3)
    while len(network.nodes) < nodes:
        x = _block(network, kind, x)
    graph = helper.make_graph(
        network.nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info(x, TensorProto.FLOAT, None)],
        network.weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), file)
    return file


def _block(network: _Network, kind: str, x: str) -> str:
    if kind == "chain":
        return network.add("Relu", [network.conv(x)])
    if kind == "residual":
        return network.add("Add", [x, network.conv(network.add("Relu", [network.conv(x)]))])
    if kind == "branches":
        parts = [network.add("LeakyRelu", [network.conv(x)], alpha=0.1) for _ in range(2)]
        return network.conv(network.add("Concat", parts, axis=1), 2 * CHANNELS)
    if kind == "shapes":
        size = network.add("Cast", [network.add("Size", [x])], to=TensorProto.FLOAT)
        return network.add("Mul", [x, network.add("Reciprocal", [size])])
    return network.add("Add", [network.add("Sigmoid", [x]), x])
