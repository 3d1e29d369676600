from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from edgekit.graph.export.module import graph_from_module
from edgekit.graph.passes import InferShapes, optimize
from edgekit.graph.sizes import stats_at
from edgekit.graph.stats import stats_from_graph
from edgekit.models.yolov3 import yolov3_tiny
from edgekit.recipe.schema import load_recipe
from edgekit.specs import Precision, TensorSpec


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.Conv2d(6, 8, 3, stride=2, groups=2), (2, 6, 11, 9)),
        (nn.ConvTranspose2d(6, 8, (2, 3), stride=2, groups=2), (2, 6, 5, 7)),
        (nn.Conv1d(4, 5, 3, bias=False), (1, 4, 20)),
        (nn.Linear(12, 7), (3, 12)),
        (nn.Linear(12, 7), (2, 3, 12)),
    ],
    ids=["conv", "transposed", "1-d", "gemm", "matmul"],
)
def test_counts_agree_with_pytorchs_own(module, shape):
    graph = optimize(graph_from_module(module, [TensorSpec("x", "float32", shape)]))
    stats = stats_from_graph(graph)
    with FlopCounterMode(display=False) as counter:
        module(torch.rand(shape))
    assert stats.macs * 2 == counter.get_total_flops()
    assert stats.parameters == sum(parameter.numel() for parameter in module.parameters())
    assert stats.macs == sum(layer.macs for layer in stats.layers)


def test_yolov3_tiny_has_the_macs_of_its_recipe():
    recipe = load_recipe("yolov3-tiny")
    module = yolov3_tiny()
    graph = optimize(graph_from_module(module, [TensorSpec("images", "float32", recipe.inputs[0].shape)]))
    stats = stats_from_graph(graph)
    assert stats.macs == pytest.approx(recipe.macs, rel=1e-3)
    # A folded norm leaves one bias a channel of its two learned numbers, and still counts as two.
    norms = sum(m.num_features for m in module.modules() if isinstance(m, nn.BatchNorm2d))
    assert stats.parameters == sum(p.numel() for p in module.parameters()) == recipe.model.parameters
    assert stats.weight_bytes >= 4 * (stats.parameters - norms)
    conv = next(layer for layer in stats.layers if layer.operator == "Conv")
    assert (conv.output_shape, conv.parameters, conv.macs) == ((1, 16, 416, 416), 432 + 2 * 16, 416 * 416 * 16 * 27)
    assert conv.weight_bytes == 4 * (432 + 16)
    assert conv.activation_bytes == 4 * (3 + 16) * 416 * 416


def test_shared_weight_counts_once_and_each_use_computes():
    conv = nn.Conv2d(4, 4, 1)
    graph = optimize(
        graph_from_module(nn.Sequential(conv, nn.ReLU(), conv), [TensorSpec("x", "float32", (1, 4, 5, 5))])
    )
    stats = stats_from_graph(graph)
    assert (stats.parameters, stats.macs) == (20, 2 * 25 * 16)
    assert stats.activation_bytes == 3 * 2 * 4 * 4 * 25


def test_dynamic_batch_is_counted_as_one_and_reported():
    graph = optimize(graph_from_module(nn.Conv2d(3, 4, 1), [TensorSpec("x", "float32", ("batch", 3, 8, 8))]))
    stats, of_four = stats_from_graph(graph), stats_at(graph, {"x": (4, 3, 8, 8)})
    assert stats.assumed_sizes == {"batch": 1}
    assert stats.macs == 64 * 12
    assert of_four.assumed_sizes == {"batch": 4}
    assert of_four.macs == 4 * stats.macs
    assert graph.graph.inputs[0].shape[0] == "batch"  # it was a copy that got the size


def test_integer_products_count_as_their_float_counterparts(graph_of):
    text = "agraph (uint8[1, 3, 8, 8] x) => (int32[1, 4, 6, 6] y) { y = ConvInteger (x, w) }"
    stats = stats_from_graph(graph_of(text, w=np.zeros((4, 3, 3, 3), np.int8)))
    assert (stats.macs, stats.parameters) == (36 * 4 * 27, 108)


QUANTIZED = """agraph (float[1, 4, 8, 8] x) => (float[1, 8, 8, 8] y) {
    xq = QuantizeLinear (x, s, z)
    xf = DequantizeLinear (xq, s, z)
    wf = DequantizeLinear (w, s, z)
    c = Conv <pads = [1, 1, 1, 1]> (xf, wf, b)
    r = LeakyRelu (c)
    rq = QuantizeLinear (r, s, z)
    rf = DequantizeLinear (rq, s, z)
    p = MaxPool <kernel_shape = [1, 1]> (rf)
    pq = QuantizeLinear (p, s, z)
    pf = DequantizeLinear (pq, s, z)
    y = Conv (pf, v)
}"""


