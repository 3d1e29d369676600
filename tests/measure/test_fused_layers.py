from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest

import edgekit
from edgekit.measure.fused_layers import FusedLayer, fused_layers

# A residual block with a Swish, a Split whose halves go two ways, and a Concat. Sizes of one value in elements:
# x 4x8x8 = 256, everything with 8 channels 512, the halves 256 each.
GRAPH = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[1, 4, 8, 8] x) => (float[1, 12, 8, 8] y) {
    a = Conv <pads = [1, 1, 1, 1]> (x, wa, ba)
    s = Sigmoid (a)
    w = Mul (a, s)
    b = Conv <pads = [1, 1, 1, 1]> (w, wb)
    r = Add (b, w)
    left, right = Split <axis = 1> (r, halves)
    p = MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (left)
    c = Conv (right, wc)
    y = Concat <axis = 1> (p, c)
}
"""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = onnx.parser.parse_model(GRAPH)
    random = np.random.default_rng(0)
    arrays = {
        "wa": random.random((8, 4, 3, 3)).astype(np.float32), "ba": np.ones(8, np.float32),
        "wb": random.random((8, 8, 3, 3)).astype(np.float32), "wc": random.random((8, 4, 1, 1)).astype(np.float32),
        "halves": np.array([4, 4]),
    }  # fmt: skip
    for name, array in arrays.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    file = tmp_path_factory.mktemp("fused") / "net.onnx"
    onnx.save(model, file)
    return file


def layers_of(path: Path, precision: str) -> list[FusedLayer]:
    return list(fused_layers(edgekit.inspect(path, precision=precision)))


def test_elementwise_layers_join_the_layer_before_them(path: Path) -> None:
    found = layers_of(path, "fp32")
    assert [(layer.operator, len(layer.layers)) for layer in found] == [
        ("Conv", 3), ("Conv", 3), ("MaxPool", 1), ("Conv", 1),
    ]  # fmt: skip


@pytest.mark.parametrize(("precision", "size", "kept"), [("fp32", 4, 4), ("fp16", 2, 2), ("int8", 1, 4)])
def test_bytes_are_those_that_leave_or_enter_a_merged_layer(path: Path, precision: str, size: int, kept: int) -> None:
    a, b, p, c = layers_of(path, precision)
    assert a.activation_bytes == (256 + 512) * size  # reads x, writes w; a and s stay inside
    assert b.activation_bytes == (512 + 512) * size  # reads w once for both of its readers, writes r
    assert p.activation_bytes == (256 + 256) * size  # reads one half
    assert c.activation_bytes == (256 + 512) * size
    assert [layer.weight_bytes for layer in (a, b, p, c)] == [288 * size + 8 * kept, 576 * size, 0, 32 * size]
    assert a.bytes == a.weight_bytes + a.activation_bytes


def test_multiply_accumulates_are_those_of_the_graph(path: Path) -> None:
    found = edgekit.inspect(path)
    assert sum(layer.macs for layer in fused_layers(found)) == found.macs == 64 * (288 + 576 + 32)


def test_a_value_that_an_engine_writes_twice_by_name_counts_once(tmp_path: Path) -> None:
    model = onnx.parser.parse_model("""
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[1, 16] x) => (float[1, 8] y) {
        xq = QuantizeLinear (x, s, z) xf = DequantizeLinear (xq, s, z) wf = DequantizeLinear (w, s, z)
        m = MatMul (xf, wf) q = QuantizeLinear (m, s, z) y = DequantizeLinear (q, s, z)
    }""")
    for name, array in {"s": np.float32(0.1), "z": np.int8(0), "w": np.ones((16, 8), np.int8)}.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    onnx.save(model, tmp_path / "q.onnx")
    (layer,) = fused_layers(edgekit.inspect(tmp_path / "q.onnx"))
    # The engine may take x in the type that it computes in; y leaves in float, as the graph says.
    assert (layer.macs, layer.weight_bytes, layer.precision) == (128, 128, "int8")
    assert layer.activation_bytes in (16 + 8, 16 + 4 * 8)


def test_the_fusions_of_the_engine_come_before_those_that_any_engine_does(path: Path) -> None:
    found = edgekit.inspect(path, precision="fp32")
    names = [row.name for row in found.layers]
    a, s, w, b, r, split, p, c, y = names
    engine = msgspec.structs.replace(found, fusions=((a,), (s, w), (b, r, split, c)))
    layers = fused_layers(engine)
    assert [layer.layers for layer in layers] == [(a,), (s, w), (b, r, split, c), (p,)]
    assert sum(layer.macs for layer in layers) == found.macs
    alone = layers[0]
    assert alone.activation_bytes == 4 * (256 + 512)  # it writes the output of the convolution, which stays inside else
    assert layers[1].activation_bytes == 4 * (512 + 512)
