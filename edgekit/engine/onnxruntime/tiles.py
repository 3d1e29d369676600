"""Whether ONNX Runtime multiplies 8-bit integers right on this processor."""

from __future__ import annotations

import functools

import numpy as np

from edgekit.device.cpu import cpu
from edgekit.telemetry import import_onnxruntime

__all__ = ["has_wrong_columns"]

ROWS, DEPTH, COLUMNS = 64, 16, (31, 79)


@functools.cache
def has_wrong_columns() -> bool:
    """Whether products of 8-bit integers are wrong where their columns fill a part of a tile of AMX.

    ONNX Runtime 1.21 to 1.24 compute columns from the 17th on wrong where a product has 17 to 31 of them, or about 64
    rows and 65 to 79 columns (https://github.com/microsoft/onnxruntime/issues/26324). It is measured, since builds of
    others have versions of their own. 1.23 is the last version for Python 3.10.
    """
    if "amx_int8" not in cpu().features:
        return False
    try:
        ort = import_onnxruntime()
        from onnx import TensorProto, helper, numpy_helper
    except ImportError:  # nothing is built here
        return False
    settings = ort.SessionOptions()
    settings.intra_op_num_threads, settings.log_severity_level = 1, 4
    random = np.random.default_rng(0)
    for columns in COLUMNS:
        left = random.integers(0, 256, (ROWS, DEPTH)).astype(np.uint8)
        right = random.integers(-127, 128, (DEPTH, columns)).astype(np.int8)
        model = helper.make_model(
            helper.make_graph(
                [helper.make_node("MatMulInteger", ["left", "right"], ["sums"])],
                "columns",
                [helper.make_tensor_value_info("left", TensorProto.UINT8, left.shape)],
                [helper.make_tensor_value_info("sums", TensorProto.INT32, [ROWS, columns])],
                [numpy_helper.from_array(right, "right")],
            ),
            opset_imports=[helper.make_opsetid("", 20)],
            ir_version=10,
        )
        session = ort.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
        (sums,) = session.run(None, {"left": left})
        if not np.array_equal(sums, left.astype(np.int32) @ right.astype(np.int32)):
            return True
    return False
