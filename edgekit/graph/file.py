"""Inspects a graph's inputs and outputs, sets its input shapes, and saves it as an ONNX file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir

from edgekit.errors import GraphError
from edgekit.graph.operators import uses_quantized_values
from edgekit.graph.passes.infer_shapes import InferShapes
from edgekit.graph.writing import write_graph
from edgekit.specs import TensorSpec
from edgekit.text import shown

__all__ = ["fix_inputs", "input_specs", "is_quantized", "output_specs", "save_graph", "set_input_shapes"]

MAX_RANK = 64
"""``NPY_MAXDIMS`` of numpy 2."""

_SINGLE_FILE_BYTES = 1_800_000_000
"""Largest total weight size in a single file: protobuf allows 2 GiB, and nodes and names need the rest."""


def save_graph(graph: ir.Model, path: Path) -> None:
    """Saves the graph as one ONNX file; weights of more than 1.8 GB in total go into ``<name>.data`` next to it.

    Raises:
        OSError: the file cannot be written; the caller reports it.
    """
    path = Path(path)
    tensors = [value.const_value for value in graph.graph.initializers.values()]
    external = sum(tensor.nbytes for tensor in tensors if tensor is not None) > _SINGLE_FILE_BYTES
    if external:
        ir.save(graph, path, external_data=f"{path.name}.data")
    else:
        write_graph(graph, path)


def input_specs(graph: ir.Model) -> tuple[TensorSpec, ...]:
    """Name, element type and shape of each input; an unnamed dimension gets the name ``<input>_<axis>``."""
    return tuple(_spec(value) for value in graph.graph.inputs)


def output_specs(graph: ir.Model) -> tuple[TensorSpec, ...]:
    """Name, element type and shape of each output; see `input_specs`. An unknown rank gives the shape ``("?",)``."""
    return tuple(_spec(value) for value in graph.graph.outputs)


def _spec(value: ir.Value) -> TensorSpec:
    name = value.name or ""
    if value.shape is None:
        return TensorSpec(name, _dtype_name(value), ("?",))
    if len(value.shape) > MAX_RANK:
        raise GraphError(f"'{name}': expected at most {MAX_RANK} dimensions, as numpy has, got {len(value.shape)}")
    shape = tuple(
        size if isinstance(size, int) else str(size.value or f"{name}_{axis}") for axis, size in enumerate(value.shape)
    )
    return TensorSpec(name, _dtype_name(value), shape)


def _dtype_name(value: ir.Value) -> str:
    if value.dtype is None or value.dtype == ir.DataType.STRING:
        raise GraphError(f"'{value.name}': expected a tensor of numbers, got {value.type}")
    return str(value.dtype.numpy())


def set_input_shapes(graph: ir.Model, shapes: Mapping[str, Sequence[int | str]]) -> None:
    """Fixes dynamic dimensions of the inputs, in place, and infers all shapes again.

    A named dimension that is fixed at one input is fixed at all inputs.

    Args:
        graph: the graph; changed in place.
        shapes: shapes by input name, one size per dimension; a dimension that keeps its name stays dynamic.

    Raises:
        GraphError: an input does not exist, has another rank, or has a dimension fixed at another size.
    """
    inputs = {value.name: value for value in graph.graph.inputs}
    chosen: dict[str, int] = {}
    for name, shape in shapes.items():
        value = inputs.get(name)
        if value is None:
            raise GraphError(f"no input '{name}'", hint=f"inputs: {', '.join(str(s) for s in input_specs(graph))}")
        _require_fitting(_spec(value), shape)
        for old, new in zip(value.shape or (), shape, strict=True):
            if isinstance(old, ir.SymbolicDim) and old.value is not None and isinstance(new, int):
                _require_agreement(chosen, str(old.value), new)
        value.shape = ir.Shape(list(shape))
    for value in inputs.values():
        if value.shape is not None:
            value.shape = ir.Shape(
                [chosen.get(str(d.value), d) if isinstance(d, ir.SymbolicDim) else d for d in value.shape]
            )
    for value in (*graph.graph.outputs, *(output for node in graph.graph.all_nodes() for output in node.outputs)):
        value.shape = None
    InferShapes()(graph)


def fix_inputs(graph: ir.Model, values: Mapping[str, int | float | np.ndarray]) -> dict[str, np.ndarray]:
    """Makes inputs constants, in place, so that what they decide is computed once.

    Args:
        graph: the graph; changed in place.
        values: the number, or the last dimension, that fills each input, by name; dimensions that are open become 1.

    Returns:
        The arrays of the inputs, by name.

    Raises:
        GraphError: there is no such input, or its type does not hold the number.
    """
    inputs = {value.name: value for value in graph.graph.inputs}
    arrays = {}
    for name, number in values.items():
        value = inputs.get(name)
        if value is None or value.dtype is None or value.shape is None:
            known = ", ".join(map(str, input_specs(graph)))
            raise GraphError(f"no input '{name}' to set to {shown(number)}", hint=f"inputs: {known}")
        array = _filled([size if isinstance(size, int) else 1 for size in value.shape], number, value.dtype.numpy())
        if array is None:
            raise GraphError(f"input '{name}': expected a value of {value.dtype.numpy()}, got {shown(number)}")
        graph.graph.inputs.remove(value)
        value.const_value, value.shape = ir.tensor(array, name=name), ir.Shape(array.shape)
        graph.graph.register_initializer(value)
        arrays[name] = array
    if values:
        InferShapes()(graph)
    return arrays


def _require_fitting(spec: TensorSpec, shape: Sequence[int | str]) -> None:
    fits = len(shape) == len(spec.shape) and all(
        old == new or (isinstance(old, str) and isinstance(new, int) and new > 0)
        for old, new in zip(spec.shape, shape, strict=True)
    )
    if not fits:
        raise GraphError(
            f"input '{spec.name}': expected a shape that fits {spec}, got ({', '.join(str(n) for n in shape)})"
        )


def _require_agreement(chosen: dict[str, int], name: str, size: int) -> None:
    if chosen.setdefault(name, size) != size:
        raise GraphError(f"dimension '{name}': expected one size at all inputs, got {chosen[name]} and {size}")


def is_quantized(graph: ir.Model) -> bool:
    """Whether any node, including those in subgraphs and functions, uses quantized values."""
    nodes = [
        *graph.graph.all_nodes(),
        *(node for function in graph.functions.values() for node in function.all_nodes()),
    ]
    return any(map(uses_quantized_values, nodes))


def _filled(shape: list[int], number: int | float | np.ndarray, dtype: np.dtype) -> np.ndarray | None:
    """Returns an array of a number; None if its type does not hold the number, or if it is not finite."""
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            array = np.full(shape, number, dtype)
            holds = np.all(array == number) and (dtype.kind != "f" or np.isfinite(array).all())
    except OverflowError:  # an integer of more bits than any type of numpy has
        return None
    return array if holds else None
