"""The inputs of a Concat share one scale, unless it would be too coarse for one of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from edgekit.engine.onnxruntime.backend import OnnxRuntime
from edgekit.engine.openvino.backend import OpenVino
from edgekit.quantize.passes.concat_scales import share_concat_ranges, without_pairs_behind
from edgekit.quantize.plan import plan_from_graph
from edgekit.specs import QuantScheme

CPU = OnnxRuntime().scheme()

BODY = """
    a = Conv (x, w) b = LeakyRelu (a) c = Conv (x, v) d = LeakyRelu (c)
    u = MaxPool <kernel_shape = [2, 2], strides = [1, 1]> (d)
    e = MaxPool <kernel_shape = [2, 2], strides = [1, 1]> (b)
    j = Concat <axis = 1> (u, e) y = Conv (j, o)
"""
RANGES = {"x": (0.0, 1.0), "a": (-3.0, 3.0), "b": (-0.1, 3.0), "c": (-9.0, 4.0), "d": (-0.2, 4.0), "j": (-0.2, 4.0)}


@pytest.fixture
def graph(graph_of: Callable[..., ir.Model], weights: Callable[..., np.ndarray]) -> ir.Model:
    return graph_of(
        f"g (float[1, 4, 9, 9] x) => (float[1, 8, h, w] y) {{ {BODY} }}",
        w=weights(4, 4, 1, 1),
        v=weights(8, 4, 1, 1),
        o=weights(8, 12, 1, 1),
    )


@pytest.mark.parametrize("scheme", [CPU, OpenVino().scheme()], ids=["cpu", "openvino"])
def test_inputs_of_a_concat_get_their_common_range(graph: ir.Model, scheme: QuantScheme) -> None:
    joined = share_concat_ranges(plan_from_graph(graph, scheme), {**RANGES, "y": (-1.0, 1.0)}, scheme)
    assert joined["b"] == joined["d"] == (-0.2, 4.0)
    assert {name: joined[name] for name in "xacy"} == {"x": (0, 1), "a": (-3, 3), "c": (-9, 4), "y": (-1, 1)}


def test_an_input_that_would_lose_more_than_a_bit_keeps_its_own(graph: ir.Model) -> None:
    ranges = {**RANGES, "d": (-0.2, 40.0), "j": (-0.2, 40.0), "y": (-1.0, 1.0)}
    assert share_concat_ranges(plan_from_graph(graph, CPU), ranges, CPU) == ranges


def test_consecutive_concats_share_one_range(
    graph_of: Callable[..., ir.Model], weights: Callable[..., np.ndarray]
) -> None:
    graph = graph_of(
        """g (float[1, 4, 9, 9] x) => (float[1, 8, h, w] y) {
            a = Conv (x, w) b = Conv (a, w) j = Concat <axis = 1> (a, b) c = Conv (j, v)
            k = Concat <axis = 1> (j, c) y = Conv (k, o) }""",
        w=weights(4, 4, 1, 1),
        v=weights(4, 8, 1, 1),
        o=weights(8, 12, 1, 1),
    )
    ranges = dict.fromkeys("xy", (-1.0, 1.0)) | {"a": (-1.0, 1.0), "b": (-1.0, 1.1), "c": (-1.5, 1.0)}
    ranges |= {"j": (-1.0, 1.1), "k": (-1.5, 1.1)}
    joined = share_concat_ranges(plan_from_graph(graph, CPU), ranges, CPU)
    assert {joined[name] for name in "abcjk"} == {(-1.5, 1.1)}


@pytest.mark.parametrize(("low", "share"), [(0.0, True), (-0.5, False)])
def test_ranges_stay_if_saturation_replaces_a_relu(
    graph_of: Callable[..., ir.Model], weights: Callable[..., np.ndarray], low: float, share: bool
) -> None:
    graph = graph_of(
        """g (float[1, 4, 9, 9] x) => (float[1, 8, h, w] y) {
            a = Conv (x, w) b = Relu (a) c = Conv (x, v) d = LeakyRelu (c)
            j = Concat <axis = 1> (b, d) y = Conv (j, o) }""",
        w=weights(4, 4, 1, 1),
        v=weights(4, 4, 1, 1, seed=1),
        o=weights(8, 8, 1, 1),
    )
    ranges = dict.fromkeys("xacy", (-1.0, 1.0)) | {"b": (0.0, 1.0), "d": (low, 1.5), "j": (low, 1.5)}
    joined = share_concat_ranges(plan_from_graph(graph, CPU), ranges, CPU)
    assert (joined["b"] == joined["d"]) is share
    assert (joined == ranges) is not share


def test_integers_with_one_scale_are_concatenated_without_a_pair_after(graph: ir.Model) -> None:
    scheme = OpenVino().scheme()
    plan = plan_from_graph(graph, scheme)
    assert [value.name for value in plan.tensors] == ["x", "d", "b", "j"]
    alike = {**dict.fromkeys("xacj", (-1.0, 4.0)), "b": (-0.2, 4.0), "d": (-0.2, 4.0)}
    assert [value.name for value in without_pairs_behind(plan, alike, scheme)] == ["x", "d", "b"]
    assert without_pairs_behind(plan, {**alike, "d": (-0.2, 40.0)}, scheme) == list(plan.tensors)
    plan.split.update(use.node for use in list(plan.tensors)[-1].uses())
    assert without_pairs_behind(plan, alike, scheme) == list(plan.tensors)


def test_pairs_after_a_concat_stay_if_the_target_has_pairs_at_outputs(graph: ir.Model) -> None:
    plan = plan_from_graph(graph, CPU)
    alike = dict.fromkeys("xabcdujey", (-1.0, 4.0))
    assert without_pairs_behind(plan, alike, CPU) == list(plan.tensors)


@pytest.mark.parametrize(
    "text",
    [
        """a = Conv (x, w) b = Conv (x, v) i = Concat <axis = 1> (a, b) c = Conv (x, w) k = Concat <axis = 1> (i, c)
        y = Conv (k, o)""",
        """a = Conv (x, w) b = Conv (x, v) i = Concat <axis = 1> (a, b) p = MaxPool <kernel_shape = [2, 2]> (i)
        c = Conv (i, wide) y = Conv (p, wide)""",
    ],
    ids=["another Concat reads it", "pooled too"],
)
def test_pairs_after_a_concat_stay_if_a_consumer_needs_them(
    graph_of: Callable[..., ir.Model], weights: Callable[..., np.ndarray], text: str
) -> None:
    graph = graph_of(
        f"g (float[1, 4, 9, 9] x) => (float[1, 4, h, w_] y) {{ {text} }}",
        w=weights(4, 4, 1, 1),
        v=weights(4, 4, 1, 1, seed=1),
        o=weights(4, 12, 1, 1),
        wide=weights(4, 8, 1, 1),
    )
    scheme = OpenVino().scheme()
    plan = plan_from_graph(graph, scheme)
    kept = without_pairs_behind(plan, dict.fromkeys("xabcikpy", (-1.0, 1.0)), scheme)
    named = {value.name for value in kept}
    assert ("i" in named) == any(value.name == "i" for value in plan.tensors)
    assert {"x", "a", "b"} <= named


@pytest.mark.parametrize(
    "text",
    [
        """g (float[1, 4, 9, 9] x) => (float[1, 4, h, 9] y) {
        a = Conv (x, w) b = Conv (x, w) i = Concat <axis = 2> (a, b) y = Conv (i, w) }""",
        """g (float[1, 9, 4] x) => (float[1, 18, 4] y) {
        a = MatMul (x, m) b = MatMul (x, m) i = Concat <axis = 1> (a, b) y = MatMul (i, m) }""",
    ],
    ids=["rows of an image", "tokens"],
)
def test_products_behind_a_concat_along_another_axis_are_quantized_and_its_inputs_are_not(
    graph_of: Callable[..., ir.Model], weights: Callable[..., np.ndarray], text: str
) -> None:
    graph = graph_of(text, w=weights(4, 4, 1, 1), m=weights(4, 4))
    plan = plan_from_graph(graph, OpenVino().scheme())
    assert [value.name for value in plan.tensors] == ["x", "i"]
    assert not plan.skipped
