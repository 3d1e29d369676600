from __future__ import annotations

import msgspec
import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from edgekit.device.cpu import cpu
from edgekit.engine.backend import backend
from edgekit.errors import GraphError, UsageError
from edgekit.graph.export.module import graph_from_module
from edgekit.graph.passes import InferShapes, optimize
from edgekit.quantize.calibrate.collect import CalibrationTable, observed_tensors
from edgekit.quantize.float_products import FASTER_IN_FLOAT
from edgekit.quantize.head_layers import head_layers
from edgekit.quantize.plan import NEEDS_ZERO_POINT, OF_CONSTANTS, QuantPolicy, plan_from_graph
from edgekit.quantize.qdq import insert_qdq
from edgekit.quantize.quantize import quantized_from_graph
from edgekit.quantize.selections import range_source
from edgekit.specs import TensorSpec

CPU = msgspec.structs.replace(backend("cpu").scheme(), stem_channels=0)
OPENVINO = backend("openvino").scheme()
UNMEASURED = CalibrationTable(method="minmax", set="", set_digest="", graph_digest="", images=0, ranges={})
SCHEMES = pytest.mark.parametrize("scheme", [CPU, OPENVINO], ids=["cpu", "openvino"])

CHAIN = """g (float[1, 4, 8, 8] x) => (float[1, 4, 4, 4] y) {{
    a = Conv (x, w)  l = {activation} (a)  y = Conv (l, w) }}"""


@pytest.fixture
def chain(graph_of, weights):
    def build(activation, **more):
        return graph_of(CHAIN.format(activation=activation), w=weights(4, 4, 3, 3), **more)

    return build


def planned(graph, scheme, *keep, keep_heads=False, ranges=None):
    """Returns the tensors with a pair, the nodes on integers, and the reasons why products stay in float."""
    plan = plan_from_graph(graph, scheme, QuantPolicy(keep, keep_heads=keep_heads), ranges=ranges)
    return [value.name for value in plan.tensors], [node.name for node in plan.nodes], plan.skipped


def test_a_chain_stays_in_integers_from_the_first_layer_to_the_last(chain):
    assert planned(chain("LeakyRelu <alpha = 0.1>"), CPU) == (["x", "a", "l", "y"], ["a", "l", "y"], {})


def test_pairs_are_at_inputs_only_if_the_backend_propagates_integers(chain):
    assert planned(chain("LeakyRelu <alpha = 0.1>"), OPENVINO)[0] == ["x", "l"]


@SCHEMES
def test_there_is_no_pair_between_a_product_and_its_fused_activation(chain, scheme):
    assert "a" not in planned(chain("Relu"), scheme)[0]


@pytest.mark.parametrize(("lo", "fused"), [(0.0, True), (-1.0, False), (0.5, False)])
def test_saturation_replaces_a_clip_only_if_its_lower_limit_is_zero(graph_of, weights, lo, fused):
    text = """g (float[1, 4, 8, 8] x) => (float[1, 4, 4, 4] y) {
        a = Conv (x, w)  l = Clip (a, lo, hi)  y = Conv (l, w) }"""
    graph = graph_of(text, w=weights(4, 4, 3, 3), lo=np.float32(lo), hi=np.float32(1))
    assert ("a" not in planned(graph, CPU)[0]) == fused
    assert planned(graph, OPENVINO)[0] == ["x", "l"]


def test_an_activation_is_not_fused_if_the_product_has_another_consumer(graph_of, weights):
    text = """g (float[1, 4, 8, 8] x) => (float[1, 4, 6, 6] y, float[1, 4, 6, 6] z) {
        a = Conv (x, w)  y = Relu (a)  z = Neg (a) }"""
    assert planned(graph_of(text, w=weights(4, 4, 3, 3)), CPU)[0] == ["x", "a", "y"]


