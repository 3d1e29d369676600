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
    return ""
