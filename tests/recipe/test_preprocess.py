from __future__ import annotations

import types
from typing import Any

import pytest

from edgekit.errors import UsageError
from edgekit.recipe.preprocess import given_fields, merged
from edgekit.recipe.schema import Preprocess


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        ({"color": "gray"}, {"color": "gray"}),
        ({"mean": [1]}, {"mean": (1.0,)}),
        ({"std": (1, 2, 3), "divisor": 1}, {"std": (1.0, 2.0, 3.0), "divisor": 1.0}),
        (types.MappingProxyType({"pad": 0}), {"pad": 0}),
        ({}, {}),
        (Preprocess(color="gray", mean=(0.5,), std=(2.0,)), {
            "resize": "stretch", "resize_to": 0, "place": "center", "rounding": "down",
                "interpolation": "bilinear", "antialias": True, "color": "gray",
            "layout": "nchw", "pad": 128, "divisor": 255.0, "mean": (0.5,), "std": (2.0,),
        }),
    ],
)  # fmt: skip
def test_given_fields_returns_only_the_given_fields(given: Any, plain: dict[str, Any]) -> None:
    assert given_fields(given) == plain


def test_text_is_converted_to_the_fields_types() -> None:
    given = {"interpolation": "nearest", "antialias": "false", "pad": "114"}
    assert given_fields(given, text=True) == {"interpolation": "nearest", "antialias": False, "pad": 114}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"colr": "bgr"}, "preprocess: colr: unknown field\ndid you mean color?"),
        ({"pad": "0"}, "preprocess: pad: expected an integer, got '0'"),
        ({"interpolation": "cubic"}, "preprocess: interpolation: expected one of bilinear, nearest, got 'cubic'"),
        ({"antialias": "maybe"}, "preprocess: antialias: expected true or false, got 'maybe'"),
        ({"mean": 0.5}, "preprocess: mean: expected a list, got 0.5"),
        ({"mean": (0.0,), "std": (1.0, 1.0, 1.0)}, "preprocess: std: expected 1 numbers"),
        (["color=bgr"], "preprocess: expected a Preprocess or a mapping of its fields"),
    ],
)
def test_error_on_invalid_fields(given: Any, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        given_fields(given)
    assert message in str(caught.value)


def test_a_merge_replaces_the_given_fields_and_keeps_the_others() -> None:
    base = Preprocess(resize="letterbox", mean=(0.5, 0.25, 0.125))
    assert merged(base, {"color": "bgr"}) == Preprocess(resize="letterbox", color="bgr", mean=(0.5, 0.25, 0.125))
    with pytest.raises(UsageError, match="preprocess: mean: expected 1 numbers, one per channel of 'gray'") as caught:
        merged(base, {"color": "gray"})
    assert "'mean': [0] and 'std': [1]" in caught.value.hint