def test_a_sum_runs_on_integers_only_if_both_inputs_are_integers(graph_of, weights):
    text = """g (float[1, 4, 8, 8] x) => (float[1, 4, 8, 8] y, float[1, 4, 8, 8] z) {
        a = Conv (x, w)  b = Conv (a, w)  s = Add (a, b)  y = Relu (s)  z = Add (a, x) }"""
    tensors, nodes, _ = planned(graph_of(text, w=weights(4, 4, 1, 1)), CPU)
    assert tensors == ["x", "a", "b", "y"] and nodes == ["a", "b", "s", "y"]


def test_a_sum_has_pairs_at_both_inputs_if_pairs_are_at_inputs_only(graph_of, weights):
    text = """g (float[1, 4, 8, 8] x) => (float[1, 4, 8, 8] y, float[1, 4, 8, 8] z) {
        a = Conv (x, w)  r = Relu (a)  b = Conv (r, w)
        s = Add (r, b)  t = Relu (s)  y = Conv (t, w)  z = Add (t, x) }"""
    tensors, nodes, _ = planned(graph_of(text, w=weights(4, 4, 1, 1)), OPENVINO)
    assert tensors == ["x", "r", "b", "t"] and nodes == ["a", "r", "b", "s", "t", "y"]


def test_pooling_and_concatenation_of_integers_run_on_integers(graph_of, weights):
    text = """g (float[1, 4, 8, 8] x) => (float[1, 4, 8, 8] y) {
        a = Conv (x, w)  p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (a)
        u = Resize <mode = "nearest"> (p, , s)  l = Resize <mode = "linear"> (p, , s)
        c = Concat <axis = 1> (a, u)  d = Concat <axis = 1> (c, l)  y = Conv (d, v) }"""
    graph = graph_of(text, w=weights(4, 4, 1, 1), v=weights(4, 12, 1, 1), s=np.array([1, 1, 2, 2], np.float32))
    assert planned(graph, CPU)[1] == ["a", "p", "u", "c", "y"]  # interpolation is done in float
    tensors, nodes, _ = planned(graph, OPENVINO)
    assert (tensors, nodes) == (["x", "a", "d"], ["a", "p", "u", "c", "y"])  # no pair after a selection


def test_a_selection_from_a_tensor_has_its_range(graph_of, weights):
    text = """g (float[1, 4, 8, 8] x) => (float[1, 4, 16, 16] y, float[1, 4, 16, 16] z) {
        a = Conv (x, w)  t = Transpose <perm = [0, 1, 3, 2]> (a)
        m = MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (t)
        u = Resize <mode = "nearest"> (m, , s)  c = Resize <mode = "cubic"> (m, , s)
        y = Conv (u, w)  z = Conv (c, w) }"""
    graph = graph_of(text, w=weights(4, 4, 1, 1), s=np.array([1, 1, 2, 2], np.float32))
    sources = {node.name: range_source(node.outputs[0]).name for node in graph.graph}
    assert sources == {"a": "a", "t": "a", "m": "a", "u": "a", "c": "c", "y": "y", "z": "z"}
    assert {value.name for value in observed_tensors(graph)} == {"x", *sources.values()}


def test_pooling_indices_are_not_activations(graph_of, weights):
    text = """g (float[1, 4, 8, 8] x) => (float[1, 4, 4, 4] p, int64[1, 4, 4, 4] i) {
        a = Conv (x, w)  p, i = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (a) }"""
    assert planned(graph_of(text, w=weights(4, 4, 1, 1)), CPU)[0] == ["x", "a", "p"]


def test_a_classifier_outputs_floats(graph_of, weights):
    text = """g (float[1, 4, 8, 8] x) => (float[1, 10] y) {
        a = Conv (x, w)  r = Relu (a)  p = GlobalAveragePool (r)  f = Flatten (p)  y = Gemm (f, v, b) }"""
    graph = graph_of(text, w=weights(8, 4, 3, 3), v=weights(8, 10), b=weights(10, 1).ravel())
    assert planned(graph, CPU, keep_heads=True) == (["x", "r", "p", "f"], ["a", "r", "p", "f", "y"], {})
    assert planned(graph, OPENVINO, keep_heads=True)[0] == ["x", "r", "f"]


