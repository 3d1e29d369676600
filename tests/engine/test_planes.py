from __future__ import annotations

import pytest

from edgekit.engine.layers import Layer
from edgekit.engine.planes import with_planes_as_one


def test_two_planes_are_one_layer() -> None:
    planes = [Layer(("a.upper_plane",), "int8"), Layer(("a.lower_plane", "a.sum"), "int8"), Layer(("b",), "int8")]
    assert with_planes_as_one(planes) == [Layer(("a",), "int16"), Layer(("b",), "int8")]


@pytest.mark.parametrize("which", [0, 1])
def test_a_plane_that_runs_in_float_is_reported(which: int) -> None:
    dtypes = ["int8", "int8"]
    dtypes[which] = "float32"
    planes = [Layer((f"a.{part}_plane",), dtype) for part, dtype in zip(("upper", "lower"), dtypes, strict=True)]
    assert with_planes_as_one(planes) == with_planes_as_one(planes[::-1]) == [Layer(("a",), "float32")]
