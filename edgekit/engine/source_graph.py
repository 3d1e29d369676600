"""Reads the graph that an engine is built from, finds its quantized layers, and saves it after a rewrite.

This module imports onnx_ir and `edgekit.graph` inside functions: backends import it, and a board that only runs engines
has no onnx_ir. TensorRT reads graphs with its own parser and does not use this module.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.engine.layers import Layer
from edgekit.errors import BackendUnavailable, GraphError
from edgekit.extras import install_command

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["graph_layers", "name_nodes", "quantized_layers", "read_graph", "saved_beside", "weight_files"]

_REWRITTEN = "rewritten.onnx"
_MOVES = frozenset({"Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
_SMALL_BYTES = 1024
"""Smaller weights stay in the graph file: they may be axes or shapes, which libraries read with the nodes."""


def read_graph(path: Path) -> ir.Model:
    """Reads an ONNX file; large weights are read on use, so the file may be replaced, but must not be written to.

    Raises:
        GraphError: the file is not an ONNX file.
        BackendUnavailable: the packages that read ONNX files are not installed.
    """
    from edgekit.lazy_sympy import load_sympy_on_first_use  # `edgekit.graph` is for those who read graphs

    load_sympy_on_first_use()
    try:
        import google.protobuf.message
        import onnx_ir as ir

        from edgekit.graph.load.mapped import mapped_graph  # needs onnx_ir, which runtime-only boards lack
    except ImportError as e:
        raise BackendUnavailable(
            "building an engine needs the package 'onnx-ir', which is not installed",
            hint=install_command("build", "onnx", "onnx-ir"),
        ) from e
    try:
        return mapped_graph(path)
    except (google.protobuf.message.DecodeError, ir.serde.SerdeError, OSError) as e:
        raise GraphError(f"cannot read {path}: expected an ONNX file: {e}") from e


def name_nodes(graph: ir.Model) -> bool:
    """Names the nodes that have no names, so that layers and messages have them; returns whether there were any."""
    if all(node.name for node in graph.graph.all_nodes()):
        return False
    from edgekit.graph.passes import NameNodes  # needs onnx_ir, which runtime-only boards lack

    return NameNodes()(graph).modified


def quantized_layers(
    graph: ir.Model, *, joining: bool = False, bodies: bool = False, weights_only: bool = False
) -> tuple[str, ...]:
    """Returns the names of quantized convolutions and matrix products, in order.

    These are integer operators, and products whose factors both come from DequantizeLinear. A convolution whose weights
    are computed is none, even between Q/DQ pairs that other nodes need.

    Args:
        graph: any graph.
        joining: the target concatenates integers without a Q after the Concat: factors may come through a Concat too.
        weights_only: those whose weights alone come from DequantizeLinear too.
        bodies: those in the bodies of If, Loop and Scan too, each behind its node.
    """
    from edgekit.graph.element_types import computes_weights  # needs onnx_ir
    from edgekit.graph.operators import INTEGER_PRODUCTS, INTEGER_RECURRENT, PRODUCTS  # needs onnx_ir

    integer_operators = INTEGER_PRODUCTS | INTEGER_RECURRENT | {"MatMulNBits"}
    dequantized: set[ir.Value | None] = set()
    factors = slice(1, 2) if weights_only else slice(2)
    nodes = list(graph.graph.all_nodes() if bodies else graph.graph)
    for node in nodes:
        integer_concat = joining and node.op_type == "Concat" and dequantized.issuperset(node.inputs)
        if (node.op_type == "DequantizeLinear" and not _reads_floats(node)) or integer_concat:
            dequantized.update(node.outputs)
    return tuple(
        node.name or ""
        for node in nodes
        if node.op_type in integer_operators
        or (node.op_type in PRODUCTS and dequantized.issuperset(node.inputs[factors]) and not computes_weights(node))
    )


def _reads_floats(dequantizer: ir.Node) -> bool:
    """Whether it reads floats of 8 bits."""
    dtype = dequantizer.inputs[0].dtype if dequantizer.inputs[0] is not None else None
    return dtype is not None and dtype.is_floating_point()


def graph_layers(graph: ir.Model) -> list[Layer]:
    """Returns the convolutions and matrix products of a graph, with the element types that the graph gives them.

    A product is int8 if both factors were dequantized from 8 bits, directly or through operators that move elements, as
    TensorRT's parser has it; a Cast between a DequantizeLinear and its product makes it a float one.

    Args:
        graph: any graph whose values have their element types.
    """
    from edgekit.graph.element_types import computes_weights  # needs onnx_ir
    from edgekit.graph.operators import INTEGER_PRODUCTS, PRODUCTS  # needs onnx_ir

    layers = []
    for node in graph.graph:
        if node.op_type in INTEGER_PRODUCTS or (
            node.op_type in PRODUCTS and all(map(_is_dequantized, node.inputs[:2])) and not computes_weights(node)
        ):
            layers.append(Layer((node.name or "",), "int8"))
        elif node.op_type in PRODUCTS:
            first = node.inputs[0]
            dtype = first.dtype if first is not None else None
            layers.append(Layer((node.name or "",), dtype.numpy().name if dtype is not None else "float32"))
    return layers


def _is_dequantized(value: ir.Value | None) -> bool:
    node = value.producer() if value is not None else None
    while node is not None and node.op_type in _MOVES:
        node = node.inputs[0].producer() if node.inputs[0] is not None else None
    return node is not None and node.op_type == "DequantizeLinear"


def weight_files(graph: ir.Model) -> set[Path]:
    """Returns the files that contain the graph's external weights."""
    import onnx_ir as ir

    tensors = (value.const_value for value in graph.graph.initializers.values())
    files = {Path(tensor.path) for tensor in tensors if isinstance(tensor, ir.ExternalTensor)}
    return {file for file in files if file.is_file()}


@contextmanager
def saved_beside(graph: ir.Model, folder: Path, *, large: bool) -> Iterator[Path]:
    """Saves a rewritten graph to a temporary file, which is deleted when the context exits.

    Args:
        graph: the graph; its external weights are copied.
        folder: folder of the file.
        large: write the weights to an external file, because they exceed the size limit of an ONNX file.
    """
    import onnx_ir as ir

    from edgekit.graph.writing import write_graph  # needs onnx_ir, which runtime-only boards lack

    path, weights = folder / _REWRITTEN, f"{_REWRITTEN}.data"
    try:
        if large:
            ir.save(graph, path, external_data=weights, size_threshold_bytes=_SMALL_BYTES)
        else:
            write_graph(graph, path)
        yield path
    finally:
        for name in (_REWRITTEN, weights):
            (folder / name).unlink(missing_ok=True)
