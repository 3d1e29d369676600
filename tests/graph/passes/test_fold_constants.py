from __future__ import annotations

import numpy as np
import pytest

from edgekit.graph.passes import FoldConstants


@pytest.mark.parametrize(
    ("expression", "value"),
    [("Sinh (w)", np.inf), ("Reciprocal (z)", np.inf), ("Sqrt (n)", np.nan), ("ReduceMean <keepdims = 0> (e)", np.nan)],
)
def test_infinities_and_nan_in_constants_are_folded_without_a_word(graph_of, capfd, expression, value):
    graph = graph_of(
        f"g (float[1] x) => (float[1] y) {{ c = {expression}  y = Add (x, c) }}",
        w=np.array([1e30], np.float32),
        z=np.zeros(1, np.float32),
        n=-np.ones(1, np.float32),
        e=np.zeros(0, np.float32),
    )
    FoldConstants()(graph)  # warnings are errors in tests
    (node,) = graph.graph
    np.testing.assert_array_equal(node.inputs[1].const_value.numpy().ravel(), np.float32(value))
    assert "".join(capfd.readouterr()) == ""
