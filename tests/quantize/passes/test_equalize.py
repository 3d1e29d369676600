"""Equalized graphs compute the same outputs, and their quantized versions have a smaller error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from torch import nn

from edgekit.engine.backend import BuildOptions
from edgekit.engine.onnxruntime.backend import OnnxRuntime
from edgekit.graph.export.module import graph_from_module
from edgekit.graph.file import input_specs
from edgekit.graph.passes import optimize
from edgekit.quantize.calibrate.collect import (
    CalibrationTable,
    channels_from_statistics,
    collect_statistics,
    observed_tensors,
    ranges_from_statistics,
)
from edgekit.quantize.passes.equalize import equalized_ranges
from edgekit.quantize.plan import plan_from_graph
from edgekit.quantize.quantize import quantized_from_graph
from edgekit.quantize.selections import range_source
from edgekit.specs import Precision, QuantScheme, TensorSpec

Feeds = list[dict[str, np.ndarray]]
Outputs = list[dict[str, np.ndarray]]

OPERATORS = OnnxRuntime().scheme().operators
EVERYWHERE = QuantScheme(
    activation_dtype="uint8",
    operators=OPERATORS,
    quantize_outputs=OPERATORS,
    fused_activations=frozenset({"Relu", "Clip"}),
    float_bias=False,
)
AT_INPUTS = QuantScheme(activation_dtype="int8", operators=frozenset({"Conv"}))
# Operators after an equalized tensor `a` with 8 channels of 8 x 8 pixels; `b` has as many channels.
WAYS = {
    "LeakyRelu": "b = LeakyRelu <alpha = 0.1> (a)",
    "LeakyRelu that turns signs": "b = LeakyRelu <alpha = -0.5> (a)",
    "steep LeakyRelu": "b = LeakyRelu <alpha = 3.0> (a)",
    "LeakyRelu of ONNX's own slope": "b = LeakyRelu (a)",
    "Relu": "b = Relu (a)",
    "nothing between": "b = Identity (a)",
    "MaxPool": "b = MaxPool <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]> (a)",
    "pooled, then activated": "p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (a) b = LeakyRelu (p)",
    "averaged, then activated": "p = AveragePool <kernel_shape = [2, 2], pads = [1, 1, 0, 0]> (a) b = Relu (p)",
    "AveragePool": "r = Relu (a) b = AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (r)",
    "GlobalAveragePool": "r = LeakyRelu (a) b = GlobalAveragePool (r)",
    "nearest Resize": "r = Relu (a) b = Resize <mode = 'nearest'> (r, , twice)",
    "linear Resize": "r = LeakyRelu (a) b = Resize <mode = 'linear'> (r, , twice)",
    "read twice": "r = LeakyRelu <alpha = 0.1> (a) b = MaxPool <kernel_shape = [2, 2]> (a) other = Conv (r, w2)",
    "twice in one Concat": "b8 = Relu (a) c = Concat <axis = 1> (x, b8, b8) b = Conv (c, wide)",
    "Concat, then activated": "c = Concat <axis = 1> (a, a) d = LeakyRelu <alpha = 0.1> (c) b = Conv (d, double)",
    "Concat of two": "a2 = Conv (x, w3) d = Concat <axis = 1> (a2, a) c = Concat <axis = 1> (d, x) b = Conv (c, wide)",
}


def module_graph(module: nn.Module, *shape: int) -> ir.Model:
    return optimize(graph_from_module(module, [TensorSpec("x", "float32", shape)], ["y"]))


def way_graph(graph_of: Callable[..., ir.Model], way: str, scales: np.ndarray, seed: int = 0) -> ir.Model:
    """Two Convs with operators between them; the first outputs 8 channels of these scales."""
    random = np.random.default_rng(seed)

    def weights(*shape: int) -> np.ndarray:
        return (random.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)

    first, bias = weights(8, 4, 3, 3), random.standard_normal(8).astype(np.float32)
    column = scales.astype(np.float32)
    body = WAYS[way].replace("'", '"')
    also = ", float[n, k, h2, w2_] other" if "other" in body else ""
    return graph_of(
        f"g (float[1, 4, 8, 8] x) => (float[1, 6, h, w] y{also}) {{ a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)"
        f" {body} y = Conv <pads = [1, 1, 1, 1]> (b, last) }}",
        w1=first * column[:, None, None, None],
        b1=bias * column,
        w2=weights(5, 8, 1, 1),
        w3=weights(8, 4, 1, 1) * column[::-1, None, None, None],
        wide=weights(8, 20, 1, 1),
        double=weights(8, 16, 1, 1),
        last=(weights(6, 8, 3, 3) / (column[:, None, None] if "Concat" not in way else 1)).astype(np.float32),
        twice=np.array([1, 1, 2, 2], np.float32),
    )


def feeds_of(graph: ir.Model, count: int = 4) -> Feeds:
    specs = input_specs(graph)
    return [
        {s.name: np.random.default_rng(seed).standard_normal(s.shape).astype(np.float32) for s in specs}
        for seed in range(count)
    ]


def table_of(graph: ir.Model, feeds: Feeds) -> CalibrationTable:
    named = [(str(i), arrays) for i, arrays in enumerate(feeds)]
    collected = collect_statistics(graph, observed_tensors(graph), named, method="minmax", threads=1)
    return CalibrationTable(
        method="minmax",
        set="random",
        set_digest="",
        graph_digest="",
        images=collected.inputs,
        ranges=ranges_from_statistics(collected.statistics, "minmax"),
        channels=channels_from_statistics(graph, collected.statistics),
    )


def tensors_of(graph: ir.Model, feeds: Feeds) -> Outputs:
    """Computes all tensors by name in ONNX Runtime without optimizations, in double precision if possible."""
    model = ir.to_proto(graph)
    known = {output.name for output in model.graph.output}
    for node in model.graph.node:
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in node.output if name not in known)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return [dict(zip(names, session.run(names, arrays), strict=True)) | arrays for arrays in feeds]


def weights_of(graph: ir.Model) -> dict[str, np.ndarray]:
    return {name: value.const_value.numpy().copy() for name, value in graph.graph.initializers.items()}


def equalize(graph: ir.Model, feeds: Feeds, scheme: QuantScheme = EVERYWHERE) -> dict[str, tuple[float, float]]:
    table = table_of(graph, feeds)
    return equalized_ranges(graph, plan_from_graph(graph, scheme), table.ranges, table.channels)


def assert_same_outputs(graph: ir.Model, before: Outputs, feeds: Feeds) -> None:
    after = tensors_of(graph, feeds)
    for output in graph.graph.outputs:
        for a, b in zip(before, after, strict=True):
            assert np.isfinite(b[output.name]).all()
            size = np.abs(a[output.name]).max()
            np.testing.assert_allclose(b[output.name], a[output.name], rtol=1e-5, atol=1e-5 * size)


def assert_within_ranges(graph: ir.Model, ranges: dict[str, tuple[float, float]], feeds: Feeds) -> None:
    """Checks that each tensor stays within its range, except for large negative inputs of a LeakyRelu."""
    seen = tensors_of(graph, feeds)
    clipped: set[ir.Value] = set()
    for node in graph.graph:
        if node.op_type == "LeakyRelu":
            clipped |= {node.inputs[0], range_source(node.inputs[0])}
        if node.op_type == "LeakyRelu" or (node.op_type != "Conv" and clipped & set(node.inputs)):
            clipped.add(node.outputs[0])
    checked = 0
    for value in [output for node in graph.graph for output in node.outputs] + list(graph.graph.inputs):
        name = str(range_source(value).name)
        if name not in ranges:
            continue
        lo, hi = ranges[name]
        arrays = np.concatenate([arrays[value.name].ravel() for arrays in seen])
        slack = 1e-5 * max(hi, -lo)
        assert lo <= 0 <= hi and np.isfinite([lo, hi]).all()
        assert arrays.max() <= hi + slack, value.name
        if value not in clipped:
            assert arrays.min() >= lo - slack, value.name
        checked += 1
    assert checked >= 3


spread = st.lists(st.floats(-3, 3), min_size=8, max_size=8).map(lambda powers: 10.0 ** np.array(powers))


@pytest.mark.parametrize("way", WAYS)
@settings(
    max_examples=2,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
)
@given(scales=spread, scheme=st.sampled_from([EVERYWHERE, AT_INPUTS]), seed=st.integers(0, 999))
def test_outputs_stay_and_ranges_hold(
    graph_of: Callable[..., ir.Model], way: str, scales: np.ndarray, scheme: QuantScheme, seed: int
) -> None:
    graph = way_graph(graph_of, way, scales, seed)
    feeds = feeds_of(graph, 2)
    before, weights = tensors_of(graph, feeds), weights_of(graph)
    ranges = equalize(graph, feeds, scheme)
    assert any((array != weights[name]).any() for name, array in weights_of(graph).items())
    assert_same_outputs(graph, before, feeds)
    assert_within_ranges(graph, ranges, feeds)
    onnx.checker.check_model(ir.to_proto(graph))


@settings(max_examples=2, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(
    channels=st.lists(st.integers(1, 9), min_size=2, max_size=4),
    slope=st.sampled_from([0.0, 0.01, 0.1, 0.3, 1.0]),
    seed=st.integers(0, 999),
)
def test_chains_of_modules_keep_their_outputs(channels: list[int], slope: float, seed: int) -> None:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for before, after in zip([3, *channels], [*channels, 4], strict=True):
        conv = nn.Conv2d(before, after, 3, padding=1, bias=seed % 2 == 0)
        with torch.no_grad():
            conv.weight *= 10 ** (6 * torch.rand(after, 1, 1, 1) - 3)
        layers += [conv, nn.LeakyReLU(slope) if slope else nn.ReLU()]
    module = nn.Sequential(*layers[:-1])
    graph = module_graph(module, 1, 3, 8, 8)
    own = {name: parameter.clone() for name, parameter in module.state_dict().items()}
    feeds = feeds_of(graph, 2)
    before = tensors_of(graph, feeds)
    ranges = equalize(graph, feeds)
    assert_same_outputs(graph, before, feeds)
    assert_within_ranges(graph, ranges, feeds)
    for name, parameter in module.state_dict().items():  # the graph shares the module's memory
        assert torch.equal(parameter, own[name])


LEFT_ALONE = {
    "it is an output": ("y = Relu (b)", ", float[1, 8, 8, 8] a"),
    "what it became is an output": ("y = Conv (b, one)", ", float[1, 8, 8, 8] b"),
    "Add reads it": ("c = Conv (b, one) y = Add (c, a)", ""),
    "Sigmoid reads it": ("c = Sigmoid (b) y = Conv (c, one)", ""),
    "PRelu reads it": ("c = PRelu (b, slopes) y = Conv (c, one)", ""),
    "MatMul reads it": ("c = MatMul (b, square) y = Conv (c, one)", ""),
    "a Conv in groups reads it": ("y = Conv <group = 2> (b, grouped)", ""),
    "a depthwise Conv reads it": ("y = Conv <group = 8> (b, depthwise)", ""),
    "one of two readers is none": ("c = Conv (b, one) d = HardSwish (b) y = Add (c, d)", ""),
    "the readers share weights": ("c = Conv (b, one) d = Conv (x, one) y = Add (c, d)", ""),
    "a Conv reads it as weights": ("c = Conv (x, b) d = Conv (b, one) y = Add (c, d)", ""),
    "it is concatenated along pixels": ("c = Concat <axis = 2> (b, b) y = Conv (c, one)", ""),
    "channels are resized": ("c = Resize <mode = 'nearest'> (b, , channels) y = Conv (c, half)", ""),
    "pixels from outside are 1": (
        "c = Resize <mode = 'linear', extrapolation_value = 1.0, coordinate_transformation_mode = 'tf_crop_and_resize'>"
        " (b, roi, twice) y = Conv (c, one)",
        "",
    ),
    "cubic interpolation reaches beyond": ("c = Resize <mode = 'cubic'> (b, , twice) y = Conv (c, one)", ""),
    "the reader's weights are an output": ("y = Conv (b, one)", ", float[8, 8, 1, 1] one"),
    "its own weights are shared": ("d = Conv (x, first) y0 = Conv (b, one) y = Sub (y0, d)", ""),
    "its own bias is shared": ("d = Conv (x, other, bias) y0 = Conv (b, one) y = Sub (y0, d)", ""),
    "its bias is computed": ("y = Conv (b, one)", "bias of x"),
}


@pytest.mark.parametrize("why", LEFT_ALONE)
def test_weights_stay_where(graph_of: Callable[..., ir.Model], weights: Callable[..., np.ndarray], why: str) -> None:
    body, outputs = LEFT_ALONE[why]
    bias = "bias"
    if outputs == "bias of x":
        outputs, bias = "", "computed"
        body = "m = ReduceMean <keepdims = 0> (x, axes) computed = Add (m, bias) " + "{0}" + body
    conv = f"a = Conv (x, first, {bias}) b = LeakyRelu <alpha = 0.1> (a) "
    text = body.replace("{0}", conv) if "{0}" in body else conv + body
    graph = graph_of(
        f"g (float[1, 8, 8, 8] x) => (float[1, 8, h, w] y{outputs}) {{ {text} }}".replace("'", '"'),
        first=weights(8, 8, 1, 1) * np.logspace(-2, 2, 8, dtype=np.float32)[:, None, None, None],
        bias=np.arange(8, dtype=np.float32),
        one=weights(8, 8, 1, 1, seed=1),
        other=weights(8, 8, 1, 1, seed=2),
        half=weights(8, 4, 1, 1),
        grouped=weights(8, 4, 1, 1),
        depthwise=weights(8, 1, 1, 1),
        square=weights(8, 8),
        slopes=np.linspace(-1, 1, 8, dtype=np.float32).reshape(8, 1, 1),
        twice=np.array([1, 1, 2, 2], np.float32),
        roi=np.array([0, 0, 0, 0, 1, 1, 2, 2], np.float32),
        channels=np.array([1, 0.5, 1, 1], np.float32),
        axes=np.array([0, 2, 3], np.int64),
    )
    feeds, kept = feeds_of(graph, 2), weights_of(graph)
    before = tensors_of(graph, feeds)
    ranges = equalize(graph, feeds)
    for name, array in weights_of(graph).items():
        if name in ("first", "bias", "one"):
            np.testing.assert_array_equal(array, kept[name], err_msg=name)
    assert_same_outputs(graph, before, feeds)
    if why != "a Conv reads it as weights":
        assert_within_ranges(graph, ranges, feeds)


@pytest.mark.parametrize(
    ("weight", "bias"),
    [
        (0.0, 0.0),
        (0.0, -3.0),
        (0.0, 5.0),
        (1e-6, -1e3),
        (1e-30, 0.0),
        (1e-38, 0.0),
        (1e-42, 0.0),
        (1e18, 0.0),
        (1e30, 0.0),
    ],
)
@pytest.mark.parametrize("all_channels", [False, True])
@pytest.mark.parametrize("activation", ["Relu", "LeakyRelu", "Identity"])
@pytest.mark.filterwarnings("error")
def test_degenerate_channels_cause_no_infinity(
    graph_of: Callable[..., ir.Model],
    weights: Callable[..., np.ndarray],
    weight: float,
    bias: float,
    all_channels: bool,
    activation: str,
) -> None:
    chosen = slice(None) if all_channels else slice(2, 4)
    first, biases = weights(8, 4, 3, 3), np.ones(8, np.float32)
    first[chosen] *= np.float32(weight)
    biases[chosen] = bias
    graph = graph_of(
        f"g (float[1, 4, 8, 8] x) => (float[1, 4, h, w] y) {{ a = Conv (x, w1, b1) b = {activation} (a)"
        " y = Conv (b, w2) }",
        w1=first,
        b1=biases,
        w2=weights(4, 8, 3, 3),
    )
    feeds = feeds_of(graph, 2)
    before = tensors_of(graph, feeds)
    ranges = equalize(graph, feeds)
    assert all(np.isfinite(array).all() for array in weights_of(graph).values())
    assert_same_outputs(graph, before, feeds)
    assert_within_ranges(graph, ranges, feeds)


def quantization_sqnr_db(graph: ir.Model, folder: Path, feeds: Feeds, *, equalized: bool) -> float:
    """Computes the SNR of the engine against the float graph, over all outputs."""
    exact, graph = tensors_of(graph, feeds), ir.from_proto(ir.to_proto(graph))
    table = table_of(graph, feeds)
    if not equalized:
        table = CalibrationTable(**{f: getattr(table, f) for f in table.__struct_fields__} | {"channels": {}})
    graph = quantized_from_graph(graph, table, EVERYWHERE).graph
    folder.mkdir(exist_ok=True)
    ir.save(graph, folder / "graph.onnx")
    OnnxRuntime().build(folder / "graph.onnx", folder, BuildOptions(precision=Precision.INT8, threads=1))
    engine = OnnxRuntime().load(folder / "engine.onnx", threads=1)
    noise = signal = 0.0
    for arrays, outputs in zip(feeds, exact, strict=True):
        for name, got in engine.run(arrays).items():
            noise += float(np.square(got.astype(np.float64) - outputs[name]).sum())
            signal += float(np.square(outputs[name].astype(np.float64)).sum())
    return 10 * np.log10(signal / max(noise, 1e-300))


class Uneven(nn.Module):
    """Convolutions whose channels differ by a factor of 1000, compensated by the weights that read them."""

    def __init__(self, activation: nn.Module, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in [(4, 24), (24, 24), (24, 24), (24, 6)])
        self.activation = activation
        with torch.no_grad():
            for before, after in zip(self.convs, self.convs[1:], strict=False):
                factors = 10 ** (3 * torch.rand(24) - 1.5)
                before.weight *= factors[:, None, None, None]
                before.bias *= factors
                after.weight /= factors[:, None, None]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for conv in self.convs[:-1]:
            x = self.activation(conv(x))
        return self.convs[-1](x)


@pytest.mark.parametrize("activation", [nn.LeakyReLU(0.1), nn.ReLU(), nn.Identity()], ids=str)
def test_channels_of_different_size_lose_much_less(activation: nn.Module, tmp_path: Path) -> None:
    graph = module_graph(Uneven(activation), 1, 4, 16, 16)
    feeds = feeds_of(graph)
    plain = quantization_sqnr_db(graph, tmp_path, feeds, equalized=False)
    assert quantization_sqnr_db(graph, tmp_path, feeds, equalized=True) > plain + 6


MIXED = """g (float[1, 4, 16, 16] x) => (float[1, 6, h, w] y) {{
    a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
    b = LeakyRelu <alpha = 0.1> (a)
    big = Mul (x, fifty)
    c = Concat <axis = 1> (big, b)
    {0}
    y = Conv (c, w2)
}}"""


@pytest.mark.parametrize("size", [0.05, 50.0])
def test_a_tensor_is_scaled_to_the_one_it_is_concatenated_with(
    graph_of: Callable[..., ir.Model], weights: Callable[..., np.ndarray], tmp_path: Path, size: float
) -> None:
    """A Concat has one scale: a branch scaled to 1 next to one of 50 would use five levels only."""
    graph = graph_of(
        MIXED.format(""),
        w1=weights(8, 4, 3, 3) * np.float32(size),
        b1=np.zeros(8, np.float32),
        w2=weights(6, 12, 1, 1),
        fifty=np.array(size, np.float32),
    )
    feeds = feeds_of(graph)
    plain = quantization_sqnr_db(graph, tmp_path, feeds, equalized=False)
    assert quantization_sqnr_db(graph, tmp_path, feeds, equalized=True) > plain - 1


@pytest.mark.parametrize("slope", [0.01, 0.1, 0.25])
def test_a_tensor_that_is_mostly_negative_is_not_clipped(slope: float, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(4, 16, 3, padding=1), nn.LeakyReLU(slope), nn.Conv2d(16, 16, 3, padding=1), nn.LeakyReLU(slope),
        nn.Conv2d(16, 4, 3),
    )  # fmt: skip
    with torch.no_grad():
        module[0].bias -= 2.0
        module[2].weight -= 0.02
    graph = module_graph(module, 1, 4, 16, 16)
    feeds = feeds_of(graph)
    plain = quantization_sqnr_db(graph, tmp_path, feeds, equalized=False)
    assert quantization_sqnr_db(graph, tmp_path, feeds, equalized=True) > plain - 1


class Random(nn.Module):
    """Four layers with random weights, activations and poolings, and a branch."""

    def __init__(self, seed: int, slope: float, bias: float) -> None:
        super().__init__()
        torch.manual_seed(seed)
        random = np.random.default_rng(seed)
        widths = [3, *random.integers(4, 33, 3).tolist()]
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in zip(widths, widths[1:], strict=False))
        self.last = nn.Conv2d(widths[-1] + widths[-2], 8, 1)
        self.activation = nn.LeakyReLU(slope) if slope else nn.ReLU()
        with torch.no_grad():
            for conv in self.convs:
                conv.weight *= torch.exp(0.5 * torch.randn(conv.weight.shape[0], 1, 1, 1))
                conv.bias += bias * torch.randn(conv.bias.shape)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for conv in self.convs:
            before, x = x, self.activation(conv(x))
        return self.last(torch.cat([nn.functional.max_pool2d(t, 2) for t in (before, x)], 1))


# Of 60 random graphs the worst lost 1.7 dB of 43, and the mean gain was 1.3 dB.
MOST_LOST_DB = 2.0


def gained_db(tmp_path: Path, seed: int, slope: float, bias: float) -> float:
    graph = module_graph(Random(seed, slope, bias), 1, 3, 16, 16)
    feeds = feeds_of(graph)
    plain, equalized = (quantization_sqnr_db(graph, tmp_path, feeds, equalized=each) for each in (False, True))
    return equalized - plain


@settings(
    max_examples=3,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
)
@given(seed=st.integers(0, 9999), slope=st.sampled_from([0.0, 0.01, 0.1, 0.2]), bias=st.sampled_from([0.0, 0.5, 2.0]))
# Channels that are negative nearly everywhere lost 7.1 and 3.6 dB when they were clipped.
@example(seed=5108, slope=0.2, bias=2.0)
@example(seed=7594, slope=0.2, bias=2.0)
def test_random_graphs_do_not_lose(tmp_path: Path, seed: int, slope: float, bias: float) -> None:
    assert gained_db(tmp_path, seed, slope, bias) > -MOST_LOST_DB


@pytest.mark.parametrize("slope", [pytest.param(slope, marks=pytest.mark.slow) for slope in (0.0, 0.1, 0.2)])
def test_random_graphs_gain_on_average(slope: float, tmp_path: Path) -> None:
    gained = [gained_db(tmp_path, seed, slope, bias) for seed in (1, 2) for bias in (0.0, 0.5, 2.0)]
    assert np.mean(gained) > 0.5


def test_channels_are_those_of_convolutions_and_of_each_on_its_own() -> None:
    graph = module_graph(Uneven(nn.LeakyReLU(0.1)), 1, 4, 16, 16)
    feeds = feeds_of(graph)
    channels = table_of(graph, feeds).channels
    seen = tensors_of(graph, feeds)
    assert set(channels) == {node.outputs[0].name for node in graph.graph if node.op_type == "Conv"}
    for name, (lo, hi) in channels.items():
        rows = np.concatenate([arrays[name].reshape(arrays[name].shape[1], -1) for arrays in seen], axis=1)
        size = np.abs(rows).max(1)
        assert (np.abs(np.array(lo) - rows.min(1)) <= 1e-4 * size).all()
        assert (np.abs(np.array(hi) - rows.max(1)) <= 1e-4 * size).all()
