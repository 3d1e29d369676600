"""Concatenated tensors get ranges of one width if a consumer can be rescaled; the model's outputs do not change."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgekit.engine.openvino.backend import OpenVino
from edgekit.graph.evaluator import Evaluator
from edgekit.quantize.calibrate.collect import collect_statistics, observed_tensors, ranges_from_statistics
from edgekit.quantize.passes.concat_scales import share_concat_ranges
from edgekit.quantize.passes.equalize import matched_ranges
from edgekit.quantize.plan import plan_from_graph

SCHEME = msgspec.structs.replace(OpenVino().scheme(), split_channels=0)

# A wide tensor `r` that is resized, and a narrow one `t` that has other consumers too.
ROUTE = """g (float[1, 4, 8, 8] x) => (float[1, 4, 8, 8] y, float[1, 4, 8, 8] z) {
    x0 = Conv (x, w0) a = Conv (x, w1) t = LeakyRelu <alpha = 0.1> (a) s = Add (t, x0)
    p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (s) b = Conv (p, w2, b2) r = LeakyRelu <alpha = 0.1> (b)
    u = Resize <mode = "nearest"> (r, , twice) j = Concat <axis = 1> (u, s) y = Conv (j, w3) z = Conv (s, w1) }"""


def _ranges(graph: ir.Model, feeds: list[dict[str, np.ndarray]]) -> dict[str, tuple[float, float]]:
    named = [(str(i), arrays) for i, arrays in enumerate(feeds)]
    collected = collect_statistics(graph, observed_tensors(graph), named, method="minmax", threads=1)
    return ranges_from_statistics(collected.statistics, "minmax")


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(power=st.floats(-3, 3), seed=st.integers(0, 99))
def test_a_wide_input_is_scaled_to_the_one_with_other_consumers(
    graph_of: Callable[..., ir.Model], power: float, seed: int
) -> None:
    random = np.random.default_rng(seed)

    def weights(*shape: int) -> np.ndarray:
        return random.standard_normal(shape).astype(np.float32)

    size = np.float32(10.0**power)
    graph = graph_of(
        ROUTE,
        w0=weights(4, 4, 1, 1),
        w1=weights(4, 4, 1, 1),
        w2=size * weights(6, 4, 1, 1),
        b2=size * weights(6),
        w3=weights(4, 10, 1, 1),
        twice=np.array([1, 1, 2, 2], np.float32),
    )
    feeds = [{"x": random.standard_normal((1, 4, 8, 8)).astype(np.float32)} for _ in range(3)]
    plan = plan_from_graph(graph, SCHEME)
    measured = _ranges(graph, feeds)
    before = [Evaluator(graph, threads=1).run(arrays) for arrays in feeds]
    found = matched_ranges(graph, plan, measured)
    assert found["s"] == measured["s"] and found["t"] == measured["t"]
    assert found["r"][1] - found["r"][0] == pytest.approx(found["s"][1] - found["s"][0], rel=1e-5)
    joined = share_concat_ranges(plan, found, SCHEME)
    assert joined["r"] == joined["s"]
    again = _ranges(graph, feeds)
    for name in ("b", "r", "s", "j"):
        assert again[name] == pytest.approx(found[name], rel=1e-4, abs=1e-6)
    for old, arrays in zip(before, feeds, strict=True):
        new = Evaluator(graph, threads=1).run(arrays)
        for name in ("y", "z"):
            np.testing.assert_allclose(new[name], old[name], rtol=1e-4, atol=1e-4 * np.abs(old[name]).max())


def test_tensors_without_a_scalable_consumer_stay(
    graph_of: Callable[..., ir.Model], weights: Callable[..., np.ndarray]
) -> None:
    graph = graph_of(
        """g (float[1, 4, 8, 8] x) => (float[1, 8, 8, 8] j) {
            a = Conv (x, w) b = Conv (x, v) j = Concat <axis = 1> (a, b) }""",
        w=weights(4, 4, 1, 1),
        v=weights(4, 4, 1, 1),
    )
    ranges = {"x": (-1.0, 1.0), "a": (-1.0, 1.0), "b": (-9.0, 9.0), "j": (-9.0, 9.0)}
    assert matched_ranges(graph, plan_from_graph(graph, SCHEME), ranges) == ranges


@pytest.mark.parametrize(
    "text",
    [
        "c = Conv (x, w) l = Relu (c) q = Conv (x, v) j = Concat <axis = 1> (c, l, q) y = Conv (j, o)",
        "c = Conv (x, w) l = Relu (c) q = Conv (x, v) p = GlobalAveragePool (l) j = Concat <axis = 1> (l, q, q)"
        " k = Conv (j, o) y = Add (k, p)",
        "c = Conv (x, w) l = Relu (c) q = Conv (x, v) j = Concat <axis = 1> (l, q, q) r = Relu (j) y = Conv (r, o)",
        "c = Conv (x, w) l = Relu (c) q = Conv (x, v) j = Concat <axis = 2> (l, q, q) y = Conv (j, w)",
        "c = Conv (x, w) l = Relu (c) l2 = Elu (c) q = Conv (x, v) j = Concat <axis = 1> (l, l2, q) y = Conv (j, o)",
    ],
    ids=["a product and its activation", "pooled too", "activated behind", "another axis", "activated twice"],
)
def test_tensors_with_other_consumers_stay(
    graph_of: Callable[..., ir.Model], weights: Callable[..., np.ndarray], text: str
) -> None:
    graph = graph_of(
        f"g (float[1, 4, 8, 8] x) => (float[1, 4, h, w_] y) {{ {text} }}",
        w=weights(4, 4, 1, 1),
        v=8 * weights(4, 4, 1, 1, seed=1),
        o=weights(4, 12, 1, 1),
    )
    feeds = [{"x": np.random.default_rng(0).standard_normal((1, 4, 8, 8)).astype(np.float32)}]
    measured = _ranges(graph, feeds)
    found = matched_ranges(graph, plan_from_graph(graph, SCHEME), measured)
    again = _ranges(graph, feeds)
    for name in ("c", "l", "j"):
        assert found[name] == pytest.approx(again[name], rel=1e-4, abs=1e-6)
    assert found["c"] == measured["c"]


def test_nested_concats_are_matched_from_the_innermost(
    graph_of: Callable[..., ir.Model], weights: Callable[..., np.ndarray]
) -> None:
    graph = graph_of(
        """g (float[1, 4, 8, 8] x) => (float[1, 4, 8, 8] y) {
            a = Conv (x, w) b = Conv (x, v) i = Concat <axis = 1> (a, b) c = Conv (x, u)
            o = Concat <axis = 1> (i, c) y = Conv (o, last) }""",
        w=weights(4, 4, 1, 1),
        v=8 * weights(4, 4, 1, 1, seed=1),
        u=64 * weights(4, 4, 1, 1, seed=2),
        last=weights(4, 12, 1, 1),
    )
    feeds = [{"x": np.random.default_rng(0).standard_normal((1, 4, 8, 8)).astype(np.float32)}]
    before = Evaluator(graph, threads=1).run(feeds[0])["y"]
    found = matched_ranges(graph, plan_from_graph(graph, SCHEME), _ranges(graph, feeds))
    again = _ranges(graph, feeds)
    for name in "abcio":
        assert found[name] == pytest.approx(again[name], rel=1e-4)
    spans = [found[name][1] - found[name][0] for name in "abc"]
    assert spans[0] == pytest.approx(spans[1], rel=1e-4) and max(spans) < 1.5 * min(spans)
    np.testing.assert_allclose(Evaluator(graph, threads=1).run(feeds[0])["y"], before, rtol=1e-4, atol=1e-3)
