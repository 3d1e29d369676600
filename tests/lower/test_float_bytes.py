"""Images in bytes are converted to floats before they are transposed; ONNX Runtime computes the right values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from edgekit.graph.evaluator import Evaluator
from edgekit.lower.float_bytes import FloatBytes
from edgekit.lower.rewriting import lower
from edgekit.lower.tensorrt_operators import use_tensorrt_operators
from edgekit.specs import Precision
from tests.lower.models import built_for_rtx, model_of_text

IMAGE, OUTPUT = "uint8[1, 5, 6, 3] x", "float[1, 3, 5, 6] y"
TEXT = "t = Transpose <perm = [0, 3, 1, 2]> (x) f = Cast <to = 1> (t) y = Div (f, most)"
OTHERS = {
    "converted first": "f = Cast <to = 1> (x) t = Transpose <perm = [0, 3, 1, 2]> (f) y = Div (t, most)",
    "computed in bytes": "t = Transpose <perm = [0, 3, 1, 2]> (x) s = BitwiseNot (t) y = Cast <to = 1> (s)",
    "converted to integers": "t = Transpose <perm = [0, 3, 1, 2]> (x) f = Cast <to = 6> (t) y = Cast <to = 1> (f)",
    "of two types": "t = Transpose <perm = [0, 3, 1, 2]> (x) f = Cast <to = 1> (t) h = Cast <to = 10> (t) "
    "g = Cast <to = 1> (h) y = Sub (f, g)",
}


def graph_of(text: str, outputs: str = OUTPUT) -> ir.Model:
    return ir.from_proto(model_of_text(text, IMAGE, outputs, {"most": np.float32(255)}))


def test_bytes_are_moved_as_floats() -> None:
    graph = graph_of(TEXT)
    x = np.random.default_rng(0).integers(0, 256, (1, 5, 6, 3)).astype(np.uint8)
    assert lower(graph, [FloatBytes()])
    assert [node.op_type for node in graph.graph][:2] == ["Cast", "Transpose"]
    assert graph.graph.inputs[0].dtype is ir.DataType.UINT8
    np.testing.assert_array_equal(Evaluator(graph).run({"x": x})["y"], x.transpose(0, 3, 1, 2) / np.float32(255))
    assert not lower(graph, [FloatBytes()])


def test_a_clone_leaves_the_types_of_its_graph() -> None:
    graph = graph_of(TEXT)
    assert lower(graph.clone(deep_copy=False), [FloatBytes()])
    assert [node.outputs[0].dtype for node in graph.graph][:2] == [ir.DataType.UINT8, ir.DataType.FLOAT]


@pytest.mark.parametrize("form", OTHERS)
def test_other_readers_keep_their_bytes(form: str) -> None:
    assert not lower(graph_of(OTHERS[form]), [FloatBytes()])


def test_bytes_that_are_an_output_stay() -> None:
    text = f"{TEXT} t2 = Identity (t)"
    assert not lower(graph_of(text, f"{OUTPUT}, uint8[1, 3, 5, 6] t2"), [FloatBytes()])


def test_tensorrt_rtx_builds_it(tmp_path: Path) -> None:
    graph = graph_of(TEXT)
    assert use_tensorrt_operators(graph)
    assert built_for_rtx(graph, tmp_path, Precision.FP32).engine
