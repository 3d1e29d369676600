from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import edgekit
from edgekit.engine.onnxruntime.backend import OnnxRuntime
from edgekit.models import activations
from tests.decibels import signal_to_noise_db

torch.set_num_threads(1)

WEIGHTS_OF_8_BITS = OnnxRuntime().scheme().weight_bits == 8

Function = Callable[[float], float]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


FORMULAS: dict[str, Function] = {
    "ReLU": lambda x: max(0.0, x),
    "LeakyReLU": lambda x: x if x >= 0 else 0.1 * x,
    "PReLU": lambda x: x if x >= 0 else 0.25 * x,
    "Sigmoid": sigmoid,
    "Tanh": lambda x: (math.exp(x) - math.exp(-x)) / (math.exp(x) + math.exp(-x)),
    "GELU": lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2,
    "SiLU": lambda x: x * sigmoid(x),
    "Mish": lambda x: x * math.tanh(math.log(1 + math.exp(x))),
    "Hardswish": lambda x: x * min(max(x + 3, 0), 6) / 6,
}
"""The elementwise functions, as in the docstrings and papers."""

LEAST = {"ReLU": 0.0, "Sigmoid": 0.0, "Tanh": -1.0, "GELU": -0.170, "SiLU": -0.278, "Mish": -0.309, "Hardswish": -0.375}
WHERE_LEAST = {"GELU": -0.752, "SiLU": -1.278, "Mish": -1.192, "Hardswish": -1.5}
GREATEST = {"Sigmoid": 1.0, "Tanh": 1.0}

SIGNAL_TO_NOISE_DB = {
    "ReLU": 36.0,
    "LeakyReLU": 31.7,
    "PReLU": 33.3,
    "Sigmoid": 32.3,
    "Tanh": 34.4,
    "Softmax": 29.4,
    "GELU": 32.3,
    "SiLU": 33.6,
    "Mish": 33.7,
    "Hardswish": 33.6,
}
"""Measured after ``layer -> activation -> layer`` on the target ``cpu``, with 8-bit weights."""


def made(name: str, channels: int = 1) -> nn.Module:
    arguments = {"LeakyReLU": (0.1,), "PReLU": (channels,), "Softmax": (-1,)}
    module: nn.Module = getattr(activations, name)(*arguments.get(name, ()))
    return module


def grid(step: float = 0.01) -> torch.Tensor:
    """From -10 to 10, without the kinks of the functions."""
    return torch.arange(-10, 10, step, dtype=torch.float64) + step / 3


def test_every_activation_is_tested() -> None:
    assert set(activations.__all__) == {*FORMULAS, "Softmax"} == set(SIGNAL_TO_NOISE_DB)