def test_bytes_and_precisions_are_those_between_q_and_dq(graph_of):
    graph = graph_of(
        QUANTIZED,
        s=np.float32(0.1),
        z=np.int8(0),
        w=np.ones((8, 4, 3, 3), np.int8),
        b=np.ones(8, np.float32),
        v=np.ones((8, 8, 1, 1), np.float32),
    )
    InferShapes()(graph)
    stats = stats_from_graph(graph)
    assert [(layer.operator, layer.precision) for layer in stats.layers] == [
        ("Conv", "int8"), ("LeakyRelu", "float32"), ("MaxPool", "int8"), ("Conv", "float32"),
    ]  # fmt: skip
    conv, leaky, pool, last = stats.layers
    assert (conv.parameters, conv.weight_bytes) == (8 * 36 + 8, 8 * 36 + 4 * 8)
    assert conv.activation_bytes == 4 * 64 + 4 * 8 * 64
    assert leaky.activation_bytes == 4 * 8 * 64 + 8 * 64
    assert pool.activation_bytes == 2 * 8 * 64
    assert last.weight_bytes == 4 * 64
    assert stats.parameters == 8 * 36 + 8 + 64


def test_statistics_of_a_normalization_are_no_parameters():
    norm = nn.BatchNorm2d(5)
    module = nn.Sequential(nn.ReLU(), norm).eval()
    stats = stats_from_graph(optimize(graph_from_module(module, [TensorSpec("x", "float32", (1, 5, 4, 4))])))
    assert stats.parameters == sum(p.numel() for p in norm.parameters()) == 10


def test_casts_between_floats_are_no_layers(graph_of):
    text = """agraph (float[2, 3] x) => (float[2, 4] y) {
        h = Cast <to = 10> (x)
        p = MatMul (h, w)
        y = Cast <to = 1> (p)
    }"""
    graph = graph_of(text, w=np.ones((3, 4), np.float16))
    InferShapes()(graph)
    (product,) = stats_from_graph(graph).layers
    assert (product.operator, product.precision, product.weight_bytes) == ("MatMul", "float16", 24)
    assert product.activation_bytes == 2 * (6 + 8)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_have_the_parameters_of_pytorchs_and_a_product_a_weight_and_step(kind, graph_of):
    width, hidden, steps = 5, 7, 11
    module = kind(width, hidden, bidirectional=True)
    gates = module.weight_ih_l0.shape[0] // hidden
    text = f"""agraph (float[{steps}, 1, {width}] x) => (float[{steps}, 2, 1, {hidden}] y) {{
        y = {kind.__name__} <hidden_size = {hidden}, direction = "bidirectional"> (x, w, r, b, , h)
    }}"""
    weights = {
        "w": np.zeros((2, gates * hidden, width), np.float32),
        "r": np.zeros((2, gates * hidden, hidden), np.float32),
        "b": np.zeros((2, 2 * gates * hidden), np.float32),
        "h": np.zeros((2, 1, hidden), np.float32),
    }
    stats = stats_from_graph(graph_of(text, **weights))
    assert stats.parameters == sum(parameter.numel() for parameter in module.parameters())
    assert stats.macs == steps * sum(p.numel() for name, p in module.named_parameters() if "weight" in name)


@pytest.mark.parametrize(("operator", "size"), [("Attention", 64), ("trt.plugins.EdgeKitAttention", 32)])
def test_attention_in_one_node_counts_as_its_two_products(operator, size):
    text = f"""<ir_version: 11, opset_import: ["" : 23, "trt.plugins" : 1]>
    agraph (float[2, 8, 16, 32] q, float[2, 8, 24, 32] k, float[2, 8, 24, {size}] v) => (float[2, 8, 16, {size}] y) {{
        y = {operator} (q, k, v)
    }}"""
    q, k, v = (torch.rand(2, 8, length, width) for length, width in ((16, 32), (24, 32), (24, size)))
    with FlopCounterMode(display=False) as counter:
        torch.matmul(torch.softmax(torch.matmul(q, k.transpose(-1, -2)), -1), v)
    assert stats_from_graph(ir.from_proto(onnx.parser.parse_model(text))).macs * 2 == counter.get_total_flops()


