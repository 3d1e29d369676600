"""Objects that a Python caller passes for an option: example inputs, and calibration data."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

from edgekit.arguments import argument, either
from edgekit.errors import UsageError
from edgekit.text import shown

if TYPE_CHECKING:
    from edgekit.specs import Shape

__all__ = [
    "CALIB_KINDS",
    "CalibrationData",
    "ExampleInputs",
    "InPython",
    "SupportsArray",
    "convert_calib",
    "convert_inputs",
    "is_array",
]

CALIB_KINDS = "a folder, the name of a set, an array, an iterable of inputs, or a function that returns one"
"""What ``calib`` accepts in Python, for messages."""


class InPython:
    """Base class of values that only a Python caller can give; records have their text."""


class SupportsArray(Protocol):
    """An array of numpy, a tensor of PyTorch, or another array with numpy's protocol."""

    @property
    def shape(self) -> Any: ...

    def __array__(self, *args: Any, **kwargs: Any) -> Any: ...


def is_array(value: object) -> bool:
    """Whether a value is a `SupportsArray`."""
    return not isinstance(value, type) and hasattr(value, "shape") and hasattr(value, "__array__")


@dataclass(frozen=True, eq=False)
class CalibrationData(InPython):
    """Calibration inputs that a Python caller passes as objects: an array, an iterable, or a function."""

    value: Any

    def __str__(self) -> str:
        """Returns the object's kind, for records; its content may be large."""
        return f"<{type(self.value).__name__}>"


@dataclass(frozen=True)
class ExampleInputs(InPython):
    """Names, element types and shapes of a Python caller's example inputs.

    Attributes:
        tree: a `TensorSpec` without a name; or a tuple or dictionary of them, as the module takes its arguments. Values
            of an ONNX file's inputs are numbers.
    """

    tree: Any

    def __str__(self) -> str:
        return _example_text(self.tree)


def _example_text(tree: Any) -> str:
    if isinstance(tree, dict):
        return f"{{{', '.join(f'{key}: {_example_text(item)}' for key, item in tree.items())}}}"
    if isinstance(tree, tuple):
        return f"({', '.join(map(_example_text, tree))})"
    return str(tree) if isinstance(tree, (int, float)) else f"{tree.dtype} {tree.shape}"


def convert_calib(given: Any) -> str | CalibrationData:
    """Converts the argument ``calib``; raises `UsageError` if it is of another kind."""
    if isinstance(given, (str, os.PathLike)):
        return str(given)
    has_items = hasattr(given, "__getitem__") and hasattr(given, "__len__")
    if isinstance(given, type) or not (is_array(given) or isinstance(given, (Iterable, Callable)) or has_items):  # type: ignore[arg-type]
        raise UsageError(f"{argument('calib')}: expected {CALIB_KINDS}, got {shown(given)}")
    return CalibrationData(given)


def convert_inputs(given: Any) -> dict[str, Shape | int | float] | ExampleInputs:
    """Converts the argument ``input``; raises `UsageError` if it is of another kind, or a shape is not valid."""
    if isinstance(given, Mapping):  # numbers of numpy are values, and its arrays are examples
        given = {name: value.item() if _is_number(value) else value for name, value in given.items()}
    if _has_array(given):
        return ExampleInputs(_example_of(given))
    if not isinstance(given or {}, Mapping):
        raise UsageError(
            f"{argument('input')}: expected a mapping from names of inputs to shapes or values, or example inputs: a "
            f"tensor, or a tuple or dictionary of tensors, got {shown(given)}",
            hint=f"for the first input: {argument('input', {'': (1, 3, 224, 224)})}",
        )
    return {
        name: value if isinstance(value, (int, float)) else _specs().shape_from_sizes(value, _input_called(name))
        for name, value in (given or {}).items()
    }


def _is_number(value: Any) -> bool:
    """Whether a value is a number of numpy: it has no axes, and cannot be written to."""
    return getattr(value, "shape", None) == () and hasattr(value, "item") and not hasattr(value, "__setitem__")


def _has_array(given: Any) -> bool:
    """Whether a value is an array, or a nesting of tuples, lists and mappings with one."""
    if isinstance(given, Mapping):
        return any(map(_has_array, given.values()))
    return any(map(_has_array, given)) if isinstance(given, (tuple, list)) else is_array(given)


def _example_of(given: Any) -> Any:
    if isinstance(given, Mapping):
        return {str(key): _example_of(item) for key, item in given.items()}
    if isinstance(given, (tuple, list)):
        return tuple(map(_example_of, given))
    if isinstance(given, (int, float)):  # the value of an ONNX file's input
        return given
    if not is_array(given):
        is_cache = type(given).__name__.endswith("Cache")
        hint = (
            "call the model with use_cache=False: set model.config.use_cache = False, or wrap it in a module that "
            "makes the cache from tensors"
        )
        left_out = f"leave it out, and give the others by name: {argument('input', like='{NAME: TENSOR}')}"
        raise UsageError(
            f"{argument('input')}: expected tensors as example inputs, got also "
            f"{type(given).__name__ if is_cache else shown(given)}",
            hint=hint if is_cache else left_out if given is None else "",
        )
    dtype = str(given.dtype).removeprefix("torch.")
    return _specs().TensorSpec("", dtype, tuple(map(int, given.shape)))


def _input_called(name: str) -> str:
    return either(f"--input {name}", f"input[{name!r}]") if name else argument("input")


def _specs() -> ModuleType:
    from edgekit import specs  # needs msgspec, which `--help` does not load

    return specs