@pytest.mark.parametrize("activation", ["Relu (y)", "Clip (y, lo, hi)"])
def test_the_activation_behind_a_classifier_computes_floats(graph_of, weights, activation):
    text = f"""g (float[4, 8] x) => (float[4, 10] y, float[4, 10] z) {{
        y = Gemm (x, v)  a = {activation}  z = Mul (a, y) }}"""
    graph = graph_of(text, v=weights(8, 10), lo=np.float32(0), hi=np.float32(0.7))
    assert planned(graph, CPU) == (["x"], ["y"], {})


def test_the_first_convolutions_stay_in_float_while_they_read_few_channels(graph_of, weights):
    text = """g (float[1, 3, 8, 8] x) => (float[1, 8, 2, 2] y) {
        a = Conv <strides = [2, 2]> (x, w)  r = LeakyRelu (a)  b = Conv <strides = [2, 2]> (r, v)  c = Conv (b, v)
        d = Conv <group = 8> (c, u)  y = Conv (d, v) }"""
    graph = graph_of(text, w=weights(8, 3, 1, 1), v=weights(8, 8, 1, 1), u=weights(8, 1, 1, 1))

    def kept(channels):
        return list(planned(graph, msgspec.structs.replace(CPU, stem_channels=channels))[2])

    assert (kept(2), kept(3), kept(7), kept(8), kept(99)) == ([], ["a"], ["a"], ["a", "b"], ["a", "b"])
    assert planned(graph, OPENVINO)[2] == {}


def test_a_shortcut_around_the_first_block_after_a_float_stem_runs_on_integers(graph_of, weights):
    text = """g (float[1, 3, 8, 8] x) => (float[1, 8, 4, 4] y) {
        a = Conv <strides = [2, 2]> (x, w)  r = LeakyRelu (a)  b = Conv (r, v)  s = Add (r, b)  y = Conv (s, v) }"""
    scheme = msgspec.structs.replace(CPU, stem_channels=3)
    graph = graph_of(text, w=weights(8, 3, 1, 1), v=weights(8, 8, 1, 1))
    assert planned(graph, scheme) == (
        ["r", "b", "s", "y"],
        ["b", "s", "y"],
        {"a": "it is one of the first convolutions and reads 3 channels"},
    )


def test_grouped_convolutions_are_not_a_stem(graph_of, weights):
    text = "g (float[1, 4, 8, 8] x) => (float[1, 4, 8, 8] y) { y = Conv <group = 4> (x, w) }"
    scheme = msgspec.structs.replace(CPU, stem_channels=16)
    assert planned(graph_of(text, w=weights(4, 1, 1, 1)), scheme)[2] == {}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("(float[4, 4] x, float[4, 4] w) => (float[4, 4] y) { y = Gemm (x, w) }", "its weights are computed"),
        ("(float[4, 4] x) => (float[4, 4] y) { y = MatMul (m, x) }", "its first factor is constant"),
        ("(float[4, 4] x) => (float[4] y) { y = MatMul (x, v) }", "its weights are a vector"),
        ("(float[4] x) => (float[4] y) { y = MatMul (x, m) }", "its input is a vector"),
        ("(float[4, 4] x) => (float[4, 4] y) { y = Gemm <transA = 1> (x, m) }", "it scales or transposes its factors"),
        ("(double[4, 4] x) => (double[4, 4] y) { y = MatMul (x, x) }", "its inputs are not float32"),
    ],
)
@SCHEMES
def test_products_that_have_no_integer_kernel_stay_in_float(graph_of, weights, scheme, text, reason):
    arguments = text[text.rindex("(") : text.rindex(")")]
    own = {name: array for name, array in {"m": weights(4, 4), "v": weights(4, 1).ravel()}.items() if name in arguments}
    graph = graph_of(f"g {text}", **own)
    assert planned(graph, scheme) == ([], [], {"y": reason})
    with pytest.raises(GraphError, match=f"nothing in the graph can be quantized.*{reason}"):
        graph = quantized_from_graph(graph, UNMEASURED, scheme).graph


