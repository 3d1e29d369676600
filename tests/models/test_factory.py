from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import torch
from torch import nn

from edgekit.errors import EdgeKitError, ExportError, RecipeError, UsageError
from edgekit.models.factory import module_from_factory, module_from_recipe
from edgekit.recipe.schema import load_recipe

SOURCE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width=2):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 1)
    class Inner(nn.Identity):
        pass

def net(width=2):
    return Net(width)

def broken():
    raise KeyError("no such layer")

def number():
    return 3

ready = nn.Identity()
constant = 3
"""

_names = itertools.count()


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Name of a module in the current folder, which is not on the import path yet."""
    name = f"user_module_{next(_names)}"
    (tmp_path / f"{name}.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    yield name
    sys.path[:] = before
    sys.modules.pop(name, None)


@pytest.mark.parametrize("attribute", ["net", "Net", "ready", "Net.Inner"])
def test_a_factory_can_be_a_function_a_class_or_a_module(user: str, attribute: str) -> None:
    module = module_from_factory(f"{user}:{attribute}")
    assert isinstance(module, nn.Module)
    assert not module.training


def test_arguments_reach_the_factory(user: str) -> None:
    module = module_from_factory(f"{user}:net", {"width": 7})
    assert module.get_parameter("conv.weight").shape == (7, 3, 1, 1)


@pytest.mark.parametrize(
    ("spec", "kind", "expected"),
    [
        ("USER", UsageError, "expected package.module:factory, got 'USER'"),
        (":net", UsageError, "expected package.module:factory"),
        ("no_such_package.inner:net", UsageError, "no module named 'no_such_package'"),
        ("USER.inner:net", UsageError, "no module named 'USER.inner'"),
        ("USER:ne", UsageError, "has no attribute 'ne'\ndid you mean net"),
        ("USER:constant", UsageError, "expected a function or class that returns a torch.nn.Module, got int"),
        ("USER:number", ExportError, "expected it to return a torch.nn.Module, got int"),
        ("USER:broken", ExportError, "failed when called with (): KeyError: 'no such layer'"),
    ],
)
def test_error_says_what_is_wrong_with_the_factory(
    user: str, spec: str, kind: type[EdgeKitError], expected: str
) -> None:
    with pytest.raises(kind) as caught:
        module_from_factory(spec.replace("USER", user))
    assert expected.replace("USER", user) in str(caught.value).replace("'USER'", f"'{user}'")


def test_error_on_unknown_arguments_of_the_factory(user: str) -> None:
    with pytest.raises(ExportError, match=r"called with \(depth=3\): TypeError"):
        module_from_factory(f"{user}:net", {"depth": 3})


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("1 / 0", "ZeroDivisionError"),
        ("raise SystemExit(2)", "SystemExit: 2"),
        ("import no_such_thing", "no_such_thing"),
    ],
)
def test_error_on_a_module_that_fails_on_import(user: str, line: str, expected: str) -> None:
    Path(f"{user}.py").write_text(line)
    with pytest.raises(ExportError, match=expected):
        module_from_factory(f"{user}:net")


def test_the_seed_sets_the_weights_and_keeps_the_random_state() -> None:
    recipe = load_recipe("yolov3-tiny")
    before = torch.get_rng_state()
    states = [module_from_recipe(recipe, seed=seed).state_dict() for seed in (3, 3, 4)]
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(states[0].values(), states[1].values(), strict=True))
    assert not torch.equal(states[0]["head32.weight"], states[2]["head32.weight"])


def test_error_if_the_number_of_parameters_differs_from_the_recipe() -> None:
    recipe = load_recipe("yolov3-tiny")
    wrong = msgspec.structs.replace(recipe, model=msgspec.structs.replace(recipe.model, parameters=3))
    with pytest.raises(RecipeError, match="model.parameters: expected 8852366, .* got 3"):
        module_from_recipe(wrong)
