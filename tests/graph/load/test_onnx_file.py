from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgekit.errors import EdgeKitError, GraphError
from edgekit.graph.evaluator import Evaluator
from edgekit.graph.file import input_specs, is_quantized, output_specs, save_graph, set_input_shapes
from edgekit.graph.load.onnx_file import graph_from_onnx
from edgekit.graph.passes import optimize

ONNX_DATA = Path(onnx.__file__).parent / "backend" / "test" / "data"
WITH_EXPECTED_OUTPUTS = [
    *(
        f"pytorch-converted/test_{name}"
        for name in ("Conv2d_groups", "BatchNorm2d_eval", "ConvTranspose2d", "MaxPool2d")
    ),
    *(f"pytorch-converted/test_{name}" for name in ("PReLU_2d_multiparam", "AvgPool2d_stride", "Linear", "GLU")),
    *(f"pytorch-converted/test_{name}" for name in ("ConstantPad2d", "ReflectionPad2d", "PixelShuffle", "Embedding")),
    *(f"pytorch-operator/test_operator_{name}" for name in ("addmm", "reduced_mean", "repeat", "view", "basic")),
    "simple/test_shrink",
]


def small_model(opset: int = 13, **changes: object) -> onnx.ModelProto:
    weight = numpy_helper.from_array(np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32), "w")
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["y"], name="pool"),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, changes.get("shape", [1, 3, 8, 8]))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * 4)],
        [weight],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def written(tmp_path: Path, content: bytes | onnx.ModelProto) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(content if isinstance(content, bytes) else content.SerializeToString())
    return path


@pytest.mark.parametrize("name", WITH_EXPECTED_OUTPUTS)
def test_onnx_own_test_models_give_their_expected_outputs(name):
    folder = ONNX_DATA / name
    graph = optimize(graph_from_onnx(folder / "model.onnx"))
    assert graph.opset_imports[""] == 20
    Evaluator(graph)
    case = folder / "test_data_set_0"
    inputs, outputs = (
        [numpy_helper.to_array(onnx.load_tensor(path)) for path in sorted(case.glob(f"{kind}_*.pb"))]
        for kind in ("input", "output")
    )
    feeds = dict(zip((spec.name for spec in input_specs(graph)), inputs, strict=True))
    for got, expected in zip(Evaluator(graph).run(feeds).values(), outputs, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet50", "shufflenet", "squeezenet", "inception_v2"])
def test_published_networks_compute_the_same_after_upgrading_and_optimizing(run_in_onnxruntime, name):
    path = ONNX_DATA / "light" / f"light_{name}.onnx"
    graph = graph_from_onnx(path)
    (spec,) = input_specs(graph)
    feeds = {spec.name: np.random.default_rng(0).random(spec.shape, np.float32)}
    before = run_in_onnxruntime(onnx.load(path), feeds)[0]
    after = Evaluator(optimize(graph)).run(feeds)[output_specs(graph)[0].name]
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-6 * np.abs(before).max())


def foreign_models() -> list[object]:
    found = []
    for package in ("rapidocr_onnxruntime", "silero_vad", "magika"):
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            skip = pytest.mark.skip(reason=f"{package} is not installed")
            found.append(pytest.param(Path(package), marks=skip, id=package))
            continue
        found += [pytest.param(path, id=path.stem) for path in sorted(Path(spec.origin).parent.rglob("*.onnx"))]
    return found


FOREIGN_SIZES = {"ch_PP-OCRv4_rec_infer": 48, "ch_ppocr_mobile_v2.0_cls_infer": 48}
SPEECH = {"input": (1, 576), "state": (2, 1, 128), "h": (1, 1, 128), "c": (1, 1, 128), "sr": ()}