@pytest.mark.parametrize("shape", [(4, 1), (4, 6), None])
def test_a_bias_that_is_not_one_number_per_channel_keeps_a_product_in_float_if_biases_are_integers(
    graph_of, weights, shape
):
    computed = ", float[6] b" if shape is None else ""
    text = f"g (float[4, 8] x{computed}) => (float[4, 6] y) {{ y = Gemm (x, w, b) }}"
    own = {} if shape is None else {"b": weights(*shape)}
    graph = graph_of(text, w=weights(8, 6), **own)
    assert planned(graph, CPU)[2] == {"y": "its bias is not one constant per channel"}
    assert planned(graph, OPENVINO) == (["x"], ["y"], {})


def test_products_of_two_activations_run_on_integers_where_the_backend_can(graph_of, weights):
    text = """g (float[1, 8, 8] x) => (float[1, 8, 8] y) {
        q = MatMul (x, w)  k = MatMul (x, v)  t = Transpose <perm = [0, 2, 1]> (k)  y = MatMul (q, t) }"""
    graph = graph_of(text, w=weights(8, 8), v=weights(8, 8, seed=1))
    assert planned(graph, CPU) == (["x", "q", "t"], ["q", "k", "y"], {})
    assert planned(graph, OPENVINO) == (["x"], ["q", "k"], {"y": "it multiplies two activations"})


@SCHEMES
@pytest.mark.parametrize(("pattern", "kept"), [("a", {"a"}), ("*", {"a", "y"}), ("[yz]", {"y"})])
def test_layers_are_kept_in_float_by_patterns_of_their_names(chain, scheme, pattern, kept):
    tensors, nodes, skipped = planned(chain("LeakyRelu"), scheme, pattern)
    assert skipped == dict.fromkeys(kept, f"kept by '{pattern}'")
    assert not kept & set(nodes)
    assert ("x" in tensors) == ("a" not in kept)


@SCHEMES
def test_error_on_a_pattern_that_matches_nothing(graph_of, weights, scheme):
    text = "g (float[1, 4, 8, 8] x) => (float[1, 4, 6, 6] head32) { head32 = Conv (x, w) }"
    graph = graph_of(text, w=weights(4, 4, 3, 3))
    with pytest.raises(
        UsageError, match="keep-float pattern 'haed32' matches no node of the graph\ndid you mean head32"
    ):
        planned(graph, scheme, "haed32")


