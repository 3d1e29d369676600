"""A graph is written as onnx_ir writes it, without copies of its weights; read, its weights stay in the file."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

import edgekit
from edgekit.graph.load.mapped import mapped_graph
from edgekit.graph.writing import write_graph

ROOT = Path(edgekit.__file__).parents[1]
RANDOM = np.random.default_rng(0)


def model_of(weights: dict[str, ir.TensorProtocol], body: bool = False) -> ir.Model:
    """A model that reads each weight; with ``body``, one in the branch of an If too."""
    nodes = [helper.make_node("Size", [name], [f"s-{name}"]) for name in weights]
    if body:
        large = numpy_helper.from_array(np.arange(999, dtype=np.float32), "inner")
        branch = helper.make_graph(
            [helper.make_node("Identity", ["inner"], ["of"])],
            "branch",
            [],
            [helper.make_tensor_value_info("of", TensorProto.FLOAT, [999])],
            [large],
        )
        nodes.append(helper.make_node("If", ["x"], ["s-if"], then_branch=branch, else_branch=branch))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.BOOL, [])],
        [helper.make_tensor_value_info(node.output[0], TensorProto.INT64, []) for node in nodes[: len(weights)]],
        [ir.serde.serialize_tensor(tensor) for tensor in weights.values()],
        doc_string="behind the weights",
    )
    model = ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10))
    for name, tensor in weights.items():
        model.graph.initializers[name].const_value = tensor
    model.metadata_props["key"] = "value"
    return model


def weights() -> dict[str, ir.TensorProtocol]:
    arrays = {
        "small": RANDOM.normal(size=4).astype(np.float32),
        "float": RANDOM.normal(size=(30, 40)).astype(np.float32),
        "strided": RANDOM.normal(size=(40, 60)).astype(np.float32).T[::2],
        "bytes": RANDOM.integers(-128, 128, 5000).astype(np.int8),
        "half": RANDOM.normal(size=900).astype(ml_dtypes.bfloat16),
        "long": RANDOM.integers(0, 9, 300),
    }
    tensors: dict[str, ir.TensorProtocol] = {name: ir.tensor(array, name=name) for name, array in arrays.items()}
    packed = RANDOM.integers(0, 256, 2001).astype(np.uint8)
    tensors["packed"] = ir.PackedTensor(packed, ir.DataType.INT4, shape=ir.Shape([2, 2001]), name="packed")
    tensors["text"] = ir.StringTensor([b"words " * 300], shape=ir.Shape([1]), name="text")
    declared = helper.make_tensor("proto", TensorProto.FLOAT, [500], [0.5] * 500)
    tensors["proto"] = ir.serde.deserialize_tensor(declared)
    return tensors


@pytest.mark.parametrize("body", [False, True])
def test_the_bytes_are_those_of_onnx_ir(body: bool, tmp_path: Path) -> None:
    model = model_of(weights(), body)
    before = {name: value.const_value for name, value in model.graph.initializers.items()}
    write_graph(model, tmp_path / "ours.onnx")
    ir.save(model, tmp_path / "theirs.onnx")
    assert (tmp_path / "ours.onnx").read_bytes() == (tmp_path / "theirs.onnx").read_bytes()
    onnx.checker.check_model(tmp_path / "ours.onnx")
    assert {name: value.const_value for name, value in model.graph.initializers.items()} == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["ours.onnx", "theirs.onnx"]


def test_a_graph_that_is_mapped_from_a_file_is_the_same_and_may_replace_it(tmp_path: Path) -> None:
    file, expected = tmp_path / "m.onnx", weights()
    ir.save(model_of(expected, body=True), file)
    content = file.read_bytes()
    graph = mapped_graph(file)
    write_graph(graph, file)
    assert file.read_bytes() == content
    for name, tensor in expected.items():
        got = graph.graph.initializers[name].const_value
        assert got is not None and (got.name, got.dtype, got.shape) == (name, tensor.dtype, tensor.shape)
        np.testing.assert_array_equal(got.numpy(), tensor.numpy())


@pytest.mark.parametrize("inline", [False, True])
def test_external_weights_are_written_or_stay_in_their_file(inline: bool, tmp_path: Path) -> None:
    array = RANDOM.normal(size=(20, 30)).astype(np.float32)
    ir.save(model_of({"w": ir.tensor(array, name="w")}), tmp_path / "m.onnx", external_data="m.data")
    graph = mapped_graph(tmp_path / "m.onnx")
    write_graph(graph, tmp_path / "m.onnx", inline=inline)
    (tensor,) = onnx.load(tmp_path / "m.onnx", load_external_data=False).graph.initializer
    assert (tensor.data_location == TensorProto.EXTERNAL) is not inline
    (tensor,) = onnx.load(tmp_path / "m.onnx").graph.initializer
    np.testing.assert_array_equal(numpy_helper.to_array(tensor), array)


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: ir.Tensor, file: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ir.Tensor, "tofile", full)
    with pytest.raises(OSError, match="No space left"):
        write_graph(model_of(weights()), tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_writing_and_mapping_copy_no_weights(tmp_path: Path) -> None:
    code = f"""
import resource, sys
from pathlib import Path
import numpy as np
sys.path.insert(0, {str(Path(__file__).parent)!r})
import test_writing as here
from edgekit.graph.load.mapped import mapped_graph
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
tensors = {{f"w{{i}}": here.ir.tensor(np.ones((4 << 20,), np.float32), name=f"w{{i}}") for i in range(4)}}
model, file = here.model_of(tensors), Path({str(tmp_path / "m.onnx")!r})
before = peak()
here.write_graph(model, file)
graph = mapped_graph(file)
print((peak() - before) / 64)
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert float(done.stdout) < 0.2
