"""Convolutions of an image's three channels read four after padding, with the same results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from edgekit.engine.onnxruntime.backend import OnnxRuntime
from edgekit.graph.stats import stats_from_graph
from edgekit.quantize.passes.pad_channels import pad_channels
from edgekit.quantize.plan import plan_from_graph
from edgekit.quantize.qdq import insert_qdq
from edgekit.specs import QuantScheme

OPERATORS = OnnxRuntime().scheme().operators
SCHEME = QuantScheme(activation_dtype="uint8", operators=OPERATORS, quantize_outputs=OPERATORS, float_bias=False)

ONE = "g (float[1, 3, 9, 9] x) => (float[1, 8, h, w] y) { y = Conv <pads = [1, 1, 1, 1]> (x, w3) }"
SEVERAL = "g (float[1, 3, 9, 9] x) => (float[1, 8, h, w] y, float[1, 8, h, w] z) { y = Conv (x, w3) z = Conv (x, v3) }"
CHANNELS_LAST = (
    "g (float[1, 9, 9, 3] x) => (float[1, 8, h, w] y) { t = Transpose <perm = [0, 3, 1, 2]> (x) y = Conv (t, w3) }"
)
SOUND = "g (float[1, 1, 40] x) => (float[1, 8, t] y) { y = Conv (x, w1) }"


def quantized(graph: ir.Model, table: Any, multiple: int) -> ir.Model:
    plan = plan_from_graph(graph, SCHEME)
    insert_qdq(graph, plan, table.ranges, SCHEME)
    pad_channels(graph, plan, multiple)
    return graph


def pads(graph: ir.Model) -> int:
    return sum(node.op_type == "Pad" for node in graph.graph)


@pytest.mark.parametrize(("text", "count"), [(ONE, 1), (SEVERAL, 1), (CHANNELS_LAST, 1), (SOUND, 1)])
def test_results_are_unchanged(
    graph_of: Callable[..., ir.Model],
    weights: Callable[..., np.ndarray],
    feeds_for: Any,
    calibrated: Any,
    run_in_onnxruntime: Any,
    text: str,
    count: int,
) -> None:
    def built() -> ir.Model:
        named = {"w3": weights(8, 3, 3, 3), "v3": weights(8, 3, 3, 3, seed=1), "w1": weights(8, 1, 5)}
        return graph_of(text, **{name: array for name, array in named.items() if name in text})

    feeds = feeds_for(built())
    table = calibrated(built(), feeds)
    plain, padded = quantized(built(), table, 1), quantized(built(), table, 4)
    assert (pads(plain), pads(padded)) == (0, count)
    wide = [v.shape.numpy()[1] for n, v in padded.graph.initializers.items() if n.endswith("_quantized") and v.shape]
    assert 4 in wide
    before, after = stats_from_graph(plain), stats_from_graph(padded)
    assert (after.parameters, after.macs) == (before.parameters, before.macs)
    for exact, got in zip(run_in_onnxruntime(plain, feeds), run_in_onnxruntime(padded, feeds), strict=True):
        for name in exact:
            np.testing.assert_array_equal(got[name], exact[name])


def test_groups_and_wide_inputs_are_left_alone(
    graph_of: Callable[..., ir.Model], weights: Callable[..., np.ndarray], feeds_for: Any, calibrated: Any
) -> None:
    grouped = "g (float[1, 3, 9, 9] x) => (float[1, 3, h, w] y) { y = Conv <group = 3> (x, w) }"
    wide = "g (float[1, 6, 9, 9] x) => (float[1, 8, h, w] y) { y = Conv (x, w) }"
    for text, weight in ((grouped, weights(3, 1, 3, 3)), (wide, weights(8, 6, 3, 3))):
        graph = graph_of(text, w=weight)
        table = calibrated(graph, feeds_for(graph))
        assert pads(quantized(graph, table, 4)) == 0