class Detector(torch.nn.Module):
    """A head as in YOLOv8: boxes as distributions over distances, whose means a convolution computes."""

    def __init__(self):
        super().__init__()
        self.body = torch.nn.Conv2d(4, 24, 3, padding=1)
        self.box = torch.nn.Sequential(
            torch.nn.Conv2d(24, 24, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(24, 64, 1)
        )
        self.score = torch.nn.Conv2d(24, 20, 1)
        self.mean = torch.nn.Conv2d(16, 1, 1, bias=False)

    def forward(self, images):
        features = torch.relu(self.body(images))
        boxes = self.box(features).flatten(2)
        distances = self.mean(boxes.view(1, 4, 16, 64).transpose(2, 1).softmax(1)).view(1, 4, 64)
        near, far = distances.chunk(2, 1)
        boxes = torch.cat(((far + near) / 2, far - near), 1) * 8
        return torch.cat((boxes, self.score(features).flatten(2).sigmoid()), 1)


def test_heads_of_a_detector_stay_in_float_with_their_decoding():
    module = Detector().eval()
    graph = optimize(graph_from_module(module, [TensorSpec("images", "float32", (1, 4, 8, 8))], ["boxes"]))
    shapes = {node: node.inputs[1].shape.numpy() for node in head_layers(graph)}
    assert sorted(shapes.values()) == [(1, 16, 1, 1), (20, 24, 1, 1), (64, 24, 1, 1)]
    plan = plan_from_graph(graph, CPU, QuantPolicy(keep_heads=True))
    products = [node.inputs[1].shape.numpy() for node in plan.nodes if node.op_type == "Conv"]
    assert products == [(24, 4, 3, 3), (24, 24, 3, 3)]
    assert set(plan.skipped.values()) == {"the last layer before an output"}


def test_heads_of_several_scales_stay_in_float_and_scores_do_not(graph_of, weights):
    text = """g (float[1, 16, 8, 8] x) => (float[1, 16, 8, 8] fine, float[1, 16, 4, 4] coarse, float[1, 4] scores) {
        a = Conv (x, w)  fine = Conv (a, w)  b = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (a)
        c = Conv (b, w)  l = Conv (c, w)  coarse = Sigmoid (l)
        p = GlobalAveragePool (c)  f = Flatten (p)  scores = Gemm (f, v) }"""
    graph = graph_of(text, w=weights(16, 16, 1, 1), v=weights(16, 4))
    assert {node.name for node in head_layers(graph)} == {"fine", "l"}


SPLIT = """g (float[1, 4, 8, 8] x) => (float[1, 6, 6, 6] y) {{
    a = Conv (x, w)  l = LeakyRelu (a)  y = Conv {window} ({read}, head) }}"""


@pytest.mark.parametrize(
    ("text", "channels", "read"),
    [
        (SPLIT.format(window="", read="l"), 8, True),
        (SPLIT.format(window="", read="l"), 9, False),
        (SPLIT.format(window="", read="l"), 0, False),
        (SPLIT.format(window="<pads = [1, 1, 1, 1]>", read="l"), 8, False),
        (SPLIT.format(window="<strides = [2, 2]>", read="l"), 8, False),
        (SPLIT.format(window="", read="x"), 4, False),
    ],
)
def test_a_float_head_reads_integers_if_the_backend_splits_its_weights(graph_of, weights, text, channels, read):
    inputs = 4 if "(x, head)" in text else 8
    graph = graph_of(text, w=weights(8, 4, 3, 3), head=weights(6, inputs, 1, 1))
    scheme = msgspec.structs.replace(OPENVINO, split_channels=channels)
    plan = plan_from_graph(graph, scheme, QuantPolicy(("y",)))
    assert [node.name for node in plan.split] == (["y"] if read else [])
    assert ("l" in [value.name for value in plan.tensors]) == read
    insert_qdq(graph, plan, dict.fromkeys(("x", "l"), (-1.0, 2.0)), scheme)
    head = next(node for node in graph.graph if node.name == "y")
    producer = head.inputs[0].producer()
    assert (producer is not None and producer.op_type == "DequantizeLinear") == read
    assert head.inputs[1].const_value.numpy().dtype == np.float32


def test_blocks_of_a_residual_backbone_are_not_heads(graph_of, weights):
    text = """g (float[1, 32, 8, 8] x) => (float[1, 32, 8, 8] y) {
        a = Conv <kernel_shape = [1, 1]> (x, w1) s = Add (x, a)
        b = Conv <kernel_shape = [1, 1]> (s, w2) t = Add (s, b)
        c = Conv <kernel_shape = [1, 1]> (t, w3) y = Add (t, c)
    }"""
    graph = graph_of(text, **{f"w{i}": weights(32, 32, 1, 1, seed=i) for i in (1, 2, 3)})
    assert [node.outputs[0].name for node in head_layers(graph)] == ["c"]


@pytest.mark.parametrize(
    ("number", "mode", "range_of"),
    [(9.0, "linear", "u"), (9.0, "nearest", "u"), (0.0, "linear", "r"), (None, "linear", "r")],
)
def test_a_resize_that_fills_pixels_has_a_range_of_its_own(graph_of, weights, number, mode, range_of):
    crop = f', coordinate_transformation_mode = "tf_crop_and_resize", extrapolation_value = {number}'
    text = f"""g (float[1, 4, 8, 8] x) => (float[1, 4, 6, 6] y) {{
        c = Conv <pads = [1, 1, 1, 1]> (x, w)  r = Relu (c)
        u = Resize <mode = "{mode}"{crop if number is not None else ""}> (r, roi, none, size)  y = Conv (u, w) }}"""
    roi = np.asarray((0, 0, -0.5, -0.5, 1, 1, 1.5, 1.5), np.float32)
    size = np.asarray((1, 4, 8, 8))
    graph = graph_of(text, w=weights(4, 4, 3, 3), roi=roi, none=np.empty(0, np.float32), size=size)
    (resize,) = (node for node in graph.graph if node.op_type == "Resize")
    assert range_source(resize.outputs[0]).name == range_of
    assert (resize.outputs[0] in observed_tensors(graph)) == (range_of == "u")
    for scheme in (CPU, OPENVINO):
        assert resize not in plan_from_graph(graph, scheme).nodes


@pytest.mark.parametrize(("lo", "reason"), [(-0.3, NEEDS_ZERO_POINT), (0.0, None)])
def test_a_transposed_convolution_of_negative_values_stays_in_float_without_a_zero_point(graph_of, weights, lo, reason):
    text = """g (float[1, 4, 8, 8] x) => (float[1, 4, 14, 14] y) {
        a = Conv (x, w)  s = Sigmoid (a)  m = Mul (a, s)  t = Reshape (m, shape)
        u = ConvTranspose <strides = [2, 2]> (t, k)  y = Conv (u, p) }"""
    shape = np.array([1, 4, 6, 6], np.int64)
    graph = graph_of(text, w=weights(4, 4, 3, 3), k=weights(4, 4, 4, 4), p=weights(4, 4, 1, 1), shape=shape)
    ranges = {"m": (lo, 3.0)}
    assert planned(graph, OPENVINO, ranges=ranges)[2].get("u") == reason
    assert "u" not in planned(graph, OPENVINO)[2]


def test_a_product_of_which_only_the_shape_is_read_stays_in_float(graph_of, weights):
    text = """g (float[n, 4, 8, 8] x) => (float[n, 4, 6, 6] y, int64[4] z) {
        a = Conv (x, w)  z = Shape (a)  y = Conv (x, w) }"""
    tensors, nodes, skipped = planned(graph_of(text, w=weights(4, 4, 3, 3)), CPU)
    assert tensors == ["x", "y"] and nodes == ["y"] and skipped == {"a": "only its shape is read"}


@pytest.mark.parametrize(
    ("groups", "sizes", "kept"),
    [
        (8, (16, 1, 3, 3), ("cpu", "openvino")),  # a multiplier
        (4, (8, 2, 3, 3), ("cpu",)),
        (2, (8, 4, 3, 3), ("cpu",)),
        (1, (8, 8, 3, 3), ()),
        (8, (8, 1, 3, 3), ()),  # depthwise
        (8, (8, 1, 5, 5), ("cpu",)),
        (1, (8, 3, 3, 3), ()),
        (1, (8, 2, 3, 3), ("cpu",)),
        (1, (8, 2, 1, 1), ()),
    ],
)
@pytest.mark.skipif(cpu().arch != "x86_64", reason="measured on x86")
def test_convolutions_of_few_channels_stay_in_float_where_they_are_faster_so(graph_of, weights, groups, sizes, kept):
    text = f"""g (float[1, {groups * sizes[1]}, 8, 8] x) => (float[1, 4, 1, 1] y) {{
        l = Conv <group = {groups}> (x, w)  c = Conv (l, v)  y = GlobalAveragePool (c) }}"""
    graph = graph_of(text, w=weights(*sizes), v=weights(4, sizes[0], 1, 1))
    for name, scheme in (("cpu", CPU), ("openvino", OPENVINO)):
        assert planned(graph, scheme)[2] == ({"l": FASTER_IN_FLOAT} if name in kept else {})


@pytest.mark.parametrize(
    ("behind", "kept"), [("m", True), ("m2", True), ("r", False)], ids=["directly", "scaled", "after a ReLU"]
)
def test_a_matrix_product_before_an_average_of_pads_stays_in_float(graph_of, weights, behind, kept):
    text = f"""g (float[2, 2, 4, 4] x) => (float[2, 2, 4, 3] y) {{
        m = MatMul (x, w)  m2 = Mul (m, b)  r = Relu (m)
        y = AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1], count_include_pad = 1> ({behind}) }}"""
    graph = graph_of(text, w=weights(4, 3), b=weights(3, 1).ravel())
    assert bool(planned(graph, OPENVINO)[2]) == kept
    assert not planned(graph, CPU)[2]


def test_a_sequence_of_tensors_has_no_range() -> None:
    text = """<ir_version: 9, opset_import: ["" : 20]>
    g (float[2, 8] x) => (float[2, m] y) <int64[2] sizes = {3, 5}, int64 first = {0}> {
        a = Exp (x)  parts = SplitToSequence <axis = 1> (a, sizes)  p = SequenceAt (parts, first)  y = Neg (p) }"""
    graph = ir.from_proto(onnx.parser.parse_model(text))
    InferShapes()(graph)
    assert {value.name for value in observed_tensors(graph)} == {"x", "a", "p", "y"}


TILES = msgspec.structs.replace(CPU, limits=CPU.limits | {"columns-of-a-part-of-a-tile"}, slow_convolutions=())


@pytest.mark.parametrize(
    ("outputs", "groups", "on_integers"),
    [(16, 1, True), (12, 1, True), (24, 1, False), (32, 1, True), (68, 1, False), (96, 4, False), (64, 64, True)],
)
def test_convolutions_of_columns_that_the_library_computes_wrong_stay_in_float(
    graph_of, weights, outputs, groups, on_integers
):
    graph = graph_of(
        f"g (float[1, 64, 8, 8] x) => (float[1, {outputs}, 8, 8] y) {{ y = Conv <group = {groups}> (x, w) }}",
        w=weights(outputs, 64 // groups, 1, 1),
    )
    skipped = planned(graph, TILES)[2]
    assert bool(skipped) != on_integers
    assert all("computes so many columns wrong" in reason for reason in skipped.values())


@pytest.mark.parametrize("columns", [16, 24, 48, 65])
def test_matrix_products_of_such_columns_stay_in_float_too(graph_of, weights, columns):
    constant = graph_of(
        f"g (float[1, 9, 32] x) => (float[1, 9, {columns}] y) {{ y = MatMul (x, w) }}", w=weights(32, columns)
    )
    computed = graph_of(
        f"g (float[1, 9, 32] x, float[1, 32, {columns}] z) => (float[1, 9, {columns}] y) {{ y = MatMul (x, z) }}"
    )
    for graph in (constant, computed):
        assert bool(planned(graph, TILES)[2]) == (columns in (24, 65))


@pytest.mark.parametrize(
    ("channels", "outputs", "groups", "on_integers"),
    [(6, 48, 2, False), (6, 65, 4, False), (6, 64, 2, False), (6, 32, 2, True), (32, 48, 2, True), (6, 48, 1, True)],
)
def test_openvino_keeps_groups_in_float_whose_zero_points_it_mixes_up(
    graph_of, weights, channels, outputs, groups, on_integers
):
    graph = graph_of(
        f"""g (float[1, {channels * groups}, 8, 8] x) => (float[1, {outputs * groups}, 8, 8] y) {{
            y = Conv <group = {groups}, pads = [1, 1, 1, 1]> (x, w) }}""",
        w=weights(outputs * groups, channels, 3, 3),
    )
    skipped = planned(graph, msgspec.structs.replace(OPENVINO, stem_channels=0))[2]
    assert bool(skipped) != on_integers
    assert all("zero point of one group" in reason for reason in skipped.values())


@SCHEMES
def test_a_product_that_depends_on_no_input_stays_in_float(graph_of, weights, scheme):
    text = """g (float[1, 8, 16] x) => (float[1, 8, 16] y) {
        n, mean = LayerNormalization (queries, gain)  q = MatMul (n, w)  k = MatMul (x, w)
        s = Sum (q, k, mean)  y = MatMul (s, w) }"""  # a norm of two results is not folded
    graph = graph_of(text, queries=weights(1, 8, 16), gain=weights(16), w=weights(16, 16))
    _, nodes, skipped = planned(graph, scheme)
    assert set(nodes) >= {"k", "y"}
    assert skipped == {"q": OF_CONSTANTS}