@pytest.mark.parametrize("path", foreign_models())
def test_foreign_model_computes_the_same_after_optimizing(run_in_onnxruntime, path):
    graph = graph_from_onnx(path)
    rng = np.random.default_rng(0)
    feeds = {}
    for spec in input_specs(graph):
        default = FOREIGN_SIZES.get(path.stem, 64)
        shape = [
            size if isinstance(size, int) else (1 if axis == 0 else default) for axis, size in enumerate(spec.shape)
        ]
        shape = SPEECH.get(spec.name, shape) if "silero" in path.stem else shape
        values = (
            rng.random(shape) if np.dtype(spec.dtype).kind == "f" else np.full(shape, 16000 if spec.name == "sr" else 1)
        )
        feeds[spec.name] = values.astype(spec.dtype)
    before = run_in_onnxruntime(onnx.load(path), feeds)
    after = run_in_onnxruntime(optimize(graph), feeds)
    for got, expected in zip(after, before, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4 * max(1e-2, np.abs(expected).max()))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty file"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "HTML"),
        (b"PK\x03\x04" + b"0" * 100, "zip"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS"),
        (b"\x1c\x00\x00\x00TFL3" + b"0" * 100, "TensorFlow Lite"),
        (b"nothing of the kind", "expected an ONNX file"),
        (small_model().SerializeToString()[:-40], "truncated"),
        (onnx.ModelProto(ir_version=8).SerializeToString(), "a graph and outputs"),
    ],
    ids=["empty", "html", "zip", "lfs", "tflite", "text", "cut", "no graph"],
)
def test_file_that_is_no_onnx_is_named_for_what_it_is(tmp_path, content, says):
    with pytest.raises(GraphError, match=says):
        graph_from_onnx(written(tmp_path, content))


def test_missing_file_is_a_graph_error(tmp_path):
    with pytest.raises(GraphError, match="No such file"):
        graph_from_onnx(tmp_path / "absent.onnx")


def test_unknown_operator_names_operator_node_and_the_nearest(tmp_path):
    model = small_model()
    model.graph.node[1].op_type = "Rellu"
    with pytest.raises(GraphError, match=r"node 'r': operator 'Rellu' is not in opset 13.*\n.*Relu"):
        graph_from_onnx(written(tmp_path, model))


def test_an_operator_of_a_newer_opset_is_named_with_it(tmp_path):
    model = small_model(opset=9)
    model.graph.node[1].op_type = "ThresholdedRelu"
    expected = (
        r"operator 'ThresholdedRelu' is in ONNX since opset 10, and the file declares opset 9\n.*opset 10 or newer"
    )
    with pytest.raises(GraphError, match=expected):
        graph_from_onnx(written(tmp_path, model))


@pytest.mark.parametrize("kind", [onnx.TypeProto(), onnx.TypeProto(tensor_type=onnx.TypeProto.Tensor())])
def test_outputs_need_no_type(kind, tmp_path):
    model = small_model()
    model.graph.output[0].type.CopyFrom(kind)
    graph = graph_from_onnx(written(tmp_path, model))
    assert [(spec.dtype, spec.shape) for spec in output_specs(graph)] == [("float32", (1, 4, 1, 1))]


def test_unknown_domain_names_operator_and_node(tmp_path):
    model = small_model()
    model.opset_import.append(helper.make_opsetid("my.company", 1))
    model.graph.node[2].domain = "my.company"
    with pytest.raises(GraphError, match=r"node 'pool': unknown operator 'GlobalAveragePool' of domain 'my.company'"):
        graph_from_onnx(written(tmp_path, model))


@pytest.mark.parametrize(
    ("operator", "domain", "hint"),
    [
        ("EfficientNMS_TRT", "", "without suppression"),
        ("EfficientNMS_TRT", "TRT", "without suppression"),
        ("QcQuantizeOp", "aimet.customop.cpu", "QuantizationSimModel"),
        ("StringToVector", "ai.onnx.contrib", "onnxruntime-extensions"),
        ("MyDeformedLayer", "", "export the model without custom operators"),
    ],
)
def test_a_hint_says_how_to_get_a_file_without_the_unknown_operator(operator, domain, hint, tmp_path):
    model = small_model()
    if domain:
        model.opset_import.append(helper.make_opsetid(domain, 1))
    model.graph.node[1].domain, model.graph.node[1].op_type = domain, operator
    with pytest.raises(GraphError) as caught:
        graph_from_onnx(written(tmp_path, model))
    assert f"'{operator}'" in caught.value.message
    assert hint in caught.value.hint
    assert len(caught.value.hint) < 200  # and no list of all operators of ONNX


def test_operators_of_onnxruntime_are_known(tmp_path):
    model = small_model()
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    model.graph.node[1].domain, model.graph.node[1].op_type = "com.microsoft", "Gelu"
    Evaluator(graph_from_onnx(written(tmp_path, model)))


def test_operator_that_onnxruntime_lacks_is_named(tmp_path):
    model = small_model()
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    model.graph.node[1].domain, model.graph.node[1].op_type = "com.microsoft", "NoSuchThing"
    with pytest.raises(GraphError, match="NoSuchThing"):
        Evaluator(graph_from_onnx(written(tmp_path, model)))


