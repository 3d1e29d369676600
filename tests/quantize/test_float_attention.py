"""Which attentions stay in float on targets that compute some of them faster so."""

from __future__ import annotations

import msgspec
import onnx
import onnx_ir as ir
import pytest

from edgekit.engine.backend import backend
from edgekit.graph.passes import optimize
from edgekit.quantize.plan import plan_from_graph
from edgekit.specs import FloatAttention

QUERIES, KEYS, SIZE = 24, 48, 16
SCHEME = backend("cpu").scheme()

TEXT = """<ir_version: 10, opset_import: ["" : 20]>
g (float[1, {queries}, 2, 16] q, float[1, {keys}, 2, 16] k, float[1, {keys}, 2, 16] v) => (float[1, {queries}, 2, 16] y)
{{
    qh = Transpose <perm = [0, 2, 1, 3]> (q)
    kt = Transpose <perm = [0, 2, 3, 1]> (k)
    vh = Transpose <perm = [0, 2, 1, 3]> (v)
    product = MatMul (qh, kt)
    {scores}
    weights = Softmax <axis = -1> (scores)
    mean = MatMul (weights, vh)
    back = Transpose <perm = [0, 2, 1, 3]> (mean)
    y = MatMul (back, w)
}}"""
PLAIN, MASKED = "scores = Identity (product)", "scores = Add (product, mask)"


def in_float(kind: FloatAttention, weights, *, queries=QUERIES, keys=KEYS, scores=PLAIN) -> bool:
    """Whether the attention stays in float; the product behind it is quantized in any case."""
    proto = onnx.parser.parse_model(TEXT.format(queries=queries, keys=keys, scores=scores))
    arrays = {"w": weights(16, 16), **({"mask": weights(1, KEYS)} if scores == MASKED else {})}
    for name, array in arrays.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    for node in proto.graph.node:
        node.name = node.output[0]
    onnx.checker.check_model(proto)
    plan = plan_from_graph(
        optimize(ir.from_proto(proto)), msgspec.structs.replace(SCHEME, float_attention=(kind,), stem_channels=0)
    )
    assert "y" in {node.name for node in plan.nodes} and plan.skipped.keys() <= {"product", "mean"}
    return plan.skipped.keys() == {"product", "mean"}


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (FloatAttention(), True),
        (FloatAttention(head_size=SIZE), True),
        (FloatAttention(head_size=SIZE - 1), False),
        (FloatAttention(most_keys=KEYS), True),
        (FloatAttention(most_keys=KEYS - 1), False),
        (FloatAttention(least_length=QUERIES), True),
        (FloatAttention(least_length=QUERIES + 1), False),
        (FloatAttention(head_size=SIZE, most_keys=KEYS, least_length=QUERIES, plain=True), True),
    ],
)
def test_an_attention_of_measured_sizes_stays_in_float(kind, expected, weights):
    assert in_float(kind, weights) is expected


def test_a_mask_keeps_an_attention_from_being_plain(weights):
    assert in_float(FloatAttention(), weights, scores=MASKED)
    assert not in_float(FloatAttention(plain=True), weights, scores=MASKED)


@pytest.mark.parametrize("kind", [FloatAttention(most_keys=KEYS), FloatAttention(least_length=1)])
def test_an_unknown_number_of_keys_fits_no_limit(kind, weights):
    assert not in_float(kind, weights, queries="S", keys="L")
    assert in_float(FloatAttention(head_size=SIZE), weights, queries="S", keys="L")
