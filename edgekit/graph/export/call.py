"""How a module is called: which of its inputs are positional, keywords, or inside of tuples and dictionaries."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.utils import _pytree as pytree

from edgekit.arguments import argument
from edgekit.errors import UsageError, nearest
from edgekit.specs import TensorSpec

__all__ = ["ModuleCall", "call_of_examples", "call_of_names"]


@dataclass(frozen=True)
class ModuleCall:
    """The arguments of a module's ``forward``; the names of the inputs stand for their tensors.

    Attributes:
        args: positional arguments: names, or nestings of tuples and dictionaries with names.
        kwargs: the same for keywords, in the order of the parameters.
    """

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """The names of the inputs, in the order in which PyTorch lists them."""
        return [str(name) for name in pytree.tree_leaves((self.args, dict(self.kwargs)))]

    def filled(self, values: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Returns the positional and keyword arguments, with the value of each input in place of its name."""
        args, kwargs = pytree.tree_map(lambda name: values[name], (self.args, dict(self.kwargs)))
        return args, kwargs

    def by_parameter(self, module: nn.Module, values: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the value of each input by the parameters of ``forward``, nested as the arguments are.

        Raises:
            UsageError: ``forward`` collects keywords, which PyTorch exports with fixed sizes alone.
        """
        args, kwargs = self.filled(values)
        if unnamed := set(kwargs) - set(inspect.signature(module.forward).parameters):
            raise UsageError(
                f"{type(module).__name__}: expected named parameters for inputs with a range of sizes, got keywords "
                f"that forward collects: {', '.join(sorted(unnamed))}",
                hint="name them in the signature of forward, or give fixed sizes",
            )
        return dict(inspect.signature(module.forward).bind(*args, **kwargs).arguments)


def call_of_names(module: nn.Module, names: Sequence[str]) -> ModuleCall:
    """Returns the call of a module with inputs of these names.

    If all are parameters of ``forward``, each is given to its own; otherwise, they are positional in this order.
    """
    known = list(inspect.signature(module.forward).parameters)
    if not all(name in known for name in names):
        return ModuleCall(tuple(names))
    names = sorted(names, key=known.index)
    if list(names) == known[: len(names)]:
        return ModuleCall(tuple(names))
    return ModuleCall((), {name: name for name in names})


def call_of_examples(module: nn.Module, tree: Any) -> tuple[ModuleCall, dict[str, TensorSpec]]:
    """Returns the call of a module with example inputs, and the leaves of ``tree`` by the names of the inputs.

    Args:
        module: its parameters name the inputs.
        tree: one example; a tuple of the positional arguments; or a dictionary of keyword arguments, or of the parts of
            the only argument. Arguments may be tuples and dictionaries too.

    Raises:
        UsageError: ``forward`` does not take such arguments.
    """
    signature = inspect.signature(module.forward)
    order = list(signature.parameters)
    args, kwargs = (tree if isinstance(tree, tuple) else (tree,)), {}
    # Beside several parameters, names that are like theirs are not the parts of a dictionary, but wrong.
    wrong = len(order) > 1 and isinstance(tree, dict) and any(nearest(name, order, listed=False) for name in tree)
    if isinstance(tree, dict) and (wrong or _binds(signature.bind, (), tree)):
        args, kwargs = (), dict(sorted(tree.items(), key=lambda item: _place(item[0], order)))
    if not _binds(signature.bind, args, kwargs):
        raise _wrong_arguments(module, signature, tree)
    leaves: dict[str, TensorSpec] = {}
    if isinstance(tree, dict) and args:
        return ModuleCall((_named(tree, "", leaves),)), leaves
    bound = list(zip(_positional_names(signature, len(args)), args, strict=True))
    call = ModuleCall(
        tuple(_named(item, name, leaves) for name, item in bound),
        {name: _named(item, name, leaves) for name, item in kwargs.items()},
    )
    return call, leaves


def _place(name: str, order: Sequence[str]) -> int:
    return order.index(name) if name in order else len(order)


def _binds(bind: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    try:
        bind(*args, **kwargs)
    except TypeError:
        return False
    return True


def _wrong_arguments(module: nn.Module, signature: inspect.Signature, tree: Any) -> UsageError:
    count = len(tree) if isinstance(tree, tuple) else 1
    got = ", ".join(map(str, tree)) if isinstance(tree, dict) else f"{count} tensor{'s' if count > 1 else ''}"
    keywords = [name for name, each in signature.parameters.items() if each.kind is each.KEYWORD_ONLY]
    by_name = ", ".join(f"{name!r}: TENSOR" for name in keywords)
    unknown = [name for name in tree if name not in signature.parameters] if isinstance(tree, dict) else []
    return UsageError(
        f"{argument('input')}: expected the arguments of {type(module).__name__}.forward{signature}, got {got}",
        hint=nearest(unknown[0], signature.parameters, listed=False)
        if unknown
        else f"give keywords by name: {argument('input', like=f'{{{by_name}}}')}"
        if keywords
        else "",
    )


def _positional_names(signature: inspect.Signature, count: int) -> list[str]:
    names: list[str] = []
    for name, parameter in signature.parameters.items():
        if parameter.kind is parameter.VAR_POSITIONAL:
            names += [f"{name}_{index}" for index in range(count - len(names))]
        elif parameter.kind is not parameter.VAR_KEYWORD:
            names.append(name)
    return names[:count]


def _named(tree: Any, name: str, leaves: dict[str, TensorSpec]) -> Any:
    """Replaces the leaves of a tree by names, which are made from the way to them."""
    if isinstance(tree, dict):
        return {key: _named(item, f"{name}_{key}" if name else key, leaves) for key, item in tree.items()}
    if isinstance(tree, tuple):
        return tuple(_named(item, f"{name}_{index}", leaves) for index, item in enumerate(tree))
    if not isinstance(tree, TensorSpec):
        raise UsageError(
            f"{argument('input')}: expected a tensor for '{name}', got the value {tree}: values go with ONNX files",
            hint="fix the value in the module",
        )
    while name in leaves:
        name += "_"
    leaves[name] = tree
    return name
