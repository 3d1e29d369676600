"""Recurrent layers with the batch as their first axis; PyTorch's layers with ``batch_first`` have the right values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import edgekit
from edgekit.graph.original import OnnxOriginal

TIME, BATCH, SIZE, HIDDEN = 6, 2, 4, 5
GATES = {"RNN": [0], "GRU": [1, 0, 2], "LSTM": [0, 3, 1, 2]}
"""PyTorch's gates in the order of ONNX."""
LAYERS = {"RNN": torch.nn.RNN, "GRU": torch.nn.GRU, "LSTM": torch.nn.LSTM}


def in_onnx_order(weight: torch.Tensor, operator: str) -> np.ndarray:
    parts = weight.detach().numpy().reshape(len(GATES[operator]), HIDDEN, -1)
    return parts[GATES[operator]].reshape(1, len(GATES[operator]) * HIDDEN, -1)


@pytest.mark.parametrize("target", ["cpu", "openvino"])
@pytest.mark.parametrize("operator", GATES)
def test_a_batch_first_layer_is_pytorchs(operator: str, target: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    layer = LAYERS[operator](SIZE, HIDDEN, batch_first=True)
    biases = [in_onnx_order(each, operator)[..., 0] for each in (layer.bias_ih_l0, layer.bias_hh_l0)]
    states = ["h", "c"] if operator == "LSTM" else ["h"]
    attributes = {"linear_before_reset": 1} if operator == "GRU" else {}
    outputs = ["y", *(f"last_{state}" for state in states)]
    node = helper.make_node(
        operator, ["x", "w", "r", "b", "", *states], outputs, hidden_size=HIDDEN, layout=1, **attributes
    )
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [node],
        "g",
        [value("x", TensorProto.FLOAT, [BATCH, TIME, SIZE]), *(value(s, 1, [BATCH, 1, HIDDEN]) for s in states)],
        [value(name, TensorProto.FLOAT, None) for name in outputs],
        [
            numpy_helper.from_array(in_onnx_order(layer.weight_ih_l0, operator), "w"),
            numpy_helper.from_array(in_onnx_order(layer.weight_hh_l0, operator), "r"),
            numpy_helper.from_array(np.concatenate(biases, axis=1), "b"),
        ],
    )
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    random = np.random.default_rng(1)
    feed = {"x": random.standard_normal((BATCH, TIME, SIZE)).astype(np.float32)}
    feed |= {state: random.standard_normal((BATCH, 1, HIDDEN)).astype(np.float32) for state in states}
    # PyTorch's states have the direction first, with batch_first too.
    first = tuple(torch.from_numpy(feed[state].transpose(1, 0, 2).copy()) for state in states)
    with torch.no_grad():
        y, last = layer(torch.from_numpy(feed["x"]), first if operator == "LSTM" else first[0])
    lasts = last if operator == "LSTM" else (last,)
    expected = {"y": y.numpy()[:, :, None]}
    expected |= {f"last_{state}": each.numpy().transpose(1, 0, 2) for state, each in zip(states, lasts, strict=True)}
    engine = edgekit.build(
        path, precision="fp32", target=target, output=tmp_path / "engine", profile=False, progress=False
    )
    with edgekit.load(engine) as session:
        runs = [session.run(feed), *OnnxOriginal(path).run([feed])]
    for outputs_of_run in runs:
        for name, right in expected.items():
            np.testing.assert_allclose(outputs_of_run[name], right, atol=1e-5)
