"""Replaces operators that ONNX has deprecated or does not have, so that its checker accepts the graph."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import numpy as np
import onnx
from onnx import helper, numpy_helper

__all__ = ["is_unconverted", "move_runtime_operators", "replace_deprecated", "replace_unconverted"]

RUNTIME_DOMAIN = "com.microsoft"
_OF_RUNTIME = {"LayerNormalization": range(1, 17), "SimplifiedLayerNormalization": range(1, 1000)}
"""Operators that ONNX Runtime has in ONNX's own domain, where ONNX does not, by opset: its optimizer writes them."""

_WITHDRAWN = range(18, 21)
"""Opsets in which GroupNormalization has one scale for each group; ONNX withdrew it for the one of opset 21, which has
one for each channel. ONNX Runtime runs both."""


def move_runtime_operators(model: onnx.ModelProto) -> None:
    """Moves operators that ONNX Runtime has in ONNX's domain, and ONNX has not, to ONNX Runtime's domain, in place.

    `edgekit.graph.passes.decompose_contrib` replaces them.
    """
    for part in (model, *model.functions):
        opset = _version(part.opset_import)
        graph = part.graph if isinstance(part, onnx.ModelProto) else part
        moved = [
            node
            for nested in _nested(graph)
            for node in nested.node
            if node.domain in ("", "ai.onnx") and opset in _OF_RUNTIME.get(node.op_type, ())
        ]
        for node in moved:
            node.domain = RUNTIME_DOMAIN
        if moved and not any(each.domain == RUNTIME_DOMAIN for each in part.opset_import):
            part.opset_import.append(helper.make_opsetid(RUNTIME_DOMAIN, 1))


def replace_deprecated(model: onnx.ModelProto) -> None:
    """Replaces each GroupNormalization of opset 18 to 20 with an InstanceNormalization of its groups, in place."""
    if _version(model.opset_import) in _WITHDRAWN:
        _replace(model.graph)
    for function in model.functions:
        if _version(function.opset_import) in _WITHDRAWN:
            _replace(function)


def is_unconverted(node: onnx.NodeProto) -> bool:
    """Whether it is an operator of TensorFlow that `replace_unconverted` replaces."""
    complete = len(node.input) == len(node.output) == 1
    return complete and node.op_type == "Erfc" and node.domain in ("", "ai.onnx")


def replace_unconverted(model: onnx.ModelProto) -> None:
    """Replaces each ``Erfc`` by ``1 - Erf``, in place.

    tf2onnx does not convert it, and leaves TensorFlow's operator in the file: Keras computes the exact GELU with it.
    """
    numbers = count()
    for part in _nested(model.graph):
        if not any(map(is_unconverted, part.node)):
            continue
        types = {value.name: value.type.tensor_type.elem_type for value in (*part.value_info, *part.output)}
        nodes: list[onnx.NodeProto] = []
        for node in part.node:
            if not is_unconverted(node):
                nodes.append(node)
                continue
            stem, result = f"{node.output[0]}_erfc{next(numbers)}", node.output[0]
            one = helper.make_tensor("value", types.get(result) or onnx.TensorProto.FLOAT, [], [1.0])
            nodes += [
                helper.make_node("Constant", [], [f"{stem}_one"], value=one),
                helper.make_node("Erf", list(node.input), [f"{stem}_erf"], name=node.name),
                helper.make_node("Sub", [f"{stem}_one", f"{stem}_erf"], [result]),
            ]
        del part.node[:]
        part.node.extend(nodes)


def _version(imports: list[onnx.OperatorSetIdProto]) -> int:
    return max((each.version for each in imports if each.domain in ("", "ai.onnx")), default=0)


def _replace(graph: onnx.GraphProto | onnx.FunctionProto) -> None:
    numbers = count()
    for part in _nested(graph):
        if not any(map(_is_deprecated, part.node)):
            continue
        nodes: list[onnx.NodeProto] = []
        for node in part.node:
            nodes += (
                _group_normalization(node, f"{node.output[0]}_group{next(numbers)}") if _is_deprecated(node) else [node]
            )
        del part.node[:]
        part.node.extend(nodes)


def _nested(graph: onnx.GraphProto | onnx.FunctionProto) -> Iterator[onnx.GraphProto | onnx.FunctionProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _nested(inner)


def _is_deprecated(node: onnx.NodeProto) -> bool:
    """Whether the node is complete and is to be replaced; ONNX's checker names what others lack."""
    named = node.op_type == "GroupNormalization" and node.domain in ("", "ai.onnx")
    return named and len(node.input) == 3 and any(each.name == "num_groups" for each in node.attribute)


def _group_normalization(node: onnx.NodeProto, stem: str) -> list[onnx.NodeProto]:
    attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    data, scale, shift = node.input
    shape = numpy_helper.from_array(np.asarray([0, attributes.pop("num_groups"), -1], np.int64))
    return [
        helper.make_node("Constant", [], [f"{stem}_shape"], value=shape),
        helper.make_node("Reshape", [data, f"{stem}_shape"], [f"{stem}_split"]),
        helper.make_node(
            "InstanceNormalization",
            [f"{stem}_split", scale, shift],
            [f"{stem}_normal"],
            name=node.name,
            epsilon=attributes.get("epsilon", 1e-5),
        ),
        helper.make_node("Shape", [data], [f"{stem}_whole"]),
        helper.make_node("Reshape", [f"{stem}_normal", f"{stem}_whole"], list(node.output)),
    ]
