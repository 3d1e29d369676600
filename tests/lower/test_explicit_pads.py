"""Values are compared by tests/engine/test_operators.py; here is what cannot be replaced, and what is left alone."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest

from edgekit.arguments import on_command_line
from edgekit.errors import GraphError
from edgekit.lower.explicit_pads import ExplicitPads
from edgekit.lower.resize_as_product import ResizeAsProduct

TEXT = """<ir_version: 10, opset_import: ["" : 20]>
g (float[1, 2, {size}, 8] x) => (float[a, b, c, d] y) {{ [pool] y = {operator} <{settings}> (x) }}"""
COUNTS = "kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1, count_include_pad = 1"


def pooled(operator: str, settings: str, size: str = "7") -> ir.Model:
    return ir.from_proto(onnx.parser.parse_model(TEXT.format(operator=operator, settings=settings, size=size)))


@pytest.mark.parametrize(
    ("operator", "settings"),
    [
        ("AveragePool", COUNTS),
        ("MaxPool", "kernel_shape = [2, 2], strides = [3, 3], ceil_mode = 1"),
        ("LpPool", "kernel_shape = [2, 2], ceil_mode = 1"),
    ],
)
def test_a_dynamic_size_is_refused_by_name(operator: str, settings: str) -> None:
    with on_command_line(), pytest.raises(GraphError, match="node 'pool'.*ceil_mode.*dynamic") as caught:
        ExplicitPads(operator)(pooled(operator, settings, "n"))
    assert "--target cpu" in caught.value.hint


@pytest.mark.parametrize("size", ["7", "n"])
@pytest.mark.parametrize(
    ("operator", "settings"),
    [
        ("AveragePool", "kernel_shape = [3, 3], count_include_pad = 1"),
        ("AveragePool", "kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1"),
        ("MaxPool", "kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1], ceil_mode = 1"),
    ],
)
def test_poolings_that_are_computed_alike_stay(operator: str, settings: str, size: str) -> None:
    assert not ExplicitPads(operator)(pooled(operator, settings, size)).modified


def test_a_resize_of_a_dynamic_size_is_refused_by_name() -> None:
    text = """<ir_version: 10, opset_import: ["" : 20]>
    g (float[1, 2, n, 8] x) => (float[a, b, c, d] y) <float[4] s = {1, 1, 0.5, 0.5}> {
        [shrink] y = Resize <mode = "linear", antialias = 1> (x, "", s) }"""
    with pytest.raises(GraphError, match="node 'shrink'.*not constant"):
        ResizeAsProduct()(ir.from_proto(onnx.parser.parse_model(text)))
