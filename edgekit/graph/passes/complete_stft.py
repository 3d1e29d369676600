"""Writes out what a short-time Fourier transform takes by default, which not every library reads as ONNX says."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgekit.graph.insert import new_constant
from edgekit.graph.shape_values import number_of

__all__ = ["CompleteStft"]

WINDOW, LENGTH = 2, 3
"""Places of these inputs."""


class CompleteStft(ir.passes.InPlacePass):
    """Gives every ``STFT`` its attribute ``onesided``, and both a window and the length of a frame where it has one.

    ONNX's shape inference (1.23) takes 0 for ``onesided`` where ONNX says 1, and ONNX Runtime then refuses the shapes
    of what reads the output. OpenVINO (2026.4) refuses an STFT of a window without a length, or of a length without a
    window if the signal has two dimensions.

    Preconditions: signals are in FP32, and functions are inlined.
    Postconditions: the graph computes the same; only the inputs and attributes of STFT nodes, and constants, are new.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        found = [node for node in model.graph.all_nodes() if node.op_type == "STFT" and node.domain in ("", "ai.onnx")]
        return ir.passes.PassResult(model, modified=any([_complete(node) for node in found]))


def _complete(node: ir.Node) -> bool:
    modified = "onesided" not in node.attributes
    if modified:
        node.attributes["onesided"] = ir.AttrInt64("onesided", 1)
    window, length = (*node.inputs[WINDOW:], None, None)[:2]
    if window is not None and length is None:
        size = window.shape[0] if window.shape is not None else None
        index, array = LENGTH, np.asarray(size if isinstance(size, int) else 0)
    elif window is None and length is not None:
        index, array = WINDOW, np.ones(int(number_of(length) or 0), np.float32)
    else:
        return modified
    if not array.size or not array.any():  # it is not known before the model runs
        return modified
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    node.resize_inputs(LENGTH + 1)
    node.replace_input_with(index, new_constant(graph, f"{node.outputs[0].name}_{index}", array))
    return True
