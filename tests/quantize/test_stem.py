"""Stem convolutions stay in float: the first ones, with few input channels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn

from edgekit.engine.onnxruntime.backend import OnnxRuntime
from edgekit.engine.tensorrt.scheme import SCHEME as TENSORRT
from edgekit.graph.export.module import graph_from_module
from edgekit.graph.passes import optimize
from edgekit.quantize.plan import plan_from_graph
from edgekit.specs import QuantScheme, TensorSpec

SCHEME = OnnxRuntime().scheme()


def floats(module: nn.Module, scheme: QuantScheme = SCHEME) -> set[str]:
    """Returns the names, within ``module``, of the modules whose products stay in float."""
    graph = optimize(graph_from_module(module, [TensorSpec("x", "float32", (1, 3, 32, 32))], ["y"]))
    skipped = plan_from_graph(graph, scheme).skipped
    assert all("one of the first convolutions" in reason for reason in skipped.values())
    return set(skipped)


def conv(before: int, after: int, **options: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, **{"stride": 2, "padding": 1, "bias": False, **options}),
        nn.BatchNorm2d(after),
        nn.LeakyReLU(0.1),
    )


@pytest.mark.parametrize(
    ("channels", "expected"),
    [
        ((3, 16, 32, 64), 2),
        ((3, 16, 16, 16, 16, 16, 16), 2),
        ((3, 17, 32, 64), 1),
        ((3, 32, 16, 16, 16), 1),
        ((17, 16, 16, 16), 0),
        ((16, 16, 16, 16), 2),
        ((1, 8, 64, 64), 2),
    ],
)
def test_the_first_two_convolutions_are_a_stem_if_they_read_few_channels(
    graph_of: Callable[..., ir.Model], weights: Callable[..., np.ndarray], channels: tuple[int, ...], expected: int
) -> None:
    pairs = list(enumerate(zip(channels, channels[1:], strict=False)))
    names = ["x", *(f"v{i}" for i, _ in pairs[1:]), "y"]
    how = "<strides = [2, 2], pads = [1, 1, 1, 1]>"
    body = " ".join(f"{names[i + 1]} = Conv {how} ({names[i]}, w{i})" for i, _ in pairs)
    graph = graph_of(
        f"g (float[1, {channels[0]}, 32, 32] x) => (float[1, {channels[-1]}, h, w] y) {{ {body} }}",
        **{f"w{i}": weights(after, before, 3, 3) for i, (before, after) in pairs},
    )
    convolutions = [node.name for node in graph.graph]
    assert list(plan_from_graph(graph, SCHEME).skipped) == convolutions[:expected]


@pytest.mark.parametrize(
    ("activation", "expected"),
    [(nn.ReLU, set()), (nn.ReLU6, set()), (nn.SiLU, {"0"}), (nn.LeakyReLU, {"0"}), (nn.Identity, {"0"})],
)
def test_a_convolution_is_not_a_stem_if_its_activation_costs_nothing_on_integers(
    activation: type[nn.Module], expected: set[str]
) -> None:
    module = nn.Sequential(nn.Conv2d(3, 32, 3, stride=2), activation(), nn.Conv2d(32, 32, 3), nn.Conv2d(32, 32, 3))
    assert floats(module) == expected


def test_there_is_no_stem_for_a_target_without_stem_channels() -> None:
    scheme = QuantScheme(activation_dtype="int8", operators=frozenset({"Conv"}))
    assert floats(nn.Sequential(conv(3, 8), conv(8, 8), conv(8, 8)), scheme) == set()


def test_pooling_and_activations_between_stem_convolutions_do_not_count() -> None:
    module = nn.Sequential(
        nn.MaxPool2d(2), conv(3, 8), nn.MaxPool2d(2), nn.Sigmoid(), conv(8, 8), nn.SiLU(), conv(8, 8)
    )
    assert floats(module) == {"1.0", "4.0"}


def test_depthwise_convolutions_end_the_stem() -> None:
    mobilenet = nn.Sequential(conv(3, 16, stride=2), conv(16, 16, groups=16), nn.Conv2d(16, 16, 1), conv(16, 16))
    assert floats(mobilenet) == {"0.0"}
    assert floats(nn.Sequential(conv(3, 3, groups=3), conv(3, 16), conv(16, 16))) == set()


class Block(nn.Module):
    """A ResNet block, with a sum or a concatenation at its end."""

    def __init__(self, channels: int, how: str) -> None:
        super().__init__()
        self.how = how
        self.first, self.second = conv(channels, channels, stride=1), conv(channels, channels, stride=1)
        self.join = conv(2 * channels, channels, stride=1) if how == "cat" else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.second(self.first(x))
        return self.join(torch.cat([x, y], 1)) if self.how == "cat" else x + y


@pytest.mark.parametrize("how", ["add", "cat"])
def test_residual_blocks_run_on_integers(how: str) -> None:
    module = nn.Sequential(conv(3, 8), *(Block(8, how) for _ in range(6)))
    assert floats(module) == {"0.0"}


class Split(nn.Module):
    """Two branches that both read the input, and are concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.joined, self.last = conv(3, 8), conv(3, 8), conv(16, 16), conv(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.joined(torch.cat([self.left(x), self.right(x)], 1)))


