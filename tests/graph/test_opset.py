"""A newer opset is declared only where all operators mean the same in it."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest

from edgekit.graph.opset import raise_opset

GRAPH = '<ir_version: 10, opset_import: ["" : {opset}]> g (float[1, 4, 8] x) => (float[1, 4, 8] y) {{ y = {node} }}'


def graph(opset: int, node: str = "Relu(x)") -> ir.Graph:
    return ir.from_proto(onnx.parser.parse_model(GRAPH.format(opset=opset, node=node))).graph


@pytest.mark.parametrize(("opset", "after"), [(20, 23), (22, 23), (23, 23), (24, 24)])
def test_a_graph_of_opset_20_or_later_gets_the_opset_or_keeps_a_newer_one(opset: int, after: int) -> None:
    made = graph(opset)
    assert raise_opset(made, 23) == ""
    assert made.opset_imports[""] == after


@pytest.mark.parametrize(
    ("opset", "node", "reason"),
    [
        (18, "Relu(x)", "its operators of opset 18 mean something else there"),
        (20, "GroupNormalization<num_groups = 2>(x, x, x)", "its GroupNormalization 'norm' of opset 20 means"),
        (21, "GroupNormalization<num_groups = 2>(x, x, x)", ""),
    ],
)
def test_what_changed_since_keeps_the_graph_as_it_is(opset: int, node: str, reason: str) -> None:
    made = graph(opset, node)
    made[0].name = "norm"
    found = raise_opset(made, 22)
    assert found.startswith(reason) and bool(found) == bool(reason)
    assert made.opset_imports[""] == (opset if reason else 22)