def test_graph_with_an_undefined_value_is_not_valid(tmp_path):
    model = small_model()
    model.graph.node[1].input[0] = "nowhere"
    with pytest.raises(GraphError, match="not a valid graph.*nowhere|nowhere"):
        graph_from_onnx(written(tmp_path, model))


def test_dynamic_rank_is_refused(tmp_path):
    with pytest.raises(GraphError, match="input 'x'.*dynamic rank"):
        graph_from_onnx(written(tmp_path, small_model(shape=None)))


def test_opset_from_the_future_is_refused(tmp_path):
    with pytest.raises(GraphError, match="got 999"):
        graph_from_onnx(written(tmp_path, small_model(opset=999)))


def test_newer_opset_is_kept(tmp_path):
    assert graph_from_onnx(written(tmp_path, small_model(opset=21))).opset_imports[""] == 21


def test_outputs_need_no_shape_beside_external_data(tmp_path, run_in_onnxruntime):
    model = small_model()
    feeds = {"x": np.random.default_rng(0).random((1, 3, 8, 8), np.float32)}
    expected = run_in_onnxruntime(model, feeds)[0]
    model.graph.output[0].type.tensor_type.ClearField("shape")
    path = tmp_path / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    np.testing.assert_array_equal(Evaluator(graph_from_onnx(path)).run(feeds)["y"], expected)


@pytest.mark.parametrize("length", ["5", "10000"])
def test_external_data_has_the_length_that_the_shape_declares(length, tmp_path):
    # ONNX Runtime refuses both.
    path = tmp_path / "model.onnx"
    onnx.save(small_model(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    (tmp_path / "weights.bin").write_bytes(bytes(20_000))
    model = onnx.load(path, load_external_data=False)
    next(entry for entry in model.graph.initializer[0].external_data if entry.key == "length").value = length
    path.write_bytes(model.SerializeToString())
    with pytest.raises(GraphError, match=r"weight 'w': expected 432 bytes of external data, as its shape .* declares"):
        graph_from_onnx(path)


@pytest.mark.parametrize("fault", ["missing", "short", "outside"])
def test_external_data_that_is_not_all_there_is_refused(tmp_path, fault):
    path = tmp_path / "model.onnx"
    onnx.save(small_model(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    graph_from_onnx(path)
    data = tmp_path / "weights.bin"
    if fault == "missing":
        data.unlink()
    elif fault == "short":
        data.write_bytes(data.read_bytes()[:-4])
    else:
        model = onnx.load(path, load_external_data=False)
        model.graph.initializer[0].external_data[0].value = "../weights.bin"
        path.write_bytes(model.SerializeToString())
    with pytest.raises(GraphError, match="weight 'w'"):
        graph_from_onnx(path)


def test_external_data_is_taken_along_when_saved(tmp_path, run_in_onnxruntime):
    (tmp_path / "from").mkdir()
    onnx.save(
        small_model(), tmp_path / "from" / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0
    )
    graph = graph_from_onnx(tmp_path / "from" / "m.onnx")
    save_graph(graph, tmp_path / "to.onnx")
    (tmp_path / "from" / "w.bin").unlink()
    feeds = {"x": np.random.default_rng(0).random((1, 3, 8, 8), np.float32)}
    saved = run_in_onnxruntime(onnx.load(tmp_path / "to.onnx"), feeds)[0]
    np.testing.assert_allclose(saved, run_in_onnxruntime(small_model(), feeds)[0], rtol=1e-6)
    assert {path.name for path in tmp_path.iterdir()} == {"from", "to.onnx"}


def test_large_graph_is_saved_with_its_data_beside_it(tmp_path, monkeypatch, run_in_onnxruntime):
    monkeypatch.setattr("edgekit.graph.file._SINGLE_FILE_BYTES", 100)
    save_graph(graph_from_onnx(written(tmp_path, small_model())), tmp_path / "graph.onnx")
    assert (tmp_path / "graph.onnx.data").stat().st_size >= 4 * 3 * 3 * 3 * 4
    feeds = {"x": np.random.default_rng(0).random((1, 3, 8, 8), np.float32)}
    got = Evaluator(graph_from_onnx(tmp_path / "graph.onnx")).run(feeds)["y"]
    np.testing.assert_allclose(got, run_in_onnxruntime(small_model(), feeds)[0], rtol=1e-6)


def test_initializers_are_no_inputs(tmp_path):
    model = small_model(opset=9)
    model.ir_version = 3
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [4, 3, 3, 3]))
    graph = graph_from_onnx(written(tmp_path, model))
    assert [spec.name for spec in input_specs(graph)] == ["x"]


@pytest.mark.parametrize(("kind", "words"), [("STRING", "strings"), ("COMPLEX64", "complex numbers")])
def test_inputs_of_no_real_numbers_are_refused_with_a_way_on(tmp_path, kind, words):
    model = small_model()
    model.graph.input.append(helper.make_tensor_value_info("other", getattr(TensorProto, kind), [2]))
    with pytest.raises(GraphError, match=f"input 'other': expected a tensor of real numbers, got {words}") as e:
        graph_from_onnx(written(tmp_path, model))
    assert "extract_model" in e.value.hint


def test_an_output_that_is_an_input_has_the_type_and_shape_of_the_input(tmp_path):
    model = small_model()
    model.graph.output.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, None))
    graph = graph_from_onnx(written(tmp_path, model))
    assert [spec.shape for spec in output_specs(graph)] == [(1, 4, 1, 1), (1, 3, 8, 8)]
    x = np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)
    np.testing.assert_array_equal(Evaluator(optimize(graph)).run({"x": x})["x"], x)