def test_all_branches_of_the_input_are_first_convolutions() -> None:
    assert floats(Split()) == {"left.0", "right.0", "joined.0"}


class Scaled(nn.Module):
    """A constant is the first factor of what the third convolution reads."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.Sequential(conv(3, 8), conv(8, 8))
        self.third, self.fourth = conv(8, 8), conv(8, 8)
        self.register_buffer("scale", torch.full((8, 1, 1), 1.5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fourth(self.third(torch.sigmoid(self.scale * torch.sigmoid(self.convs(x)))))


def test_a_constant_factor_is_not_a_graph_input() -> None:
    assert floats(Scaled()) == {"convs.0.0", "convs.1.0"}


def test_a_net_that_is_all_stem_is_quantized(graph_of, weights):
    text = """g (float[1, 3, 8, 8] x) => (float[1, N] y) {
        a = Conv <kernel_shape = [3, 3]> (x, v) b = Conv <kernel_shape = [3, 3]> (a, w) y = Flatten (b)
    }"""
    graph = graph_of(text, v=weights(8, 3, 3, 3), w=weights(8, 8, 3, 3))
    plan = plan_from_graph(graph, OnnxRuntime().scheme())
    assert [node.op_type for node in plan.nodes][:2] == ["Conv", "Conv"]
    assert plan.skipped == {}


@pytest.mark.parametrize(("behind", "is_stem"), [("MaxPool", True), ("Relu", False)])
def test_a_stem_is_float_only_if_the_image_is_downsampled_after_it(graph_of, weights, behind, is_stem):
    how = "<kernel_shape = [2, 2], strides = [2, 2]>" if behind == "MaxPool" else ""
    text = f"""g (float[1, 3, 16, 16] x) => (float[1, N] y) {{
        a = Conv (x, v) b = {behind} {how} (a) c = Conv (b, w) d = Conv (c, w) y = Flatten (d)
    }}"""
    graph = graph_of(text, v=weights(32, 3, 3, 3), w=weights(32, 32, 3, 3))
    assert bool(plan_from_graph(graph, SCHEME).skipped) == is_stem


def test_for_tensorrt_narrow_convolutions_stay_in_float() -> None:
    """The first two convolutions of at most 16 channels, also before a ReLU, and all of at most three channels."""
    stem = nn.Conv2d(3, 16, 3, stride=2), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2), nn.ReLU()
    module = nn.Sequential(
        *stem, nn.Conv2d(32, 3, 1), nn.Sigmoid(), nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 8, 1)
    )
    graph = optimize(graph_from_module(module, [TensorSpec("x", "float32", (1, 3, 32, 32))], ["y"]))
    skipped = plan_from_graph(graph, TENSORRT).skipped
    assert list(skipped) == ["0", "2", "6"]
    assert "reads 16 channels" in skipped["2"] and "faster in float" in skipped["6"]
