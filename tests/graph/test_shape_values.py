from __future__ import annotations

import math

import onnx
import onnx_ir as ir
import pytest

from edgekit.graph.shape_values import elements_of, number_of, sizes_of, target_of

TEXT = """
<ir_version: 10, opset_import: ["" : 20]>
g (float[N, 5, 8] x, int64[2] given) => (float[a, b, c] y, float z, float w)
<int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2}, int64[1] three = {3}, int64 last = {2},
 int64 outside = {7}, float half = {0.5}, int64[3] keep = {0, -1, 8}>
{
  shape = Shape(x)
  batch = Slice(shape, zero, one, zero)
  size = Slice(shape, two, three, zero)
  beyond = Gather(shape, outside)
  picked = Gather(shape, last)
  stepped = Slice(shape, zero, three, zero, two)
  target = Concat<axis = 0>(batch, one, size)
  y = Reshape(x, target)
  number = Cast<to = 1>(picked)
  root = Sqrt(number)
  inverse = Reciprocal(root)
  z = Mul(inverse, half)
  kept = Reshape(x, keep)
  unknown = Concat<axis = 0>(given, one)
  minus = Neg(half)
  impossible = Sqrt(minus)
  zeros = Sub(half, half)
  infinite = Div(half, zeros)
  w = Add(z, infinite)
}
"""


@pytest.fixture
def values() -> dict[str, ir.Value]:
    graph = ir.from_proto(onnx.parser.parse_model(TEXT)).graph
    return {value.name or "": value for node in graph for value in (*node.inputs, *node.outputs) if value is not None}


def test_sizes_are_numbers_and_names(values: dict[str, ir.Value]) -> None:
    assert sizes_of(values["x"]) == ("N", 5, 8)
    assert sizes_of(values["root"]) is None


@pytest.mark.parametrize(
    ("name", "elements"),
    [
        ("shape", ("N", 5, 8)),
        ("batch", ("N",)),
        ("picked", (8,)),
        ("target", ("N", 1, 8)),
        ("stepped", None),
        ("unknown", None),
        ("given", None),
        ("x", None),
    ],
)
def test_vectors_that_are_computed_from_shapes_are_evaluated(
    values: dict[str, ir.Value], name: str, elements: tuple[object, ...] | None
) -> None:
    assert elements_of(values[name]) == elements


def test_numbers_are_computed_from_fixed_sizes_only(values: dict[str, ir.Value]) -> None:
    assert number_of(values["z"]) == pytest.approx(0.5 / math.sqrt(8))
    for name in ("batch", "target", "beyond", "impossible", "infinite", "w", "x"):
        assert number_of(values[name]) is None


def test_the_target_of_a_reshape_copies_sizes_and_leaves_inferred_ones_open(values: dict[str, ir.Value]) -> None:
    by_output = {name: values[name].producer() for name in ("y", "kept")}
    assert target_of(by_output["y"]) == ("N", 1, 8)  # type: ignore[arg-type]
    assert target_of(by_output["kept"]) == ("N", None, 8)  # type: ignore[arg-type]
