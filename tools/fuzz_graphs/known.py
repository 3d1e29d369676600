"""Differences that are known, each with its reason: faults of a library that EdgeKit does not work around yet."""

from __future__ import annotations

import onnx

from tools.fuzz_graphs.builds import Finding

__all__ = ["reason_to_skip"]


def reason_to_skip(model: onnx.ModelProto, finding: Finding) -> str:
    """Returns why a finding does not count; empty if it does."""
    if finding.kind == "refused" and "quantized layers in float32, expected int8" in finding.text:
        return "a layer that a backend does not run in INT8 is refused by name; --keep-float builds it"
    if finding.target.startswith("tensorrt") and finding.kind == "refused" and "TensorRT cannot take" in finding.text:
        return "TensorRT refuses an operator, with the node's name"
    if finding.kind == "values" and _has_norm_of_one_element(model):
        return "ONNX Runtime adds the rounding of its mean to an InstanceNormalization of one element"
    return ""


def _has_norm_of_one_element(model: onnx.ModelProto) -> bool:
    graph = onnx.shape_inference.infer_shapes(model).graph
    shapes = {
        value.name: value.type.tensor_type.shape.dim for value in (*graph.input, *graph.value_info, *graph.output)
    }
    norms = [node.input[0] for node in graph.node if node.op_type == "InstanceNormalization"]
    return any(name in shapes and all(size.dim_value == 1 for size in shapes[name][2:]) for name in norms)
