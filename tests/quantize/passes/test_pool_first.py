"""MaxPool moves before LeakyRelu if both run on integers, and nothing else moves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgekit.engine.onnxruntime.backend import OnnxRuntime
from edgekit.quantize.passes.pool_first import pool_first
from edgekit.quantize.plan import QuantPolicy, plan_from_graph
from edgekit.quantize.qdq import insert_qdq
from edgekit.specs import QuantScheme

OPERATORS = OnnxRuntime().scheme().operators
SCHEME = QuantScheme(activation_dtype="uint8", operators=OPERATORS, quantize_outputs=OPERATORS, float_bias=False)

POOLS = {
    "kernel 2": "kernel_shape = [2, 2], strides = [2, 2]",
    "overlapping": "kernel_shape = [3, 3], strides = [2, 2]",
    "padded": "kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]",
    "of one direction": "kernel_shape = [2, 1], strides = [2, 1]",
    "dilated": "kernel_shape = [2, 2], strides = [2, 2], dilations = [2, 2]",
    "rounded up": "kernel_shape = [2, 2], strides = [2, 2], ceil_mode = 1",
}
BEFORE, AFTER = ["Conv", "LeakyRelu", "MaxPool", "Conv"], ["Conv", "MaxPool", "LeakyRelu", "Conv"]


@pytest.fixture
def built(graph_of: Callable[..., ir.Model], weights: Callable[..., np.ndarray]) -> Callable[..., ir.Model]:
    def build(body: str, more: str = "") -> ir.Model:
        return graph_of(
            f"g (float[1, 4, 9, 9] x) => (float[1, 8, h, w] y{more}) {{ {body} }}",
            w1=weights(8, 4, 3, 3),
            w2=weights(8, 8, 1, 1),
        )

    return build


def chain(pool: str = POOLS["kernel 2"], alpha: float = 0.1) -> str:
    return f"a = Conv (x, w1) b = LeakyRelu <alpha = {alpha}> (a) p = MaxPool <{pool}> (b) y = Conv (p, w2)"


def operators(graph: ir.Model) -> list[str]:
    return [node.op_type for node in graph.graph]


@pytest.mark.parametrize("alpha", [0.1, 0.0, 2.0])
@pytest.mark.parametrize("pool", POOLS)
def test_float_and_integer_outputs_are_the_same_numbers(
    built: Any, feeds_for: Any, calibrated: Any, run_in_onnxruntime: Any, pool: str, alpha: float
) -> None:
    exact, swapped = built(chain(POOLS[pool], alpha)), built(chain(POOLS[pool], alpha))
    feeds = feeds_for(exact)
    ranges = calibrated(exact, feeds).ranges
    plans = [plan_from_graph(graph, SCHEME) for graph in (exact, swapped)]
    pool_first(swapped, plans[1])
    assert operators(exact) == BEFORE and operators(swapped) == AFTER
    onnx.checker.check_model(ir.to_proto(swapped), full_check=True)
    for quantized in (False, True):
        if quantized:
            for graph, plan in zip((exact, swapped), plans, strict=True):
                insert_qdq(graph, plan, ranges, SCHEME)
                onnx.checker.check_model(ir.to_proto(graph), full_check=True)
        for one, other in zip(run_in_onnxruntime(exact, feeds), run_in_onnxruntime(swapped, feeds), strict=True):
            np.testing.assert_array_equal(one["y"], other["y"])


def test_the_plan_stays_valid(built: Any) -> None:
    graph = built(chain())
    plan = plan_from_graph(graph, SCHEME)
    before = {value.name for value in plan.tensors}, {value.name for value in plan.integers}, set(plan.nodes)
    pool_first(graph, plan)
    assert ({v.name for v in plan.tensors}, {v.name for v in plan.integers}, set(plan.nodes)) == before
    order = [value.name for node in graph.graph for value in (*node.inputs[:1], *node.outputs)]
    assert [v.name for v in plan.tensors] == sorted({v.name for v in plan.tensors}, key=order.index)
    assert list(plan.nodes) == [node for node in graph.graph if node in set(plan.nodes)]
    assert list(graph.graph)[2].outputs[0].shape == [1, 8, 3, 3]


def test_several_are_swapped(built: Any, feeds_for: Any, run_in_onnxruntime: Any) -> None:
    two = (
        "a = Conv <pads = [1, 1, 1, 1]> (x, w1) b = LeakyRelu <alpha = 0.1> (a)"
        f" p = MaxPool <{POOLS['kernel 2']}> (b) c = Conv (p, w2) d = LeakyRelu (c)"
        f" q = MaxPool <{POOLS['kernel 2']}> (d) r = Relu (q) s = Relu (q) y = Add (r, s)"
    )
    graph = built(two)
    feeds = feeds_for(graph)
    before = run_in_onnxruntime(graph, feeds)
    pool_first(graph, plan_from_graph(graph, SCHEME))
    assert operators(graph)[:6] == ["Conv", "MaxPool", "LeakyRelu", "Conv", "MaxPool", "LeakyRelu"]
    onnx.checker.check_model(ir.to_proto(graph), full_check=True)
    for one, other in zip(before, run_in_onnxruntime(graph, feeds), strict=True):
        np.testing.assert_array_equal(one["y"], other["y"])


POOL = f"MaxPool <{POOLS['kernel 2']}>"
UNTOUCHED = {
    "a pool that keeps the size": (chain("kernel_shape = [3, 3], pads = [1, 1, 1, 1]"), ""),
    "a slope that turns signs": (chain(alpha=-0.1), ""),
    "a LeakyRelu with two readers": (
        f"a = Conv (x, w1) b = LeakyRelu (a) p = {POOL} (b) c = Conv (p, w2) e = Exp (b) d = {POOL} (e) y = Add (c, d)",
        "",
    ),
    "a LeakyRelu whose input has two readers": (
        f"a = Conv (x, w1) b = LeakyRelu (a) p = {POOL} (b) c = Conv (p, w2) d = {POOL} (a) y = Add (c, d)",
        "",
    ),
    "an output of the pool": (f"a = Conv (x, w1) b = LeakyRelu (a) y = {POOL} (b)", ""),
    "an output of the LeakyRelu": (chain(), ", float[1, 8, 7, 7] b"),
    "a pool that gives places": (
        f"a = Conv (x, w1) b = LeakyRelu (a) p, places = {POOL} (b) y = Conv (p, w2)",
        ", int64[1, 8, 3, 3] places",
    ),
    "another pool": (chain().replace("MaxPool", "AveragePool"), ""),
}


@pytest.mark.parametrize("what", UNTOUCHED)
def test_is_left_where_it_is(built: Any, what: str) -> None:
    graph = built(*UNTOUCHED[what])
    before = ir.to_proto(graph).SerializeToString()
    pool_first(graph, plan_from_graph(graph, SCHEME))
    assert ir.to_proto(graph).SerializeToString() == before


def test_float_graphs_keep_the_activation_at_its_convolution(built: Any) -> None:
    graph = built(chain())
    first = next(node.name for node in graph.graph if node.op_type == "LeakyRelu")
    pool_first(graph, plan_from_graph(graph, SCHEME, QuantPolicy((first,))))
    assert operators(graph) == BEFORE
