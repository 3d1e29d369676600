"""Differences that are known, each with its reason: faults of a library that EdgeKit does not work around yet."""

from __future__ import annotations

import onnx

from tools.fuzz_graphs.builds import Finding

__all__ = ["reason_to_skip"]


def reason_to_skip(model: onnx.ModelProto, finding: Finding) -> str:
    """Returns why a finding does not count; empty if it does."""
    return ""
