"""Checks that inputs and outputs of an ONNX file are tensors of numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx

from edgekit.errors import GraphError

__all__ = ["require_tensor_inputs", "require_tensor_outputs"]

_HINT_CUT = (
    "cut the graph after the operators that read it: "
    "onnx.utils.extract_model(FILE, NEW_FILE, INPUT_NAMES, OUTPUT_NAMES)"
)
_HINT_OUTPUT = (
    "leave it out, or cut the graph before it: onnx.utils.extract_model(FILE, NEW_FILE, INPUT_NAMES, OUTPUT_NAMES)"
)
_HINT_ZIPMAP = (
    "export the model without ZipMap (options={'zipmap': False} of skl2onnx, zipmap=False of onnxmltools), or cut it "
    "off, as for CatBoost, which has no such option: onnx.utils.extract_model(FILE, NEW_FILE, INPUTS, OUTPUTS)"
)
_NO_REAL_NUMBERS = {
    onnx.TensorProto.UNDEFINED: "no type",
    onnx.TensorProto.STRING: "strings",
    onnx.TensorProto.COMPLEX64: "complex numbers",
    onnx.TensorProto.COMPLEX128: "complex numbers",
}


def require_tensor_inputs(model: onnx.ModelProto, path: Path) -> None:
    """Checks that each input is a tensor of real numbers with a rank.

    Raises:
        GraphError: it is none; names it.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    for value in model.graph.input:
        if value.name in weights:
            continue
        kind = value.type.WhichOneof("value")
        if kind != "tensor_type":
            raise GraphError(
                f"{path}: input '{value.name}': expected a tensor, got {(kind or 'no type').split('_')[0]}",
                hint=f"export the model with tensors as inputs, or {_HINT_CUT}",
            )
        if value.type.tensor_type.elem_type in _NO_REAL_NUMBERS:
            raise GraphError(
                f"{path}: input '{value.name}': expected a tensor of real numbers, got "
                f"{_NO_REAL_NUMBERS[value.type.tensor_type.elem_type]}",
                hint=_HINT_CUT,
            )
        if not value.type.tensor_type.HasField("shape"):
            raise GraphError(
                f"{path}: input '{value.name}': expected a fixed number of dimensions, got a dynamic rank",
                hint="export the model with the input's shape",
            )


def require_tensor_outputs(model: onnx.ModelProto, path: Path) -> None:
    """Checks that each output is a tensor of numbers, where the file says what it is.

    Raises:
        GraphError: it is none; names it and its node.
    """
    producers = {name: node for node in model.graph.node for name in node.output}
    for value in model.graph.output:
        kind = value.type.WhichOneof("value") or "tensor_type"
        strings = kind == "tensor_type" and value.type.tensor_type.elem_type == onnx.TensorProto.STRING
        if kind == "tensor_type" and not strings:
            continue
        node = producers.get(value.name)
        by = f" of node '{node.name or node.output[0]}' ({node.op_type})" if node is not None else ""
        got = "strings" if strings else kind.split("_")[0]
        zipped = node is not None and node.op_type == "ZipMap"
        raise GraphError(
            f"{path}: output '{value.name}'{by}: expected a tensor of numbers, got {got}",
            hint=_zipmap_hint(model, producers) if zipped else _HINT_OUTPUT,
        )


def _zipmap_hint(model: onnx.ModelProto, producers: Mapping[str, onnx.NodeProto]) -> str:
    """Says how to get the probabilities as a tensor."""
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value.name for value in model.graph.input if value.name not in weights]
    outputs = []
    for value in model.graph.output:
        node = producers.get(value.name)
        if node is not None and node.op_type == "ZipMap":
            outputs.append(node.input[0])
        elif value.type.tensor_type.elem_type != onnx.TensorProto.STRING:
            outputs.append(value.name)
    return _HINT_ZIPMAP.replace("INPUTS", str(inputs)).replace("OUTPUTS", str(outputs))
