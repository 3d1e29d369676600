from __future__ import annotations

import msgspec
import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.device.cpu import cpu
from edgekit.engine.onnxruntime.scheme import scheme_of_processor
from edgekit.engine.onnxruntime.tiles import has_wrong_columns


@pytest.fixture
def fresh_answer():
    has_wrong_columns.cache_clear()
    yield
    has_wrong_columns.cache_clear()


def is_exact(rows: int, columns: int) -> bool:
    """Whether ONNX Runtime multiplies integers as numpy does."""
    random = np.random.default_rng(rows * columns)
    left = random.integers(0, 256, (rows, 24)).astype(np.uint8)
    right = random.integers(-127, 128, (24, columns)).astype(np.int8)
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["left", "right"], ["sums"])],
        "product",
        [helper.make_tensor_value_info("left", TensorProto.UINT8, left.shape)],
        [helper.make_tensor_value_info("sums", TensorProto.INT32, [rows, columns])],
        [numpy_helper.from_array(right, "right")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.array_equal(session.run(None, {"left": left})[0], left.astype(np.int64) @ right.astype(np.int64))


def test_what_the_library_computes_wrong_is_found():
    wrong = [columns for columns in range(1, 100) for rows in (33, 64, 200) if not is_exact(rows, columns)]
    assert bool(wrong) == has_wrong_columns()
    assert all(columns > 16 and columns % 16 for columns in wrong)


class WrongColumns:
    """A session that adds 1 to one sum, as no library should."""

    def __init__(self, model: bytes, *args: object, **options: object) -> None:
        self._session = onnxruntime.capi.onnxruntime_inference_collection.InferenceSession(model, *args, **options)

    def run(self, names, feeds):
        (sums,) = self._session.run(names, feeds)
        sums[0, -1] += 1
        return [sums]


def test_products_of_such_columns_stay_in_float_only_where_they_are_wrong(monkeypatch, fresh_answer):
    limit = "columns-of-a-part-of-a-tile"
    amx = msgspec.structs.replace(cpu(), features=("avx2", "avx512_vnni", "amx_int8"))
    monkeypatch.setattr("edgekit.engine.onnxruntime.tiles.cpu", lambda: amx)
    assert (limit in scheme_of_processor().limits) == (not is_exact(64, 31))
    has_wrong_columns.cache_clear()
    monkeypatch.setattr(onnxruntime, "InferenceSession", WrongColumns)
    assert limit in scheme_of_processor().limits
    has_wrong_columns.cache_clear()
    monkeypatch.setattr(
        "edgekit.engine.onnxruntime.tiles.cpu", lambda: msgspec.structs.replace(amx, features=("avx2",))
    )
    assert limit not in scheme_of_processor().limits