def test_weights_of_ir_version_3_need_not_be_inputs(tmp_path):
    model = small_model(opset=7)
    model.ir_version = 3
    graph = graph_from_onnx(written(tmp_path, model))
    assert [value.name for value in graph.graph.inputs] == ["x"]


def test_functions_are_inlined(tmp_path, run_in_onnxruntime):
    model = small_model()
    twice = [helper.make_node("Add", ["a", "a"], ["b"])]
    model.functions.append(helper.make_function("local", "Twice", ["a"], ["b"], twice, [helper.make_opsetid("", 13)]))
    model.opset_import.append(helper.make_opsetid("local", 1))
    model.graph.node[1].domain, model.graph.node[1].op_type = "local", "Twice"
    graph = graph_from_onnx(written(tmp_path, model))
    assert [node.op_type for node in graph.graph] == ["Conv", "Add", "GlobalAveragePool"]
    feeds = {"x": np.random.default_rng(0).random((1, 3, 8, 8), np.float32)}
    np.testing.assert_allclose(run_in_onnxruntime(graph, feeds)[0], run_in_onnxruntime(model, feeds)[0], rtol=1e-6)


def test_dynamic_dimensions_have_names_and_can_be_fixed(tmp_path):
    graph = graph_from_onnx(written(tmp_path, small_model(shape=["batch", 3, None, -1])))
    assert input_specs(graph)[0].shape == ("batch", 3, "x_2", "x_3")
    set_input_shapes(graph, {"x": (2, 3, 16, 24)})
    assert input_specs(graph)[0].shape == (2, 3, 16, 24)
    assert output_specs(graph)[0].shape == (2, 4, 1, 1)


@pytest.mark.parametrize("shapes", [{"z": (1,)}, {"x": (1, 3, 8)}, {"x": (1, 4, 8, 8)}, {"x": (1, 3, 0, 8)}])
def test_shape_that_does_not_fit_the_input_is_refused(tmp_path, shapes):
    graph = graph_from_onnx(written(tmp_path, small_model(shape=[1, 3, "h", "w0"])))
    with pytest.raises(GraphError):
        set_input_shapes(graph, shapes)


@pytest.mark.parametrize(
    ("operator", "quantized"),
    [("QuantizeLinear", True), ("QLinearConv", True), ("ConvInteger", True), ("MatMulNBits", True), ("Conv", False)],
)
def test_quantized_graph_is_recognized(operator, quantized):
    node = ir.Node("", operator, [])
    graph = ir.Graph([], [], nodes=[node], opset_imports={"": 20})
    assert is_quantized(ir.Model(graph, ir_version=10)) is quantized


SMALL = small_model(shape=[1, 3, "h", 8]).SerializeToString()


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damaged_file_raises_nothing_but_our_errors(tmp_path_factory, data):
    content = bytearray(SMALL)
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))
    path = tmp_path_factory.getbasetemp() / "damaged.onnx"
    path.write_bytes(content[:cut])
    try:
        Evaluator(optimize(graph_from_onnx(path)))
    except EdgeKitError as e:
        assert isinstance(e, GraphError)


