from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from small_graphs import SHAPE, as_input, conv_graph, product_graph, run_unfused, save, unknown_operator

from edgekit.device.cpu import cpu
from edgekit.engine.backend import Backend, BuildOptions, Engine, backend
from edgekit.engine.table import BACKENDS
from edgekit.errors import BackendUnavailable, BuildError, EngineMismatch, GraphError, RunError
from edgekit.extras import install_command
from edgekit.specs import Precision, TensorSpec

FP32 = BuildOptions(precision=Precision.FP32)
INT8 = BuildOptions(precision=Precision.INT8)
LIBRARIES = {"cpu": "onnxruntime", "openvino": "openvino"}


# GPU backends have their own tests, which need no GPU.
ON_PROCESSORS = sorted(name for name in BACKENDS if not backend(name).on_gpu)


@pytest.fixture(params=ON_PROCESSORS)
def any_backend(request: pytest.FixtureRequest) -> Backend:
    return _installed(request.param)


@pytest.fixture(params=sorted(LIBRARIES))
def real_backend(request: pytest.FixtureRequest) -> Backend:
    return _installed(request.param)


def _installed(name: str) -> Backend:
    if name in LIBRARIES:
        pytest.importorskip(LIBRARIES[name])
    return backend(name)


def _loaded(library: Backend, graph: Path, options: BuildOptions) -> Engine:
    result = library.build(graph, graph.parent, options)
    return library.load(graph.parent / result.engine, threads=1)


