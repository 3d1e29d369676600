from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch

torch.set_num_threads(2)

sys.path.insert(0, str(Path(__file__).parents[1] / "engine" / "modules"))  # attention_graphs

Outputs = list[np.ndarray]


@pytest.fixture(scope="session")
def run_in_onnxruntime() -> Callable[[ir.Model | onnx.ModelProto, dict[str, np.ndarray]], Outputs]:
    """Outputs of a graph in ONNX Runtime with its graph optimizations disabled, by its plain interface."""

    def run(graph: ir.Model | onnx.ModelProto, feeds: dict[str, np.ndarray]) -> Outputs:
        proto = ir.to_proto(graph) if isinstance(graph, ir.Model) else graph
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return session.run(None, feeds)

    return run


@pytest.fixture(scope="session")
def graph_of() -> Callable[..., ir.Model]:
    """A graph of opset 20 from ONNX's own text format, with float32 weights by name."""

    def build(text: str, **weights: np.ndarray) -> ir.Model:
        proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]>\n{text}')
        for name, array in weights.items():
            proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
        onnx.checker.check_model(proto)
        return ir.from_proto(proto)

    return build
