"""Checks the inputs of a run: names, types, shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, TypeGuard

import numpy as np

from edgekit.arguments import argument, either
from edgekit.device.cuda.arrays import ForeignArray
from edgekit.engine.bundle.manifest import Manifest
from edgekit.errors import RunError, nearest
from edgekit.specs import Size, SizeRange, TensorSpec, in_float32, sizes_of, sizes_take

__all__ = ["Array", "are_ready", "checked", "host_arrays"]

Array: TypeAlias = "np.ndarray | ForeignArray"

NATIVE = {np.dtype(code).name: np.dtype(code) for code in np.typecodes["AllInteger"] + "efd?"}
"""Element types by name in native byte order. NumPy has one object of each; a type's name takes it long to make."""


def checked(feeds: Any, specs: tuple[TensorSpec, ...], manifest: Manifest) -> dict[str, Array]:
    """Checks inputs and returns them by name, in the engine's order.

    Raises:
        RunError: an input is missing, unknown, of another type or shape, or out of range.
    """
    names = [spec.name for spec in specs]
    if not isinstance(feeds, Mapping):
        raise RunError(
            f"inputs: expected a dictionary of arrays by name, got {type(feeds).__name__}",
            hint=f"names: {', '.join(names)}",
        )
    for name in feeds:
        if name not in names:
            raise RunError(f"unknown input '{name}'", hint=nearest(str(name), names))
    chosen: dict[str, int] = {}
    return {spec.name: _checked_array(feeds, spec, chosen, manifest) for spec in specs}


def are_ready(feeds: Any, specs: tuple[TensorSpec, ...]) -> TypeGuard[dict[str, np.ndarray]]:
    """Whether an engine takes these inputs as they are: neither `checked` nor `host_arrays` would change a thing.

    So it is in almost every run. This takes 1 us and the other two take 8 us; after a run, which leaves nothing else in
    the caches, they take several times as long.
    """
    if type(feeds) is not dict or len(feeds) != len(specs):
        return False
    for spec in specs:
        array = feeds.get(spec.name)
        if type(array) is not np.ndarray or array.shape != spec.shape:
            return False
        if array.dtype is not NATIVE.get(spec.dtype) or not array.flags.c_contiguous:
            return False
    return True


def host_arrays(arrays: Mapping[str, Array]) -> dict[str, np.ndarray]:
    """Returns arrays in host memory as engines take them: contiguous, and in native byte order."""
    return {
        name: np.asarray(array, dtype=array.dtype.newbyteorder("="), order="C")
        for name, array in arrays.items()
        if isinstance(array, np.ndarray)
    }


def _checked_array(feeds: Mapping[str, Any], spec: TensorSpec, chosen: dict[str, int], manifest: Manifest) -> Array:
    sizes = sizes_of(spec, manifest.shapes)
    expected = f"input '{spec.name}': expected {spec.dtype} ({_dimensions(sizes)})"
    if spec.name not in feeds:
        raise RunError(f"{expected}, got nothing", hint=f"given inputs: {', '.join(map(str, feeds)) or 'none'}")
    given = _array(feeds[spec.name], expected)
    array: Array = in_float32(given, spec.dtype) if isinstance(given, np.ndarray) else given
    got = f"({_dimensions(array.shape)})"
    dtype = array.dtype.name if isinstance(array, np.ndarray) else array.dtype
    if dtype != spec.dtype:
        raise RunError(f"{expected}, got {dtype} {got}", hint=f"convert it: array.astype('{spec.dtype}')")
    if not sizes_take(sizes, array.shape):
        raise RunError(f"{expected}, got {got}", hint=_shape_hint(array.shape, sizes, manifest.rebuild))
    # Some engines lose the names that dimensions have in the graph.
    named = next((own.shape for own in manifest.inputs if own.name == spec.name), spec.shape)
    for size, name in zip(array.shape, named, strict=True):
        if isinstance(name, str) and chosen.setdefault(name, size) != size:
            raise RunError(
                f"{expected}, got {got}: '{name}' is {chosen[name]} in another input",
                hint="dimensions with the same name must have the same size in a run",
            )
    if isinstance(array, ForeignArray) and not array.is_contiguous:
        raise RunError(f"{expected}, contiguous, got strides of {array.strides} bytes", hint="copy it: x.contiguous()")
    return array


def _array(given: Any, expected: str) -> Array:
    """Returns an array of NumPy or of a GPU as it is, and one of another library, such as PyTorch, without a copy."""
    if isinstance(given, (np.ndarray, ForeignArray)):
        return given
    kind = type(given).__name__
    if not hasattr(given, "__array__"):
        raise RunError(f"{expected}, got {kind}", hint="convert it with numpy.asarray")
    try:
        return np.asarray(given)
    except Exception as e:  # other libraries raise what they like: PyTorch a RuntimeError, and a TypeError for bfloat16
        reason = str(e).partition("\n")[0]
        hint = "pass a tensor on the CPU without gradients, of a type that NumPy has: x.detach().cpu().float()"
        raise RunError(f"{expected}, got {kind}, which does not convert to an array: {reason}", hint=hint) from e


def _dimensions(shape: Sequence[Size | str]) -> str:
    return f"{shape[0]}," if len(shape) == 1 else ", ".join(map(str, shape))


def _shape_hint(got: tuple[int, ...], expected: Sequence[Size | str], rebuild: str) -> str:
    if expected[0] == 1 and sizes_take(expected[1:], got):
        return "add the batch axis: array[None]"
    ranged = any(isinstance(size, SizeRange) for size in expected)
    if not ranged and len(got) == len(expected) == 4 and got[:2] == tuple(expected[:2]):
        return f"build it with {argument('shape', got[2:4])}"
    if not rebuild:
        return ""
    asked = next((size for size, own in zip(got, expected, strict=False) if _is_outside(size, own)), None)
    wanted = "another shape" if asked is None else f"a range with {asked}"
    return f"build an engine for {wanted}; the command of this one{either('', ', in a shell,')} was {rebuild}"


def _is_outside(size: int, own: Size | str) -> bool:
    return isinstance(own, SizeRange) and not own.min <= size <= own.max
