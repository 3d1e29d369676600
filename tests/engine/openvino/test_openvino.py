"""Workarounds for errors in OpenVINO 2026.4, and lowered graphs, compared with float ONNX Runtime."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from msgspec import structs
from small_graphs import product_graph, save

import edgekit
from edgekit.device.cpu import cpu
from edgekit.engine.backend import BuildOptions, backend
from edgekit.engine.bundle.manifest import read_manifest
from edgekit.errors import BuildError
from edgekit.specs import Precision

pytest.importorskip("openvino")

CHAIN = """
<ir_version: 10, opset_import: ["" : 20]>
chain (float[{rows}, 64] x) => (float[{rows}, 8] y) {{
  wide = {first}
  active = Relu(wide)
  y = MatMul(active, second)
}}
"""


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize(
    "first",
    ["MatMul(x, first)", "Gemm(x, first, number)", "Gemm(x, first, bias)"],
    ids=["no bias", "a bias of one number", "bias"],
)
def test_chained_integer_products_match_the_graph(tmp_path: Path, first: str, rows: int) -> None:
    rng = np.random.default_rng(0)
    model = onnx.parser.parse_model(CHAIN.format(first=first, rows=rows))
    constants = {
        "first": rng.standard_normal((64, 32)) / 8,
        "second": rng.standard_normal((32, 8)) / 6,
        "number": np.full(1, 0.3),
        "bias": rng.standard_normal(32),
    }
    used = {name for node in model.graph.node for name in node.input}
    for name in used & set(constants):
        model.graph.initializer.append(onnx.numpy_helper.from_array(constants[name].astype(np.float32), name))
    onnx.save(model, tmp_path / "chain.onnx")
    inputs = rng.standard_normal((8, rows, 64)).astype(np.float32)
    (tmp_path / "arrays").mkdir()
    for i, x in enumerate(inputs):
        np.save(tmp_path / "arrays" / f"{i}.npy", x)

    place = edgekit.build(
        tmp_path / "chain.onnx", target="openvino", calib=tmp_path / "arrays", output=tmp_path / "out", profile=False
    )
    assert read_manifest(place).layers.get("int8", 0) >= 1
    reference = onnxruntime.InferenceSession(tmp_path / "chain.onnx", providers=["CPUExecutionProvider"])
    with edgekit.load(place) as session:
        got = np.stack([session.run({"x": x})["y"] for x in inputs])
    exact = np.stack([reference.run(None, {"x": x})[0] for x in inputs])
    assert 10 * np.log10(np.square(exact).sum() / np.square(got - exact).sum()) > 20


NET = """
<ir_version: 10, opset_import: ["" : 20]>
net (float[{batch}, 8, {size}, {size}] x) => (float[{batch}, 5, {size}, {size}] y) {{
  a = Conv <kernel_shape = [1, 1]> (x, first)
  b = LeakyRelu <alpha = 0.1> (a)
  c = Conv <pads = [1, 1, 1, 1]> (b, second)
  d = LeakyRelu <alpha = 0.1> (c)
  y = Conv <kernel_shape = [1, 1]> (d, head, bias)
}}
"""


@pytest.mark.parametrize(("batch", "size"), [(1, "4"), (2, "4"), (1, "size"), ("batch", "4")])
def test_lowered_graphs_match_the_original(tmp_path: Path, batch: int | str, size: str) -> None:
    rng = np.random.default_rng(0)
    model = onnx.parser.parse_model(NET.format(batch=batch, size=size))
    constants = {
        "first": rng.standard_normal((8, 8, 1, 1)) / 3,
        "second": rng.standard_normal((128, 8, 3, 3)) / 9,
        "head": rng.standard_normal((5, 128, 1, 1)) / 11,
        "bias": rng.standard_normal(5),
    }
    for name, value in constants.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(value.astype(np.float32), name))
    onnx.save(model, tmp_path / "net.onnx")
    inputs = rng.standard_normal((8, 1 if batch == "batch" else batch, 8, 4, 4)).astype(np.float32)
    (tmp_path / "arrays").mkdir()
    for i, x in enumerate(inputs):
        np.save(tmp_path / "arrays" / f"{i}.npy", x)
    given: dict[str, Any] = {"batch": (1, 1, 4)} if batch == "batch" else {}
    if size == "size":
        given = {"input": {"x": [1, 8, (2, 4, 9), (2, 4, 9)]}}

    place = edgekit.build(
        tmp_path / "net.onnx",
        target="openvino",
        calib=tmp_path / "arrays",
        output=tmp_path / "out",
        profile=False,
        **given,
    )
    here = cpu()
    lowered = here.arch == "x86_64" and here.fast_int8
    assert read_manifest(place).layers == ({"int8": 2, "int16": 1} if lowered else {"int8": 2, "float32": 1})
    assert (".padded" in (place / "engine.xml").read_text()) == lowered
    reference = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    with edgekit.load(place) as session:
        (spec,) = session.outputs
        assert (spec.name, spec.shape[1]) == ("y", 5)
        assert session.run({"x": inputs[0]})["y"].flags.c_contiguous != lowered
        got = np.stack([session.run({"x": x})["y"] for x in inputs])
        if size == "size":
            wide = rng.standard_normal((1, 8, 9, 9)).astype(np.float32)
            assert session.run({"x": wide})["y"].shape == (1, 5, 9, 9)
    exact = np.stack([reference.run(None, {"x": x})[0] for x in inputs])
    assert 10 * np.log10(np.square(exact).sum() / np.square(got - exact).sum()) > 25


def _quantized(tmp_path: Path, text: str) -> Path:
    """Builds a graph with 128 channels after ``DequantizeLinear``."""
    model = onnx.parser.parse_model(text)
    rng = np.random.default_rng(0)
    constants = {
        "scale": np.float32(0.02),
        "zero": np.uint8(100),
        "none": np.int8(0),
        "w": rng.integers(-127, 128, (128, 128, 1, 1), dtype=np.int8),
        "wide": rng.integers(-127, 128, (8, 256, 1, 1), dtype=np.int8),
        "transposed": rng.integers(-127, 128, (256, 8, 2, 2), dtype=np.int8),
        "float": rng.standard_normal((8, 128, 1, 1)).astype(np.float32),
    }
    used = {name for node in model.graph.node for name in node.input}
    for node in model.graph.node:
        node.name = node.output[0]
    for name in sorted(used & set(constants)):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(constants[name]), name))
    graph = tmp_path / "graph.onnx"
    onnx.save(onnx.shape_inference.infer_shapes(model), graph)
    return graph


JOINED = """
<ir_version: 10, opset_import: ["" : 20]>
joined (float[1, 128, 4, 4] x) => (float[1, 8, h, w_] y) {{
  q = QuantizeLinear(x, scale, zero)
  a = DequantizeLinear(q, scale, zero)
  r = DequantizeLinear({weight}, scale, none)
  j = Concat<axis = 1>(a, a)
  y = {operator}(j, r)
}}
"""


def test_a_layer_after_a_concat_is_checked_too(tmp_path: Path) -> None:
    conv = _quantized(tmp_path, JOINED.format(operator="Conv", weight="wide"))
    options = BuildOptions(precision=Precision.INT8)
    if cpu().fast_int8:
        assert backend("openvino").build(conv, tmp_path, options).layers == {"int8": 1}
    transposed = _quantized(tmp_path, JOINED.format(operator="ConvTranspose<strides = [2, 2]>", weight="transposed"))
    with pytest.raises(BuildError, match="quantized layers in float32, expected int8: y"):
        backend("openvino").build(transposed, tmp_path, options)


@pytest.mark.parametrize(
    ("arch", "feature", "narrowed"),
    [("x86_64", "avx2", True), ("x86_64", "avx512_vnni", False), ("aarch64", "neon", False)],
)
def test_weights_are_rounded_to_7_bits_where_8_overflow(
    arch: str, feature: str, narrowed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = structs.replace(cpu(), arch=arch, features=(feature,))
    monkeypatch.setattr("edgekit.engine.openvino.lowering.cpu", lambda: here)
    path = save(product_graph("MatMul", np.full((32, 16), 127, np.int8), 8000.0), tmp_path)
    result = backend("openvino").build(path, tmp_path, BuildOptions(precision=Precision.INT8))
    why = "sums of products with 8-bit weights would overflow on this processor"
    note = f"weights of 1 quantized layers were rounded to 7 bits: {why}"
    assert result.notes == ((note,) if narrowed else ())
    assert result.layers == {"int8": 1}
    # EdgeKit's own weights have 7 bits already.
    path = save(product_graph("MatMul", np.full((32, 16), 63, np.int8), 8000.0), tmp_path)
    assert backend("openvino").build(path, tmp_path, BuildOptions(precision=Precision.INT8)).notes == ()


def test_floats_are_not_split_in_an_engine_of_floats(tmp_path: Path) -> None:
    text = """<ir_version: 10, opset_import: ["" : 20]>
    head (uint8[1, 128, 4, 4] x) => (float[1, 8, 4, 4] y) { a = DequantizeLinear(x, scale, zero) y = Conv(a, float) }"""
    result = backend("openvino").build(_quantized(tmp_path, text), tmp_path, BuildOptions(precision=Precision.FP32))
    assert result.layers == {"float32": 1}
    assert "plane" not in (tmp_path / "engine.xml").read_text()


def test_engines_from_before_channels_last_outputs_load(tmp_path: Path) -> None:
    text = """<ir_version: 10, opset_import: ["" : 20]>
    head (uint8[1, 128, 4, 4] x) => (float[1, 8, 4, 4] y) { a = DequantizeLinear(x, scale, zero) y = Conv(a, float) }"""
    backend("openvino").build(_quantized(tmp_path, text), tmp_path, BuildOptions(precision=Precision.FP32))
    engine = tmp_path / "engine.xml"
    told = engine.read_text()
    older = re.sub(r"<channels_last [^>]*/>", "", told)
    assert older != told
    engine.write_text(older)
    with contextlib.closing(backend("openvino").load(engine)) as loaded:
        assert loaded.run({"x": np.zeros((1, 128, 4, 4), np.uint8)})["y"].shape == (1, 8, 4, 4)


def test_two_products_of_one_column_are_compiled(tmp_path: Path) -> None:
    model = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["" : 20]>
        g (float[4, 16] x) => (float[4, 1] y) { a = MatMul (x, column)  y = MatMul (a, number) }""")
    rng = np.random.default_rng(0)
    column, x = (rng.standard_normal(shape).astype(np.float32) for shape in ((16, 1), (4, 16)))
    model.graph.initializer.append(onnx.numpy_helper.from_array(column, "column"))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32([[0.75]]), "number"))
    library = backend("openvino")
    result = library.build(save(model, tmp_path), tmp_path, BuildOptions(precision=Precision.FP32, threads=1))
    engine = library.load(tmp_path / result.engine, threads=1)
    np.testing.assert_allclose(engine.run({"x": x})["y"], x @ column * 0.75, rtol=1e-5, atol=1e-6)