def _images(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(SHAPE, dtype=np.float32)


def _reference(graph: Path, images: np.ndarray) -> np.ndarray:
    return run_unfused(graph, {"images": images})[0]


def test_float_engines_match_the_graph(real_backend: Backend, tmp_path: Path) -> None:
    graph = save(conv_graph(), tmp_path)
    engine = _loaded(real_backend, graph, FP32)
    for seed in range(3):
        images = _images(seed)
        np.testing.assert_allclose(engine.run({"images": images})["head"], _reference(graph, images), atol=1e-4)


def test_integer_engines_match_the_graph(real_backend: Backend, tmp_path: Path) -> None:
    graph = save(conv_graph(quantized=True), tmp_path)
    engine = _loaded(real_backend, graph, INT8)
    images = _images()
    # One step of the output's scale, 0.1, through the head's weights: ties may be rounded either way.
    difference = np.abs(engine.run({"images": images})["head"] - _reference(graph, images))
    assert np.quantile(difference, 0.9) < 1e-3 and difference.max() < 0.4


def test_the_layers_of_the_engine_are_read_back(any_backend: Backend, tmp_path: Path) -> None:
    assert any_backend.build(save(conv_graph(), tmp_path), tmp_path, FP32).layers == {"float32": 2}
    quantized = any_backend.build(save(conv_graph(quantized=True), tmp_path), tmp_path, INT8)
    assert quantized.layers == {"int8": 1, "float32": 1}
    assert quantized.backend_version == any_backend.version()
    assert all((tmp_path / name).stat().st_size > 0 for name in {quantized.engine, *quantized.files})


def test_inputs_and_outputs_are_those_of_the_graph(any_backend: Backend, tmp_path: Path) -> None:
    engine = _loaded(any_backend, save(conv_graph(quantized=True), tmp_path), INT8)
    assert engine.inputs == (TensorSpec("images", "float32", SHAPE),)
    assert engine.outputs == (TensorSpec("head", "float32", (1, 3, 6, 6)),)
    results = engine.run({"images": _images()})
    assert {name: (value.shape, value.dtype) for name, value in results.items()} == {"head": ((1, 3, 6, 6), np.float32)}


def test_a_dimension_may_be_dynamic(any_backend: Backend, tmp_path: Path) -> None:
    engine = _loaded(any_backend, save(conv_graph(batch="batch"), tmp_path), FP32)
    assert isinstance(engine.inputs[0].shape[0], str)
    assert engine.inputs[0].shape[1:] == SHAPE[1:]
    for batch in (1, 3):
        assert engine.run({"images": np.zeros((batch, *SHAPE[1:]), np.float32)})["head"].shape == (batch, 3, 6, 6)


def test_results_are_not_overwritten_by_the_next_run(any_backend: Backend, tmp_path: Path) -> None:
    engine = _loaded(any_backend, save(conv_graph(), tmp_path), FP32)
    first = engine.run({"images": _images(1)})["head"]
    kept = first.copy()
    engine.run({"images": _images(2)})
    np.testing.assert_array_equal(first, kept)


def test_inputs_may_be_read_only_or_strided(real_backend: Backend, tmp_path: Path) -> None:
    graph = save(conv_graph(), tmp_path)
    engine = _loaded(real_backend, graph, FP32)
    images = np.ascontiguousarray(_images().transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    for writeable in (True, False):
        images.flags.writeable = writeable
        np.testing.assert_allclose(engine.run({"images": images})["head"], _reference(graph, images), atol=1e-4)


def test_error_on_integer_layers_that_run_in_float(tmp_path: Path) -> None:
    graph = save(conv_graph(quantized=True, quantized_output=False), tmp_path)
    with pytest.raises(BuildError, match="cpu runs 1 of 1 quantized layers in float32, expected int8: body"):
        backend("cpu").build(graph, tmp_path, INT8)


PARTLY = """<ir_version: 10, opset_import: ["" : 18]>
g (float[1, 8, 8, 8] x) => (float[1, 8, 8, 8] y) {
    xq = QuantizeLinear (x, s, z)  xd = DequantizeLinear (xq, s, z)  w = DequantizeLinear (wq, ws, wz)
    first = Conv (xd, w)  cq = QuantizeLinear (first, s, z)  cd = DequantizeLinear (cq, s, z)
    v = DequantizeLinear (wq, ws, wz)  last = Conv (cd, v)  y = Add (last, cd) }"""


def test_a_file_that_came_partly_quantized_is_built_and_its_float_layers_are_named(tmp_path: Path) -> None:
    proto = onnx.parser.parse_model(PARTLY)
    draw = np.random.default_rng(0)
    constants = {
        "s": np.float32(0.05),
        "z": np.uint8(120),
        "ws": np.float32(0.01),
        "wz": np.int8(0),
        "wq": draw.integers(-30, 31, (8, 8, 1, 1)).astype(np.int8),
    }
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(np.asarray(a), name) for name, a in constants.items())
    for node in proto.graph.node:
        node.name = node.output[0]
    onnx.save(proto, tmp_path / "graph.onnx")
    result = backend("cpu").build(tmp_path / "graph.onnx", tmp_path, msgspec.structs.replace(INT8, came_quantized=True))
    assert result.layers == {"int8": 1, "float32": 1}
    assert any("cpu runs 1 of 2 quantized layers in float32: last" in note for note in result.notes)
    x = draw.standard_normal((1, 8, 8, 8)).astype(np.float32)
    engine = backend("cpu").load(tmp_path / result.engine, threads=1)
    # An integer next to the right one, at most, of the first convolution's output.
    np.testing.assert_allclose(engine.run({"x": x})["y"], run_unfused(tmp_path / "graph.onnx", {"x": x})[0], atol=0.2)


def test_a_file_whose_quantized_layers_all_run_in_float_is_an_fp32_engine(tmp_path: Path) -> None:
    graph = save(conv_graph(quantized=True, quantized_output=False), tmp_path)
    with pytest.raises(BuildError, match="cpu runs 1 of 1 quantized layers in float32") as error:
        backend("cpu").build(graph, tmp_path, msgspec.structs.replace(INT8, came_quantized=True))
    assert "precision='fp32'" in error.value.hint


@pytest.mark.parametrize("name", ["cpu", "openvino"])
def test_a_file_with_pairs_that_a_backend_moves_to_its_layers_is_an_int8_engine(name: str, tmp_path: Path) -> None:
    backend(name).require()
    text = """<ir_version: 10, opset_import: ["" : 18]>
    g (float[2, 5, 8] x, float[2, 5, 8] x2) => (float[2, 5, 5] y)
    <float s = {0.03}, uint8 z = {120}> {
        q = QuantizeLinear (x, s, z)  d = DequantizeLinear (q, s, z)  t = Transpose <perm = [0, 2, 1]> (d)
        q2 = QuantizeLinear (x2, s, z)  d2 = DequantizeLinear (q2, s, z)  y = MatMul (d2, t) }"""
    proto = onnx.shape_inference.infer_shapes(onnx.parser.parse_model(text))
    proto.graph.node[-1].name = "product"
    onnx.save(proto, tmp_path / "graph.onnx")
    feeds = {key: np.random.default_rng(3).standard_normal((2, 5, 8)).astype(np.float32) for key in ("x", "x2")}
    int8 = msgspec.structs.replace(INT8, came_quantized=True)
    try:
        result = backend(name).build(tmp_path / "graph.onnx", tmp_path, int8)
    except BuildError:  # it computes the product in float
        result = backend(name).build(tmp_path / "graph.onnx", tmp_path, FP32)
    engine = backend(name).load(tmp_path / result.engine, threads=1)
    np.testing.assert_allclose(engine.run(feeds)["y"], run_unfused(tmp_path / "graph.onnx", feeds)[0], atol=0.05)


BETWEEN = """<ir_version: 10, opset_import: ["" : 18]>
g (float[1, 8, 8, 8] x) => (float[1, 8, 8, 8] y) {
    xq = QuantizeLinear (x, s, z)  xd = DequantizeLinear (xq, s, z)  w = DequantizeLinear (wq, ws, wz)
    a = Conv (xd, w, fb)  ar = Relu (a)  aq = QuantizeLinear (ar, s, z)  ad = DequantizeLinear (aq, s, z)
    l = Conv (ad, fw)  lr = Relu (l)  lq = QuantizeLinear (lr, s, z)  ld = DequantizeLinear (lq, s, z)
    v = DequantizeLinear (wq, ws, wz)  c = Conv (ld, v)
    cq = QuantizeLinear (c, s, z)  y = DequantizeLinear (cq, s, z) }"""


@pytest.mark.parametrize("float_bias", [False, True])
def test_a_float_layer_between_integers_stays_in_float(real_backend: Backend, tmp_path: Path, float_bias: bool) -> None:
    draw = np.random.default_rng(0)
    text = BETWEEN if float_bias else BETWEEN.replace("(xd, w, fb)", "(xd, w)")
    proto = onnx.parser.parse_model(text)
    constants = {
        "s": np.float32(0.05),
        "z": np.uint8(0),
        "ws": np.float32(0.01),
        "wz": np.int8(0),
        "wq": draw.integers(-30, 31, (8, 8, 1, 1)).astype(np.int8),
        "fw": draw.normal(0, 0.2, (8, 8, 1, 1)).astype(np.float32),
        "fb": draw.normal(0, 0.1, 8).astype(np.float32),
    }
    for name, array in constants.items():
        if name != "fb" or float_bias:
            proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    for node in proto.graph.node:
        node.name = node.output[0]
    onnx.save(proto, tmp_path / "graph.onnx")
    layers = real_backend.build(tmp_path / "graph.onnx", tmp_path, INT8).layers
    # ONNX Runtime quantizes float biases, which a graph from elsewhere may have, together with float weights.
    assert layers == ({"int8": 3} if float_bias and real_backend.name == "cpu" else {"int8": 2, "float32": 1})


def test_error_on_int8_of_a_graph_without_qdq(any_backend: Backend, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="the graph has none"):
        any_backend.build(save(conv_graph(), tmp_path), tmp_path, INT8)


def test_error_on_fp32_of_a_quantized_graph(any_backend: Backend, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="runs 1 of 2 layers in int8, expected float32: body"):
        any_backend.build(save(conv_graph(quantized=True), tmp_path), tmp_path, FP32)


def test_error_on_an_unknown_operator(real_backend: Backend, tmp_path: Path) -> None:
    with pytest.raises(GraphError, match=r"cannot take graph\.onnx: .*nobody.Frobnicate"):
        real_backend.build(save(unknown_operator(), tmp_path), tmp_path, FP32)


def test_operators_that_openvino_lacks_are_named_with_their_nodes(tmp_path: Path) -> None:
    model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 18, "ai.onnx.ml" : 3]>
        g (float[1, 2] x) => (float[1, 2] y) { [wrap] o = Optional (x)  [unwrap] u = OptionalGetElement (o)
            [scaler] y = ai.onnx.ml.Scaler <offset = [1.0], scale = [2.0]> (u) }""")
    named = r"operator of 'wrap' \(Optional\), 'unwrap' \(OptionalGetElement\), 'scaler' \(ai.onnx.ml.Scaler\)"
    with pytest.raises(GraphError, match=named) as e:
        backend("openvino").build(save(model, tmp_path), tmp_path, FP32)
    assert "--target cpu" in str(e.value.hint) or "target='cpu'" in str(e.value.hint)


def test_error_on_a_truncated_graph(any_backend: Backend, tmp_path: Path) -> None:
    graph = save(conv_graph(), tmp_path)
    graph.write_bytes(graph.read_bytes()[:-100])
    with pytest.raises(GraphError, match="expected an ONNX file"):
        any_backend.build(graph, tmp_path, FP32)


def test_error_on_a_truncated_engine(any_backend: Backend, tmp_path: Path) -> None:
    result = any_backend.build(save(conv_graph(), tmp_path), tmp_path, FP32)
    engine = tmp_path / result.engine
    engine.write_bytes(engine.read_bytes()[:-20])
    with pytest.raises(EngineMismatch, match="cannot load"):
        any_backend.load(engine)


def test_error_on_a_closed_engine(any_backend: Backend, tmp_path: Path) -> None:
    engine = _loaded(any_backend, save(conv_graph(), tmp_path), FP32)
    engine.close()
    engine.close()
    with pytest.raises(RunError, match="closed"):
        engine.run({"images": _images()})


def test_error_on_a_run_that_fails(real_backend: Backend, tmp_path: Path) -> None:
    engine = _loaded(real_backend, save(conv_graph(), tmp_path), FP32)
    with pytest.raises(RunError, match="failed while running"):
        engine.run({"images": np.zeros((1, 5, 8, 8), np.float32)})


def test_the_libraries_are_silent(real_backend: Backend, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    engine = _loaded(real_backend, save(conv_graph(quantized=True), tmp_path), INT8)
    engine.run({"images": _images()})
    with pytest.raises(RunError):
        engine.run({"images": np.zeros((1, 5, 8, 8), np.float32)})
    with pytest.raises(GraphError):
        real_backend.build(save(unknown_operator(), tmp_path), tmp_path, FP32)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("name", "extra"), [("cpu", "cpu"), ("openvino", "openvino")])
def test_error_on_a_library_that_is_not_installed(name: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, LIBRARIES[name], None)
    with pytest.raises(BackendUnavailable) as caught:
        backend(name).require()
    assert caught.value.hint == install_command(extra)


def test_weights_have_7_bits_where_8_overflow(real_backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgekit.device.cpu import Cpu

    module = sys.modules[type(real_backend).__module__.replace(".backend", ".scheme")]
    bits = {}
    for arch, feature in (("x86_64", "avx2"), ("x86_64", "avx_vnni"), ("aarch64", "neon"), ("aarch64", "asimddp")):
        here = Cpu(name="", arch=arch, cores=1, threads=1, features=(feature,), memory_bytes=0, available_bytes=0)
        monkeypatch.setattr(module, "cpu", lambda here=here: here)
        bits[feature] = real_backend.scheme().weight_bits
    assert bits == {"avx2": 7, "avx_vnni": 8, "neon": 8, "asimddp": 8}


@pytest.mark.parametrize("operator", ["Conv", "Gemm", "MatMul"])
def test_products_with_8_bit_weights_do_not_overflow_on_any_processor(
    real_backend: Backend, operator: str, tmp_path: Path
) -> None:
    """A graph that was quantized elsewhere: without VNNI, two products of 255 and 127 overflow 16 bits."""
    rng = np.random.default_rng(3)
    weights = rng.choice([-127, 0, 127], (32, 16), p=[0.2, 0.2, 0.6])  # in 7 bits, 63 steps, without rounding
    x = rng.integers(200, 256, (6, 32))
    exact = x @ weights
    step = 800_000 / 127
    assert np.abs(exact).max() < 127 * step
    path = save(product_graph(operator, weights.astype(np.int8), step), tmp_path)
    result = real_backend.build(path, tmp_path, INT8)
    assert result.layers == {"int8": 1}
    got = real_backend.load(tmp_path / result.engine, threads=1).run({"x": as_input(operator, x)})["y"]
    np.testing.assert_allclose(got.reshape(6, 16), exact, atol=0.51 * step)


def test_weights_beyond_a_protobuf_go_into_a_file_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = backend("cpu")
    monkeypatch.setattr(sys.modules[type(library).__module__], "INLINE_LIMIT_BYTES", 100)
    graph = save(conv_graph(), tmp_path)
    result = library.build(graph, tmp_path, FP32)
    engine = library.load(tmp_path / result.engine)
    np.testing.assert_allclose(engine.run({"images": _images()})["head"], _reference(graph, _images()), atol=1e-4)
    assert set(result.files) == {p.name for p in tmp_path.iterdir()} - {"graph.onnx"}


@pytest.mark.parametrize(("features", "unsigned"), [(("avx2",), True), (("avx2", "avx512_vnni"), False)])
def test_weights_stay_signed_where_products_of_bytes_are_exact(
    features: tuple[str, ...], unsigned: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = save(conv_graph(quantized=True), tmp_path)
    here = msgspec.structs.replace(cpu(), features=features)
    monkeypatch.setattr("edgekit.engine.onnxruntime.backend.cpu", lambda: here)
    loaded: Any = _loaded(backend("cpu"), graph, INT8)
    options = loaded._session.get_session_options()
    if unsigned:
        assert options.get_session_config_entry("session.x64quantprecision") == "1"
    else:
        with pytest.raises(RuntimeError, match="x64quantprecision"):
            options.get_session_config_entry("session.x64quantprecision")
