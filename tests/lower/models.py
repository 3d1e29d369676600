"""Makes models from ONNX's text form, with the constants that their nodes read."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import ArrayLike
from onnx import numpy_helper

__all__ = ["model_of_text"]


def model_of_text(nodes: str, inputs: str, outputs: str, constants: Mapping[str, ArrayLike]) -> onnx.ModelProto:
    """Returns a checked model of opset 20 with inferred shapes."""
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 20]> g ({inputs}) => ({outputs}) {{ {nodes} }}'
    )
    used = {name for node in model.graph.node for name in node.input}
    given = [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items() if name in used]
    model.graph.initializer.extend(given)
    onnx.checker.check_model(model, full_check=True)
    return onnx.shape_inference.infer_shapes(model, strict_mode=True)
