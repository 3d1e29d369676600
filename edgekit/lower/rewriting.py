"""Putting other nodes into an ONNX graph, without leaving behind what nobody reads any more."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.specs import ShapeRange

if TYPE_CHECKING:
    import onnx

__all__ = ["element_counts", "is_of_bytes", "read_inside", "replace_nodes", "saved_beside"]

REWRITTEN = "rewritten.onnx"

REMOVABLE = frozenset({"DequantizeLinear", "MaxPool"})
"""What is read in another way by the operators that are put in."""


def element_counts(model: onnx.ModelProto, shapes: Mapping[str, ShapeRange] | None = None) -> dict[str, int]:
    """How many elements each value has that a node computes, by name, if its shape is known; open sizes count as 1.

    Args:
        model: with the shapes of its values; not changed.
        shapes: ranges of the inputs whose sizes are chosen at run time: with them, the usual sizes are counted.
    """
    import onnx

    if shapes:
        sized = onnx.ModelProto()
        sized.CopyFrom(model)
        del sized.graph.value_info[:]
        for value in sized.graph.input:
            if value.name in shapes:
                dimensions = value.type.tensor_type.shape.dim
                for dimension, size in zip(dimensions, shapes[value.name].opt, strict=True):
                    dimension.dim_value = size
        model = onnx.shape_inference.infer_shapes(sized, data_prop=True)
    return {
        value.name: math.prod(max(1, dimension.dim_value) for dimension in value.type.tensor_type.shape.dim)
        for value in (*model.graph.value_info, *model.graph.output)
        if value.type.tensor_type.HasField("shape")
    }


def is_of_bytes(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> bool:
    """Whether ``node`` is a DequantizeLinear of bytes to float32 whose scales and zero points are constant."""
    from onnx import TensorProto

    parameters = node.input[1:]
    if node.op_type != "DequantizeLinear" or len(parameters) < 2 or not all(name in constants for name in parameters):
        return False
    scale, zero = (constants[name] for name in parameters)
    return scale.data_type == TensorProto.FLOAT and zero.data_type in (TensorProto.UINT8, TensorProto.INT8)


def read_inside(nodes: Iterable[onnx.NodeProto]) -> set[str]:
    """What the branches and bodies within nodes read or give out."""
    found: set[str] = set()
    for node in nodes:
        for attribute in node.attribute:
            for inner in [attribute.g, *attribute.graphs]:
                found |= _read(inner.node, inner)
    return found


def replace_nodes(graph: onnx.GraphProto, nodes: Sequence[onnx.NodeProto]) -> None:
    """Makes ``nodes`` the graph's, less each `REMOVABLE` one, and each constant, that is not read any more."""
    read = {value.name for value in graph.output} | read_inside(nodes)
    kept = []
    for node in reversed(nodes):
        if node.op_type not in REMOVABLE or not read.isdisjoint(node.output):
            read.update(node.input)
            kept.append(node)
    # A constant may be an input's default too.
    read.update(value.name for value in graph.input)
    constants = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(reversed(kept))
    graph.initializer.extend(constants)


def _read(nodes: Sequence[onnx.NodeProto], graph: onnx.GraphProto) -> set[str]:
    """What ``nodes`` read, at any depth, and what ``graph`` gives out."""
    direct = {name for node in nodes for name in node.input}
    return direct | {value.name for value in graph.output} | read_inside(nodes)


@contextmanager
def saved_beside(model: onnx.ModelProto, graph: Path, folder: Path, *, large: bool) -> Iterator[Path]:
    """A rewritten ``graph`` in a file of its own, for as long as it is read.

    Args:
        model: what was made of ``graph``, maybe without the weights that it keeps in files; they are loaded into it.
        graph: the ONNX file.
        folder: where the file goes.
        large: its weights do not fit into one file with it.
    """
    import onnx

    onnx.load_external_data_for_model(model, str(graph.parent))
    beside = f"{REWRITTEN}.data"
    try:
        onnx.save(model, folder / REWRITTEN, save_as_external_data=large, location=beside)
        yield folder / REWRITTEN
    finally:
        for name in (REWRITTEN, beside):
            (folder / name).unlink(missing_ok=True)
