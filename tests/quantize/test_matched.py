"""What is concatenated spans as much, where somebody can take up the difference; the model computes what it did."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgekit.engine.openvino import OpenVino
from edgekit.graph.evaluate import Evaluator
from edgekit.quantize.calibrate import collect_statistics, observed_tensors, ranges_from_statistics
from edgekit.quantize.equalize import matched_ranges
from edgekit.quantize.joined import joined_ranges
from edgekit.quantize.plan import plan_from_graph

SCHEME = msgspec.structs.replace(OpenVino().scheme(), split_channels=0)

# A wide tensor `r` that is enlarged, and a narrow one `t` that is read elsewhere too.
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
def test_a_wide_summand_is_scaled_to_the_one_that_others_read(
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
    joined = joined_ranges(plan, found, SCHEME)
    assert joined["r"] == joined["s"]
    again = _ranges(graph, feeds)
    for name in ("b", "r", "s", "j"):
        assert again[name] == pytest.approx(found[name], rel=1e-4, abs=1e-6)
    for old, arrays in zip(before, feeds, strict=True):
        new = Evaluator(graph, threads=1).run(arrays)
        for name in ("y", "z"):
            np.testing.assert_allclose(new[name], old[name], rtol=1e-4, atol=1e-4 * np.abs(old[name]).max())


def test_what_nobody_can_take_up_stays(graph_of: Callable[..., ir.Model], weights: Callable[..., np.ndarray]) -> None:
    graph = graph_of(
        """g (float[1, 4, 8, 8] x) => (float[1, 8, 8, 8] j) {
            a = Conv (x, w) b = Conv (x, v) j = Concat <axis = 1> (a, b) }""",
        w=weights(4, 4, 1, 1),
        v=weights(4, 4, 1, 1),
    )
    ranges = {"x": (-1.0, 1.0), "a": (-1.0, 1.0), "b": (-9.0, 9.0), "j": (-9.0, 9.0)}
    assert matched_ranges(graph, plan_from_graph(graph, SCHEME), ranges) == ranges