@pytest.mark.parametrize("name", FORMULAS)
def test_function_is_its_formula(name: str) -> None:
    x = grid()
    expected = torch.tensor([FORMULAS[name](number) for number in x.tolist()], dtype=torch.float64)
    torch.testing.assert_close(made(name).double()(x), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", FORMULAS)
def test_derivative_is_that_of_autograd(name: str) -> None:
    x = grid().requires_grad_()
    module = made(name).double()
    (slope,) = torch.autograd.grad(module(x).sum(), x)
    torch.testing.assert_close(module.derivative(x.detach()), slope, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["ReLU", "LeakyReLU", "PReLU"])
def test_derivative_at_a_kink_is_that_of_autograd(name: str) -> None:
    x = torch.zeros(3, requires_grad=True)
    module = made(name)
    (slope,) = torch.autograd.grad(module(x).sum(), x)
    assert torch.equal(module.derivative(x.detach()), slope)


def test_prelu_has_a_slope_for_each_channel() -> None:
    prelu = activations.PReLU(3)
    with torch.no_grad():
        prelu.weight.copy_(torch.tensor([0.5, -1.0, 2.0]))
    x = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    (slope,) = torch.autograd.grad(prelu(x).sum(), x)
    assert torch.equal(prelu.derivative(x.detach()), slope)


@pytest.mark.parametrize("name", FORMULAS)
def test_range_is_the_one_in_the_docstring(name: str) -> None:
    x = grid(1e-4)
    y = made(name).double()(x)
    if name in LEAST:
        assert y.min().item() == pytest.approx(LEAST[name], abs=5e-4)
    else:
        assert y[0] == y.min() < -0.9
    if name in GREATEST:
        assert y.max().item() == pytest.approx(GREATEST[name], abs=5e-4)
    else:
        assert y.max().item() == pytest.approx(10, abs=1e-2)
    if name in WHERE_LEAST:
        assert x[y.argmin()].item() == pytest.approx(WHERE_LEAST[name], abs=1e-3)


def test_softmax_is_its_formula_and_a_sigmoid_for_two_elements() -> None:
    x = torch.randn(5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    p = activations.Softmax(-1)(x)
    torch.testing.assert_close(p, x.exp() / x.exp().sum(-1, keepdim=True))
    torch.testing.assert_close(p.sum(-1), torch.ones(5, dtype=torch.float64))
    pairs = x[:, :2]
    torch.testing.assert_close(activations.Softmax(-1)(pairs)[:, 0], torch.sigmoid(pairs[:, 0] - pairs[:, 1]))
    assert activations.Softmax(-1)(torch.tensor([1000.0, 0.0])).tolist() == [1.0, 0.0]


def test_jacobian_of_softmax_is_that_of_autograd() -> None:
    softmax = activations.Softmax(-1)
    x = torch.randn(3, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = torch.stack([torch.autograd.functional.jacobian(softmax, row) for row in x])
    torch.testing.assert_close(softmax.derivative(x), expected)


class Branches(nn.Module):
    """One input, and for each activation one linear layer before and one after it."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.ModuleDict({name: nn.Linear(64, 32) for name in SIGNAL_TO_NOISE_DB})
        self.act = nn.ModuleDict({name: made(name, channels=32) for name in SIGNAL_TO_NOISE_DB})
        self.behind = nn.ModuleDict({name: nn.Linear(32, 16) for name in SIGNAL_TO_NOISE_DB})

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {name: self.behind[name](self.act[name](self.before[name](x))) for name in SIGNAL_TO_NOISE_DB}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Branches, Path]:
    """The module, and its INT8 engine for ``cpu``."""
    folder = tmp_path_factory.mktemp("activations")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = Branches().eval()
        for layer in module.modules():
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEKIT_CACHE", str(folder / "cache"))
        edgekit.build(module, input={"": (256, 64)}, target="cpu", profile=False, output=folder / "engine")
    return module, folder / "engine"


def test_both_layers_around_every_activation_run_on_integers(built: tuple[Branches, Path]) -> None:
    operators = Counter(node.op_type for node in onnx.load(built[1] / "engine.onnx").graph.node)
    assert operators["QGemm"] == 2 * len(SIGNAL_TO_NOISE_DB)
    assert not {"Gemm", "MatMul", "FusedGemm"}.intersection(operators)


@pytest.fixture(scope="module")
def measured_db(built: tuple[Branches, Path]) -> dict[str, float]:
    """SQNR of each branch, on inputs outside of the calibration set.

    The signal is how the output differs from its mean: what a sigmoid adds to every output carries nothing.
    """
    module, bundle = built
    x = np.random.default_rng(7).standard_normal((256, 64)).astype(np.float32)
    with edgekit.load(bundle) as session, torch.inference_mode():
        got = session.run({session.inputs[0].name: x}).values()
        expected = [value.numpy() for value in module(torch.from_numpy(x)).values()]
    ratios = {}
    for name, wanted, answer in zip(SIGNAL_TO_NOISE_DB, expected, got, strict=True):
        mean = wanted.mean(axis=0)
        ratios[name] = signal_to_noise_db([wanted - mean], [answer - mean]) or 0.0
    return ratios


@pytest.mark.parametrize(("name", "expected_db"), SIGNAL_TO_NOISE_DB.items())
def test_int8_error_matches_the_recorded_values(measured_db: dict[str, float], name: str, expected_db: float) -> None:
    assert measured_db[name] > expected_db - (1 if WEIGHTS_OF_8_BITS else 5)


def test_relu_which_is_quantized_once_has_the_highest_snr(measured_db: dict[str, float]) -> None:
    assert max(measured_db, key=lambda name: measured_db[name]) == "ReLU"
