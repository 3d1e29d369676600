"""The inputs that passes measure on."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit.quantize.spread_feeds import spread_feeds


@pytest.mark.parametrize(
    ("given", "count", "expected"), [(8, 4, [0, 2, 4, 6]), (5, 2, [0, 2]), (3, 4, [0, 1, 2]), (0, 4, [])]
)
def test_inputs_are_evenly_spaced(given: int, count: int, expected: list[int]) -> None:
    found = spread_feeds([{"x": np.array(index)} for index in range(given)], count)
    assert [int(feed["x"]) for feed in found] == expected
