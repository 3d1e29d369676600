"""How a module is called with example inputs, and the names of its inputs and outputs."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

from edgekit.errors import UsageError
from edgekit.graph.evaluator import Evaluator
from edgekit.graph.export.call import ModuleCall, call_of_examples, call_of_names
from edgekit.graph.export.check import compare_with_module, run_module
from edgekit.graph.export.module import graph_from_module
from edgekit.graph.passes import optimize
from edgekit.specs import SizeRange, TensorSpec

A, B = TensorSpec("", "float32", (2, 3)), TensorSpec("", "int64", (2, 3))


class Three(nn.Module):
    """Its second argument is left out, as those of text models often are."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([2.0, 3.0, 5.0]))

    def forward(
        self, first: torch.Tensor, second: torch.Tensor | None = None, third: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        found = first * self.scale if second is None else first + second
        return {"weighted": found, "masked": found if third is None else found * third}


class OneDictionary(nn.Module):
    def forward(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, Any]]:
        total = batch["a"] + batch["b"]
        return total * 2, {"more": [total, total - 1], "nothing": None}


class Several(nn.Module):
    def forward(self, *parts: torch.Tensor) -> torch.Tensor:
        return torch.cat(parts, dim=1)


class Keywords(nn.Module):
    def forward(self, **parts: torch.Tensor) -> torch.Tensor:
        return parts["left"] - parts["right"]


class Nested(nn.Module):
    def forward(self, pair: tuple[torch.Tensor, torch.Tensor], rest: dict[str, torch.Tensor]) -> torch.Tensor:
        return pair[0] - 2 * pair[1] + 3 * rest["x"]


@pytest.mark.parametrize(
    ("module", "tree", "args", "kwargs"),
    [
        (nn.ReLU(), A, ("input",), {}),
        (Three(), A, ("first",), {}),
        (Three(), (A, B), ("first", "second"), {}),
        (Three(), {"third": B, "first": A}, (), {"first": "first", "third": "third"}),
        (OneDictionary(), {"a": A, "b": B}, ({"a": "a", "b": "b"},), {}),
        (OneDictionary(), {"batch_a": A}, ({"batch_a": "batch_a"},), {}),
        (OneDictionary(), {"batch": {"a": A, "b": B}}, (), {"batch": {"a": "batch_a", "b": "batch_b"}}),
        (Several(), (A, B), ("parts_0", "parts_1"), {}),
        (Keywords(), {"left": A, "right": A}, (), {"left": "left", "right": "right"}),
        (Nested(), ((A, A), {"x": A}), (("pair_0", "pair_1"), {"x": "rest_x"}), {}),
    ],
)
def test_arguments_are_named_after_the_parameters(
    module: nn.Module, tree: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    call, leaves = call_of_examples(module, tree)
    assert (call.args, dict(call.kwargs)) == (args, kwargs)
    assert list(leaves) == call.names or set(leaves) == set(call.names)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"frist": A}, "expected the arguments of Three.forward(first: "),
        ({"frist": A}, "did you mean first?"),
        ((A, A, A, A), "got 4 tensors"),
        ({"third": A}, "got third"),
        ({"first": 3}, "expected a tensor for 'first', got the value 3"),
    ],
)
def test_other_arguments_are_a_usage_error(tree: Any, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        call_of_examples(Three(), tree)
    assert message in str(caught.value)


class Keyword(nn.Module):
    def forward(self, *, image: torch.Tensor) -> torch.Tensor:
        return image


def test_error_on_an_example_without_the_name_of_its_keyword() -> None:
    with pytest.raises(UsageError) as caught:
        call_of_examples(Keyword(), A)
    assert "got 1 tensor\ngive keywords by name: input={'image': TENSOR}" in str(caught.value)


def test_names_of_parameters_are_keywords_if_one_before_them_is_left_out() -> None:
    assert call_of_names(Three(), ["second", "first"]) == ModuleCall(("first", "second"))
    assert call_of_names(Three(), ["third", "first"]) == ModuleCall((), {"first": "first", "third": "third"})
    assert call_of_names(Three(), ["x", "y"]) == ModuleCall(("x", "y"))


@pytest.mark.parametrize(
    ("module", "tree", "outputs"),
    [
        (Three(), {"first": A, "third": B}, ["weighted", "masked"]),
        (OneDictionary(), {"a": A, "b": A}, ["0", "1.more.0", "1.more.1"]),
        (Nested(), ((A, A), {"x": A}), None),
    ],
)
def test_an_exported_graph_computes_what_the_module_does(
    module: nn.Module, tree: Any, outputs: list[str] | None
) -> None:
    call, leaves = call_of_examples(module, tree)
    specs = [TensorSpec(name, leaves[name].dtype, leaves[name].shape) for name in call.names]
    graph = optimize(graph_from_module(module, specs, call=call))
    assert [value.name for value in graph.graph.inputs] == call.names
    if outputs is not None:
        assert [value.name for value in graph.graph.outputs] == outputs
    compare_with_module(graph, module, specs, call=call)


@pytest.mark.parametrize(
    ("module", "tree"),
    [
        (Three(), {"first": A, "third": A}),
        (Several(), (A, A)),
    ],
)
def test_a_range_belongs_to_its_own_argument(module: nn.Module, tree: Any) -> None:
    call, _ = call_of_examples(module, tree)
    specs = [TensorSpec(name, "float32", ("n", 3)) for name in call.names]
    graph = optimize(graph_from_module(module, specs, call=call, ranges={"n": SizeRange(1, 2, 8)}))
    feeds = {spec.name: np.random.default_rng(0).random((5, 3), dtype=np.float32) for spec in specs}
    expected = run_module(module, list(feeds.values()), call)
    for found, wanted in zip(Evaluator(graph).run(feeds).values(), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_collected_keywords_have_no_ranges() -> None:
    specs = [TensorSpec("left", "float32", ("n", 3)), TensorSpec("right", "float32", ("n", 3))]
    call = ModuleCall((), {"left": "left", "right": "right"})
    with pytest.raises(UsageError, match="named parameters for inputs with a range of sizes, got keywords"):
        graph_from_module(Keywords(), specs, call=call, ranges={"n": SizeRange(1, 2, 8)})


def test_an_output_with_the_name_of_an_input_gets_another() -> None:
    class Same(nn.Module):
        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"x": x + 1, "y": x * 2}

    graph = graph_from_module(Same(), [TensorSpec("x", "float32", (1, 2))])
    assert [value.name for value in graph.graph.outputs] == ["x_out", "y"]


def test_a_class_of_a_package_that_is_a_dictionary_names_its_tensors() -> None:
    class Output(OrderedDict[str, torch.Tensor]):
        """Registered without its keys, as the outputs of Hugging Face Transformers are."""

    pytree.register_pytree_node(
        Output,
        lambda given: (list(given.values()), list(given)),
        lambda values, keys: Output(zip(keys, values, strict=True)),
    )

    class Model(nn.Module):
        def forward(self, x: torch.Tensor) -> Output:
            return Output(loss=None, logits=x * 2, hidden=(x + 1, x - 1))

    graph = graph_from_module(Model(), [TensorSpec("x", "float32", (1, 2))])
    assert [value.name for value in graph.graph.outputs] == ["logits", "hidden.0", "hidden.1"]


def test_outputs_without_keys_keep_the_exporters_names() -> None:
    class Pair(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x.relu(), x.sigmoid()

    graph = graph_from_module(Pair(), [TensorSpec("x", "float32", (1, 2))])
    assert [value.name for value in graph.graph.outputs] == ["relu", "sigmoid"]