@pytest.mark.parametrize(
    ("equation", "left", "right", "result", "macs"),
    [
        ("bij,bjk->bik", (2, 3, 4), (2, 4, 5), (2, 3, 5), 2 * 3 * 4 * 5),
        ("...ij,...jk", (2, 3, 4), (2, 4, 5), (2, 3, 5), 2 * 3 * 4 * 5),
        ("i,j->ij", (3,), (4,), (3, 4), 12),
        ("bhqd, bhkd -> b", (1, 2, 3, 4), (1, 2, 5, 4), (1,), 2 * 3 * 4 * 5),
    ],
)
def test_einsum_counts_each_product_that_it_adds_up(equation, left, right, result, macs, graph_of):
    a, b, y = (f"float[{', '.join(map(str, shape))}]" for shape in (left, right, result))
    text = f'agraph ({a} a, {b} b) => ({y} y) {{ y = Einsum <equation = "{equation}"> (a, b) }}'
    assert torch.einsum(equation, torch.rand(left), torch.rand(right)).shape == result
    assert stats_from_graph(graph_of(text)).macs == macs


def test_bytes_are_counted_as_if_the_graph_had_the_precision_that_is_asked_for():
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.PReLU(8))
    graph = optimize(graph_from_module(module, [TensorSpec("x", "float32", (1, 3, 10, 10))]))
    plain, full, half, integers = (
        stats_from_graph(graph, precision=precision) for precision in (None, *map(Precision, ("fp32", "fp16", "int8")))
    )
    assert plain == full
    for found, size, kept in ((full, 4, 4), (half, 2, 2), (integers, 1, 4)):
        conv, relu = found.layers
        assert conv.weight_bytes == 8 * 27 * size + 8 * kept
        assert relu.weight_bytes == 8 * kept
        assert conv.activation_bytes == (300 + 512) * size
        assert (found.parameters, found.macs) == (plain.parameters, plain.macs)
    assert [layer.precision for layer in integers.layers] == ["int8", "int8"]
    assert [layer.precision for layer in half.layers] == ["float16", "float16"]


def test_layers_report_reads_and_writes_through_q_and_dq(graph_of):
    last = "o = Conv (pf, v) oq = QuantizeLinear (o, s, z) y = DequantizeLinear (oq, s, z)"
    graph = graph_of(
        QUANTIZED.replace("y = Conv (pf, v)", last),
        s=np.float32(0.1), z=np.int8(0), w=np.ones((8, 4, 3, 3), np.int8), b=np.ones(8, np.float32),
        v=np.ones((8, 8, 1, 1), np.float32),
    )  # fmt: skip
    wiring = [(layer.operator, layer.reads, layer.writes) for layer in stats_from_graph(graph).layers]
    assert wiring == [
        ("Conv", ("x",), ("c",)),
        ("LeakyRelu", ("c",), ("r",)),
        ("MaxPool", ("r",), ("p",)),
        ("Conv", ("p",), ("o", "y")),
    ]


def test_a_branch_reads_what_it_takes_from_the_graph_around_it(graph_of):
    text = """agraph (bool c, float[2] x) => (float[2] y) {
        a = Abs (x)
        y = If (c) <
            then_branch = yes () => (float[2] t) { t = Neg (a) },
            else_branch = no () => (float[2] e) { e = Relu (a) }
        >
    }"""
    assert stats_from_graph(graph_of(text)).layers[1].reads == ("c", "a")


def test_windows_and_strides_are_reported():
    module = nn.Sequential(nn.Conv2d(3, 4, (3, 1), stride=(2, 1)), nn.MaxPool2d(2), nn.Conv2d(4, 4, 1))
    graph = optimize(graph_from_module(module, [TensorSpec("x", "float32", (1, 3, 16, 16))]))
    told = [(layer.kernel, layer.strides) for layer in stats_from_graph(graph).layers]
    assert told == [((3, 1), (2, 1)), ((2, 2), (2, 2)), ((1, 1), ())]


class Masked(nn.Module):
    """Adds a constant table, a parameter table and a number."""

    def __init__(self) -> None:
        super().__init__()
        self.full = nn.Linear(6, 6)
        self.offset = nn.Parameter(torch.rand(4, 6))
        self.register_buffer("table", torch.rand(4, 6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Shape ``(1, 4, 6)`` in and out."""
        return self.full(x + self.table.flip(0)) * 0.5 + self.offset


def test_tables_and_factors_are_no_parameters(tmp_path):
    module = Masked()
    graph = optimize(graph_from_module(module, [TensorSpec("x", "float32", (1, 4, 6))]))
    learned = sum(parameter.numel() for parameter in module.parameters())
    assert stats_from_graph(graph).parameters == learned == 36 + 6 + 24
    ir.save(graph, tmp_path / "graph.onnx")
    assert stats_from_graph(ir.load(tmp_path / "graph.onnx")).parameters == learned
