"""Loads an ONNX file as a graph in the form that EdgeKit works on, or raises one clear error."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError
from onnx_ir.passes.common import RemoveInitializersFromInputsPass

from edgekit.errors import EdgeKitError, GraphError
from edgekit.graph.external_weights import INLINE_BYTES
from edgekit.graph.load.argument_counts import require_argument_counts
from edgekit.graph.load.attributes import require_possible_attributes
from edgekit.graph.load.deprecated import move_runtime_operators, replace_deprecated, replace_unconverted
from edgekit.graph.load.external_data import require_external_data
from edgekit.graph.load.loops import require_ending_loops
from edgekit.graph.load.node_order import sort_nodes
from edgekit.graph.load.operators import require_known_operators
from edgekit.graph.load.other_formats import not_onnx, require_no_other_format
from edgekit.graph.load.printable_names import escape_names
from edgekit.graph.load.runtime_operators import require_declared_arguments
from edgekit.graph.load.sizes import require_bounded_functions, require_declared_lengths
from edgekit.graph.load.sparse import replace_sparse
from edgekit.graph.load.structure import Payload, array_at, structure_from_file
from edgekit.graph.load.tensors_only import require_tensor_inputs, require_tensor_outputs
from edgekit.graph.load.texts import require_texts
from edgekit.graph.load.types import require_known_types
from edgekit.graph.load.upgrade_opset import upgrade_opset
from edgekit.graph.load.walk import graphs_in, nodes_of, tensors_of
from edgekit.graph.opset import lower_opset
from edgekit.graph.passes.complete_stft import CompleteStft
from edgekit.graph.passes.decompose_contrib import DecomposeContrib
from edgekit.graph.passes.decompose_ml import DecomposeMl
from edgekit.graph.passes.dequantize_weights import DequantizeWeights
from edgekit.graph.passes.infer_shapes import INFERENCE_ERRORS, InferShapes
from edgekit.graph.passes.inline_functions import has_functions_of_another_opset, inlined
from edgekit.graph.passes.mask_attention_windows import MaskAttentionWindows
from edgekit.graph.passes.positive_axes import PositiveAxes
from edgekit.graph.passes.time_first import TimeFirst
from edgekit.graph.passes.widen_floats import WidenFloats

__all__ = ["graph_from_onnx"]

_HEAD_BYTES = 512
_FIRST_WITH_OWN_WEIGHTS = 4
_OLDEST_IR = 10
_ROUNDS = 10
_UNREADABLE = (ir.serde.SerdeError, ValueError, OSError)
"""What `ir.from_proto`, `ir.to_proto` and reading weights raise: the first for what contradicts itself."""
_NAMELESS = frozenset({None, "", "?", "-1", "None"})
"""Names that exporters (Paddle, Keras) give to unknown dimensions; two of these dimensions need not be equal."""


def graph_from_onnx(path: Path) -> ir.Model:
    """Reads an ONNX file and upgrades it to opset 20; newer opsets are kept where ONNX Runtime runs all operators.

    Functions are inlined, FP16, BF16 and FP64 become FP32 (see `WidenFloats`; `source_types` are the types that inputs
    and outputs had), quantized weights of float activations are dequantized (see `DequantizeWeights`), fused operators
    of ONNX Runtime become ONNX's, initializers are removed from the inputs, and shapes are inferred. External weights
    are read on use, so their file must stay in place until the graph is saved.

    Args:
        path: an ONNX file; its external data is next to it.

    Raises:
        GraphError: the file is missing, truncated or not ONNX; external data is missing or too short; an operator or
            its domain is unknown (named, with its node); the graph is not valid; an input has no rank or is not a
            tensor; ONNX cannot upgrade the opset.
    """
    path = Path(path)
    model, payloads = _parsed(path)
    # Files of IR version 3 list weights as inputs too; ONNX Runtime loads those that do not, as of newer versions.
    model.ir_version = max(model.ir_version, _FIRST_WITH_OWN_WEIGHTS)
    try:
        require_texts(model)
        sort_nodes(model)
        renamed = escape_names(model, path.name)
        payloads = {renamed.get(name, name): payload for name, payload in payloads.items()}
        replace_sparse(model, path)
        require_declared_lengths(tensors_of(model), payloads, path)
        require_bounded_functions(model, path)
        require_external_data(tensors_of(model), path)
        require_argument_counts(model, path)
        replace_unconverted(model)
        move_runtime_operators(model)
        if has_functions_of_another_opset(model):
            replace_deprecated(model)
            model = _inlined(model, path)
        require_known_operators(model, path)
        require_declared_arguments(nodes_of(model), path)
        require_known_types(nodes_of(model), path)
        require_ending_loops(model, path)
        require_tensor_inputs(model, path)
        require_tensor_outputs(model, path)
        replace_deprecated(model)
        _use_types_of_inputs(model)
        _clear_undefined_types(model)
    except TypeError as e:  # protobuf returns a string that is not UTF-8 as bytes
        raise GraphError(f"{path}: not a valid graph: a name in it is not text") from e
    _require_valid(model, payloads, path)
    try:
        graph = ir.from_proto(model)
        _own_weights(graph, path, payloads)
    except _UNREADABLE as e:
        raise GraphError(f"{path}: not a valid graph: {_first_line(e)}") from e
    del model
    graph = _without_functions(graph, path)
    try:
        return _in_our_form(graph, path)
    except EdgeKitError:
        raise
    except Exception as e:
        # onnx's checker looks at each node alone: one that contradicts its inputs may fail here. All else is a bug.
        reason = _contradiction(path)
        if reason is None:
            raise
        raise GraphError(f"{path}: not a valid graph: {reason}") from e


def _inlined(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    try:  # onnx's checker has not seen it yet
        return ir.to_proto(inlined(ir.from_proto(model)))
    except _UNREADABLE as e:
        raise GraphError(f"{path}: not a valid graph: {_first_line(e)}") from e


def _contradiction(path: Path) -> str | None:
    """Returns why the types and shapes of a file contradict each other, as ONNX infers them; None if they do not."""
    try:
        onnx.shape_inference.infer_shapes(structure_from_file(path)[0], check_type=True, strict_mode=True)
    except INFERENCE_ERRORS as e:
        return _first_line(e)
    return None


def _without_functions(graph: ir.Model, path: Path) -> ir.Model:
    ir.external_data.set_base_dir(graph.graph, path.parent.resolve())
    _read_small_data(graph)
    graph = inlined(graph)
    require_possible_attributes(graph, path)
    return graph


def _in_our_form(graph: ir.Model, path: Path) -> ir.Model:
    """Changes a valid graph without functions as `graph_from_onnx` describes."""
    RemoveInitializersFromInputsPass()(graph)
    _name_dimensions(graph)
    WidenFloats()(graph)
    CompleteStft()(graph)
    graph = upgrade_opset(graph, path.name)
    MaskAttentionWindows()(graph)
    lower_opset(graph.graph)
    graph.ir_version = max(graph.ir_version, _OLDEST_IR)
    InferShapes()(graph)
    # One by one: a sequence of passes would hide the error that one raises.
    if any([each(graph).modified for each in (PositiveAxes(), TimeFirst(), DequantizeWeights())]):
        InferShapes()(graph)
    # ONNX infers no types behind operators of other domains: they are known when those are replaced.
    for decompose in (DecomposeContrib(), DecomposeMl()):
        for _ in range(_ROUNDS):
            if not decompose(graph).modified:
                break
            InferShapes()(graph)
    return graph


def _parsed(path: Path) -> tuple[onnx.ModelProto, dict[str, Payload]]:
    try:
        with path.open("rb") as file:
            head, size = file.read(_HEAD_BYTES), file.seek(0, 2)
        if not head:
            raise GraphError(f"{path}: expected an ONNX file, got an empty file")
        require_no_other_format(head, path)
        model, payloads = structure_from_file(path)
    except OSError as e:
        raise GraphError(f"{path}: cannot be read: {e.strerror or e}") from e
    except DecodeError as e:
        raise not_onnx(path, f"{size} bytes that are not ONNX, or a truncated file") from e
    if not model.ir_version or not model.HasField("graph") or not model.graph.output:
        raise not_onnx(path, f"{size} bytes without a graph and outputs")
    return model, payloads


def _require_valid(model: onnx.ModelProto, payloads: Mapping[str, Payload], path: Path) -> None:
    try:
        with _with_output_shapes(model), _with_empty_weights(model, payloads):
            onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, RuntimeError, ValueError) as e:
        raise GraphError(f"{path}: not a valid graph: {_first_line(e)}") from e


@contextlib.contextmanager
def _with_empty_weights(model: onnx.ModelProto, payloads: Mapping[str, Payload]) -> Iterator[None]:
    """Gives weights whose numbers are not in the model only a shape without elements: the checker requires the numbers.

    It looks for external data in the current folder; `require_external_data` has looked where it is.
    """
    external = [tensor for tensor in tensors_of(model) if tensor.data_location == onnx.TensorProto.EXTERNAL]
    in_file = [tensor for tensor in model.graph.initializer if tensor.name in payloads]
    shapes = [(tensor, list(tensor.dims)) for tensor in (*in_file, *external)]
    for tensor in external:
        tensor.data_location = onnx.TensorProto.DEFAULT
    for tensor, _ in shapes:
        tensor.dims[:] = [0]
    try:
        yield
    finally:
        for tensor, shape in shapes:
            tensor.dims[:] = shape
        for tensor in external:
            tensor.data_location = onnx.TensorProto.EXTERNAL


@contextlib.contextmanager
def _with_output_shapes(model: onnx.ModelProto) -> Iterator[None]:
    """Adds types and empty shapes to outputs without: the checker requires them, ONNX Runtime and many files do not."""
    typeless = [
        output
        for output in model.graph.output
        if output.type.WhichOneof("value") is None or _is_typeless_tensor(output.type)
    ]
    types = [output.type.SerializeToString() for output in typeless]
    for output in typeless:
        output.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    shapeless = [
        output.type.tensor_type
        for output in model.graph.output
        if output.type.HasField("tensor_type") and not output.type.tensor_type.HasField("shape")
    ]
    for tensor_type in shapeless:
        tensor_type.shape.SetInParent()
    try:
        yield
    finally:
        for tensor_type in shapeless:
            tensor_type.ClearField("shape")
        for output, before in zip(typeless, types, strict=True):
            output.type.ParseFromString(before)


def _is_typeless_tensor(kind: onnx.TypeProto) -> bool:
    return kind.HasField("tensor_type") and kind.tensor_type.elem_type == onnx.TensorProto.UNDEFINED


def _use_types_of_inputs(model: onnx.ModelProto) -> None:
    """Gives an output that is an input the input's type: as one value, it would have the output's, without a shape."""
    types = {value.name: value.type for value in model.graph.input}
    for output in model.graph.output:
        if output.name in types:
            output.type.CopyFrom(types[output.name])


def _clear_undefined_types(model: onnx.ModelProto) -> None:
    """Removes types that say nothing from outputs and inner values: what is declared wins over what is inferred."""
    for graph in (model.graph, *(graph for node in nodes_of(model) for graph in graphs_in(node))):
        for value in (*graph.output, *graph.value_info):
            if _is_typeless_tensor(value.type):
                value.ClearField("type")


def _own_weights(graph: ir.Model, path: Path, payloads: Mapping[str, Payload]) -> None:
    """Converts weights to arrays, because a protobuf tensor is copied on every access, and reads those in the file."""
    for name, value in graph.graph.initializers.items():
        tensor = value.const_value
        if not isinstance(tensor, ir.serde.TensorProtoTensor) or tensor.dtype == ir.DataType.STRING:
            continue
        payload = payloads.get(name)
        if payload is None:
            value.const_value = ir.tensor(tensor.numpy(), dtype=tensor.dtype, name=name)
        elif tensor.dtype.bitwidth < 8:
            packed = array_at(path, payload, np.dtype(np.uint8), (payload.length,))
            value.const_value = ir.PackedTensor(packed, tensor.dtype, shape=tensor.shape, name=name)
        else:
            shape = tuple(tensor.shape.numpy())
            array = array_at(path, payload, tensor.dtype.numpy(), shape)
            value.const_value = ir.tensor(array, dtype=tensor.dtype, name=name)


def _read_small_data(graph: ir.Model) -> None:
    """Loads external data that is small or belongs to a subgraph; later steps read it with the nodes."""
    for part in graph.graphs():
        for value in part.initializers.values():
            tensor = value.const_value
            if isinstance(tensor, ir.ExternalTensor) and (tensor.nbytes <= INLINE_BYTES or part is not graph.graph):
                value.const_value = ir.tensor(tensor.numpy().copy(), dtype=tensor.dtype, name=value.name)


def _name_dimensions(graph: ir.Model) -> None:
    """Gives each unnamed input dimension a unique name: one that is missing, -1 or a word for "unknown"."""
    for value in graph.graph.inputs:
        assert value.shape is not None
        value.shape = ir.Shape(
            [
                f"{value.name}_{axis}" if (size < 0 if isinstance(size, int) else size.value in _NAMELESS) else size
                for axis, size in enumerate(value.shape)
            ]
        )
    for value in graph.graph.outputs:
        if value.shape is not None:
            value.shape = ir.Shape([None if isinstance(size, int) and size < 0 else size for size in value.shape])


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
