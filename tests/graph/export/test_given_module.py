"""Modules as users give them: in wrappers, compiled, quantized, in half precision, with state."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from edgekit.errors import ExportError
from edgekit.graph.evaluator import Evaluator
from edgekit.graph.export.check import compare_with_module
from edgekit.graph.export.given_module import evaluation_mode, exportable
from edgekit.graph.export.module import graph_from_module
from edgekit.graph.passes import optimize
from edgekit.specs import TensorSpec

X = TensorSpec("x", "float32", (1, 3, 8, 8))


def convolution() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda module: module,
        nn.DataParallel,
        lambda module: torch.compile(module, backend="eager"),
        lambda module: AveragedModel(torch.compile(module, backend="eager")),
    ],
    ids=["plain", "data-parallel", "compiled", "averaged"],
)
def test_the_module_inside_of_wrappers_is_exported(wrap: Callable[[nn.Module], Any]) -> None:
    module = convolution()
    inner = exportable(wrap(module))
    assert type(inner) is nn.Sequential
    assert torch.equal(inner[0].weight, module[0].weight)


def test_a_compiled_part_runs_as_it_is_written() -> None:
    compiled: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        compiled.append(graph)
        return graph.forward

    module = nn.Sequential(torch.compile(convolution(), backend=backend))
    with evaluation_mode(module), torch.no_grad():
        module(torch.zeros(1, 3, 8, 8))
    assert not compiled and module.training


def test_the_module_of_an_exported_program_has_the_mode_it_was_exported_in() -> None:
    module = convolution().eval()
    program = torch.export.export(module, (torch.zeros(1, 3, 8, 8),))
    given = exportable(program.module())
    x = torch.rand(1, 3, 8, 8)
    found = Evaluator(optimize(graph_from_module(given, [X]))).run({"x": x.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(next(iter(found.values())), module(x).numpy(), rtol=1e-4, atol=1e-5)


def scripted(module: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # PyTorch advises against new TorchScript
        return nn.Sequential(torch.jit.trace(module.eval(), torch.zeros(1, 3, 8, 8)))


def quantized(module: nn.Module) -> nn.Module:
    from torch.ao.nn.quantized.dynamic import Linear

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch moves its quantization to another package
        return nn.Sequential(Linear(4, 3))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (scripted, "got TorchScript, in '0'.*before torch.jit.script or torch.jit.trace"),
        (quantized, "got one that PyTorch has quantized: Linear, in '0'.*as it was before"),
        (lambda module: module.half(), r"expected a module in float32, got weights in float16.*module.float\(\)"),
        (lambda module: module.bfloat16(), "got weights in bfloat16"),
        (lambda module: module.to("meta"), "expected a module on the CPU, got '0.weight' on meta"),
    ],
)
def test_a_module_that_cannot_be_exported_says_what_to_give(
    given: Callable[[nn.Module], nn.Module], message: str
) -> None:
    with pytest.raises(ExportError, match=f"(?s){message}"):
        exportable(given(convolution()))


def test_buffers_in_half_precision_are_exported() -> None:
    module = convolution()
    module.register_buffer("offset", torch.ones(3).half())
    assert exportable(module) is module


class Twice(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        y = x * 2
        return y, y, y + 1


def test_a_tensor_that_is_returned_twice_is_two_outputs() -> None:
    graph = optimize(graph_from_module(Twice(), [X]))
    compare_with_module(graph, Twice(), [X])
    assert len({value.name for value in graph.graph.outputs}) == 3


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("runs", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.runs += 1
        return x + self.runs


class Noisy(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.rand(1) * 1e-6


@pytest.mark.parametrize("module", [Counting(), nn.Sequential(Counting(), Counting())])
def test_a_module_with_a_state_is_refused(module: nn.Module) -> None:
    with pytest.raises(ExportError, match="expected the same outputs whenever the inputs are the same"):
        compare_with_module(optimize(graph_from_module(module, [X])), module, [X])


def test_differences_within_the_tolerance_are_no_state() -> None:
    compare_with_module(optimize(graph_from_module(Noisy(), [X])), Noisy(), [X])


def test_an_object_that_a_module_returns_is_named() -> None:
    @dataclasses.dataclass
    class Boxes:
        corners: torch.Tensor

    class Detector(nn.Module):
        def forward(self, x: torch.Tensor) -> Boxes:
            return Boxes(x + 1)

    with pytest.raises(ExportError, match="expected a module that returns tensors.*got one that returns a Boxes"):
        graph_from_module(Detector(), [X])