def test_weights_do_not_hold_the_protobuf(tmp_path: Path) -> None:
    weight = np.arange(12, dtype=np.float32).reshape(3, 4)
    proto = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 20]> g (float[2, 3] x) => (float[2, 4] y) { y = MatMul (x, w) }'
    )
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    onnx.save(proto, tmp_path / "m.onnx")
    tensor = graph_from_onnx(tmp_path / "m.onnx").graph.initializers["w"].const_value
    assert not isinstance(tensor, ir.serde.TensorProtoTensor)
    np.testing.assert_array_equal(tensor.numpy(), weight)


def test_weights_of_an_upgraded_graph_are_no_inputs(tmp_path, write_classifier):
    graph = graph_from_onnx(write_classifier(tmp_path / "net.onnx", opset=11))
    assert graph.opset_imports[""] == 20
    assert [value.name for value in graph.graph.inputs] == ["x"]
    assert not any(value.is_graph_input() for value in graph.graph.initializers.values())
    assert sum(value.const_value.nbytes > 1024 for value in graph.graph.initializers.values()) == 4


@pytest.mark.parametrize("where", ["input", "output"])
def test_error_on_more_dimensions_than_numpy_has(where: str, tmp_path: Path) -> None:
    many = [1] * 65
    shape = numpy_helper.from_array(np.array([1] if where == "input" else many), "shape")
    graph = helper.make_graph(
        [helper.make_node("Reshape", ["x", "shape"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, many if where == "input" else [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1] if where == "input" else many)],
        [shape],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    loaded = graph_from_onnx(tmp_path / "m.onnx")
    with pytest.raises(GraphError, match="expected at most 64 dimensions, as numpy has, got 65"):
        (input_specs if where == "input" else output_specs)(loaded)


def test_error_on_a_file_that_is_nested_too_deep(tmp_path: Path) -> None:
    content = b""
    for _ in range(2000):
        for field in (6, 5, 1):  # AttributeProto.g, NodeProto.attribute, GraphProto.node
            length, size = len(content), b""
            while length > 127:
                size, length = size + bytes([length & 127 | 128]), length >> 7
            content = bytes([field << 3 | 2]) + size + bytes([length]) + content
    (tmp_path / "m.onnx").write_bytes(bytes([8, 8, 7 << 3 | 2]) + b"\x80\x80\x04" + content.ljust(1 << 16, b"\0"))
    with pytest.raises(GraphError, match="expected an ONNX file"):
        graph_from_onnx(tmp_path / "m.onnx")


def test_an_output_of_maps_is_refused_with_the_option_of_the_exporter(tmp_path):
    zipmap = helper.make_node("ZipMap", ["x"], ["y"], domain="ai.onnx.ml", classlabels_int64s=[0, 1])
    kind = helper.make_sequence_type_proto(
        helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, None))
    )
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2])]
    graph = helper.make_graph([zipmap], "g", inputs, [helper.make_value_info("y", kind)])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    with pytest.raises(GraphError, match=r"output 'y' of node 'y' \(ZipMap\): expected a tensor") as e:
        graph_from_onnx(written(tmp_path, helper.make_model(graph, opset_imports=opsets, ir_version=8)))
    assert "'zipmap': False" in e.value.hint


def test_the_hint_on_a_zipmap_cuts_it_off(tmp_path):
    """CatBoost's files have one, and no option without."""
    kind = helper.make_sequence_type_proto(
        helper.make_map_type_proto(TensorProto.STRING, helper.make_tensor_type_proto(TensorProto.FLOAT, None))
    )
    nodes = [
        helper.make_node("Softmax", ["x"], ["p"]),
        helper.make_node("ZipMap", ["p"], ["y"], domain="ai.onnx.ml", classlabels_strings=["no", "yes"]),
        helper.make_node("ReduceMax", ["p"], ["best"]),
    ]
    outputs = [helper.make_value_info("y", kind), helper.make_tensor_value_info("best", TensorProto.FLOAT, [1, 1])]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2])]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    model = helper.make_model(helper.make_graph(nodes, "g", inputs, outputs), opset_imports=opsets, ir_version=8)
    model = onnx.shape_inference.infer_shapes(model)
    path = written(tmp_path, model)
    with pytest.raises(GraphError) as e:
        graph_from_onnx(path)
    assert e.value.hint.endswith("onnx.utils.extract_model(FILE, NEW_FILE, ['x'], ['p', 'best'])")
    onnx.utils.extract_model(path, tmp_path / "cut.onnx", ["x"], ["p", "best"])
    got = Evaluator(graph_from_onnx(tmp_path / "cut.onnx")).run({"x": np.array([[0, 1]], np.float32)})
    np.testing.assert_allclose(got["p"], [[0.26894143, 0.7310586]], rtol=1e-6)
