from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
import torch
from onnxruntime.quantization import quantize_dynamic
from torch import nn

from edgekit.config import CalibrationConfig, ModelConfig, TargetConfig
from edgekit.errors import GraphError, UsageError
from edgekit.graph.evaluator import Evaluator
from edgekit.pipeline.inputs import model_inputs
from edgekit.pipeline.load_model import load_model
from edgekit.pipeline.loaded_model import LoadedModel
from edgekit.progress import Advance, Silent
from edgekit.recipe.schema import Preprocess, load_recipe

torch.set_num_threads(2)


class Noted(Silent):
    """Records stages and notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.stages: list[str] = []

    def stage(self, title: str, *, total: float | None = None, unit: str = "") -> AbstractContextManager[Advance]:
        self.stages.append(title)
        return super().stage(title, total=total, unit=unit)

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture
def noted() -> Noted:
    return Noted()


@pytest.fixture
def source(noted: Noted) -> Callable[..., LoadedModel]:
    def load(model: Any, **options: Any) -> LoadedModel:
        return load_model(ModelConfig(model=model, **options), noted)

    return load


class Branches(nn.Module):
    """Two inputs of different widths, so that exchanging them fails."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Linear(16, 4)
        self.narrow = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.wide(x) * self.narrow(mask)


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 8)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.embed(ids)


def quantized(path: Path) -> Path:
    """A product of integers whose nodes have no names."""
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    quantized (float[1, 4] x) => (float[1, 4] y)
    <float scale = {0.1}, uint8 zero = {0}, float weight_scale = {0.5}, int8 weight_zero = {0}> {
        q = QuantizeLinear (x, scale, zero)
        d = DequantizeLinear (q, scale, zero)
        w = DequantizeLinear (weight, weight_scale, weight_zero)
        y = MatMul (d, w)
    }"""
    model = onnx.parser.parse_model(text)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.eye(4, dtype=np.int8), "weight"))
    onnx.save(model, path)
    return path


def test_a_loaded_recipe_has_all_facts_of_its_file(source: Callable[..., LoadedModel], noted: Noted) -> None:
    tiny = source("yolov3-tiny", shape=(64, 96))
    assert (tiny.name, tiny.task, tiny.quantized) == ("yolov3-tiny", "detect", False)
    assert [str(spec) for spec in tiny.inputs] == ["images: float32 (1, 3, 64, 96)"]
    assert tiny.preprocess is not None and tiny.preprocess.resize == "letterbox"
    assert tiny.postprocess is not None and len(tiny.labels) == 80
    assert tiny.policy is not None and tiny.policy.keep_float == ("head*",)
    assert tiny.origin.weights is not None and not tiny.origin.weights.trained
    assert tiny.export_error is not None and 0 <= tiny.export_error < 1e-4
    assert tiny.stats.parameters == pytest.approx(8_852_366, rel=0.01)
    assert any("weights are random" in note and "weights='coco'" in note for note in noted.notes)


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        ({"shape": (100, 96)}, "multiples of 32, got 100x96", "shape=(96, 96)"),
        ({"shape": (8, 300)}, "multiples of 32, got 8x300", "shape=(32, 288)"),
        ({"shape": (1, 4, 96, 96)}, "expects 3 channels, got 4", "shape=(H, W)"),
        ({"input": {"": (1, 3, 96, 96)}}, "input does not go with the recipe", "shape="),
        ({"weights": "coca"}, "weight set of yolov3-tiny, got 'coca'", "did you mean coco?"),
        ({"weights": "gone.weights"}, "weight set of yolov3-tiny, got 'gone.weights'", "known: coco"),
        ({"preprocess": {"color": "gray", "mean": [0.0], "std": [1.0]}}, "4 dimensions and 1 channel, got", ""),
        ({"preprocess": {"color": "gray"}}, "expected 1 numbers, one per channel of 'gray', got", "'mean': [0] and"),
    ],
)
def test_an_option_that_a_recipe_cannot_have_is_an_error_before_the_export(
    source: Callable[..., LoadedModel], noted: Noted, options: dict[str, Any], message: str, hint: str
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        source("yolov3-tiny", **options)
    assert hint in caught.value.hint
    assert "exporting to ONNX" not in noted.stages


@pytest.mark.parametrize(
    ("recipe", "options", "message", "hint"),
    [
        (
            "lenet",
            {"shape": (28, 28)},
            "lenet expects 1x1x32x32, got 1x1x28x28, which cannot be exported: ",
            "leave it out",
        ),
        ("linear-regression", {"shape": (1, 12)}, "cannot be exported", "your own recipe"),
        ("transformer-tiny", {"input": {"source": (1, 12)}}, "input does not go with the", "your own recipe"),
    ],
)
def test_an_error_on_a_shape_that_a_recipe_cannot_take_has_a_hint(
    source: Callable[..., LoadedModel], recipe: str, options: dict[str, Any], message: str, hint: str
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        source(recipe, **options)
    assert hint in caught.value.hint


def test_given_fields_replace_those_of_the_recipe_and_no_others(source: Callable[..., LoadedModel]) -> None:
    own = load_recipe("yolov3-tiny").preprocess
    assert own is not None and own.resize == "letterbox" and own.color == "rgb"
    got = source("yolov3-tiny", shape=(64, 64), preprocess={"color": "bgr"}).preprocess
    assert got == msgspec.structs.replace(own, color="bgr")


def test_an_onnx_file_is_optimized_and_its_preprocessing_guessed(
    source: Callable[..., LoadedModel], noted: Noted, tmp_path: Path, write_classifier: Callable[..., Path]
) -> None:
    model = source(write_classifier(tmp_path / "my.onnx"))
    assert (model.name, model.task, model.policy, model.quantized) == ("my", "tensor", None, False)
    assert model.preprocess == Preprocess()
    assert model.origin.kind == "onnx" and len(model.origin.sha256) == 64
    assert model.stats.macs > 0
    assert [note for note in noted.notes if "assumed to be an image: RGB, from 0 to 1" in note]


@pytest.mark.parametrize("opset", [9, 11, 13, 16, 18, 21])
def test_graphs_of_all_opsets_give_the_same_outputs(
    source: Callable[..., LoadedModel], tmp_path: Path, write_classifier: Callable[..., Path], opset: int
) -> None:
    feeds = {"x": np.random.default_rng(1).random((1, 3, 32, 32), np.float32)}
    answers = [
        Evaluator(source(write_classifier(tmp_path / f"{version}.onnx", opset=version)).graph).run(feeds)["y"]
        for version in (opset, 20)
    ]
    np.testing.assert_allclose(answers[0], answers[1], rtol=1e-4, atol=1e-5)


def test_dynamic_dimensions_get_a_number_and_a_note(
    source: Callable[..., LoadedModel], noted: Noted, tmp_path: Path, write_classifier: Callable[..., Path]
) -> None:
    path = write_classifier(tmp_path / "my.onnx", shape=("N", 3, "h", "w"))
    with pytest.raises(UsageError, match="none for h and w"):
        source(path)
    assert source(path, shape=(48, 32)).inputs[0].shape == (1, 3, 48, 32)
    assert "the engine takes inputs of one size: x: float32 (1, 3, 48, 32)" in noted.notes


def test_the_error_on_a_branch_for_other_sizes_says_to_fix_what_chooses_it(
    source: Callable[..., LoadedModel], tmp_path: Path
) -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    branches (float[1, n] x, int64 rate) => (float[1, 4] y) {
        fast = Constant <value = int64 {16000}> ()  is = Equal (rate, fast)
        y = If <then_branch = a () => (float[1, 4] p) { p = MatMul (x, w) },
                else_branch = b () => (float[1, 4] q) { q = MatMul (x, v) }> (is) }"""
    model = onnx.parser.parse_model(text)
    for name, rows in (("w", 16), ("v", 8)):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((rows, 4), np.float32), name))
    onnx.save(model, tmp_path / "branches.onnx")
    with pytest.raises(GraphError) as caught:
        source(tmp_path / "branches.onnx", input={"x": (1, 16)})
    assert "fix the input that chooses the branch (input={'rate': VALUE})" in caught.value.hint
    assert source(tmp_path / "branches.onnx", input={"x": (1, 16), "rate": 16000}).stats.macs == 64


def test_a_quantized_model_is_unchanged_except_for_names(source: Callable[..., LoadedModel], tmp_path: Path) -> None:
    model = source(quantized(tmp_path / "q.onnx"))
    assert model.quantized
    assert [node.op_type for node in model.graph.graph] == [
        "QuantizeLinear", "DequantizeLinear", "DequantizeLinear", "MatMul"
    ]  # fmt: skip
    assert all(node.name for node in model.graph.graph)


def test_integer_weights_that_a_quantized_file_computes_from_constants_are_constants(
    source: Callable[..., LoadedModel], tmp_path: Path
) -> None:
    # As Brevitas writes its weights. OpenVINO computed each layer of such a file in float.
    model = onnx.load(quantized(tmp_path / "q.onnx"))
    product = next(node for node in model.graph.node if node.op_type == "MatMul")
    dequantizer = next(node for node in model.graph.node if node.output[0] == product.input[1])
    weights = next(w for w in model.graph.initializer if w.name == dequantizer.input[0])
    stored = np.arange(-8, 8, dtype=np.int8).reshape(4, 4)
    weights.CopyFrom(onnx.numpy_helper.from_array(stored, weights.name))
    for name, value in (("low", -3), ("high", 3)):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(value, np.int8), name))
    dequantizer.input[0] = "clipped"
    model.graph.node.insert(0, onnx.helper.make_node("Clip", [weights.name, "low", "high"], ["clipped"]))
    onnx.save(model, tmp_path / "clipped.onnx")
    loaded = source(tmp_path / "clipped.onnx")
    assert [node.op_type for node in loaded.graph.graph] == [
        "QuantizeLinear", "DequantizeLinear", "DequantizeLinear", "MatMul"
    ]  # fmt: skip
    constant = next(node for node in loaded.graph.graph if node.outputs[0].name == product.input[1]).inputs[0]
    assert constant is not None and constant.const_value is not None
    np.testing.assert_array_equal(constant.const_value.numpy(), np.clip(stored, -3, 3))


@pytest.mark.parametrize(("option", "value"), [("weights", "w.pt"), ("opset", 18)])
def test_an_onnx_file_takes_no_options_of_modules(
    source: Callable[..., LoadedModel], tmp_path: Path, write_classifier: Callable[..., Path], option: str, value: Any
) -> None:
    with pytest.raises(UsageError, match=rf"{option} does not go with my\.onnx"):
        source(write_classifier(tmp_path / "my.onnx"), **{option: value})


def test_the_layout_is_seen_in_the_shape(
    source: Callable[..., LoadedModel], tmp_path: Path, write_classifier: Callable[..., Path]
) -> None:
    model = onnx.load(write_classifier(tmp_path / "nchw.onnx"))
    model.graph.node[0].input[0] = "t"
    model.graph.node.insert(0, onnx.helper.make_node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2]))
    model.graph.input[0].CopyFrom(onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, (1, 32, 32, 3)))
    onnx.save(model, tmp_path / "nhwc.onnx")
    assert source(tmp_path / "nhwc.onnx").preprocess == Preprocess(layout="nhwc")
    got = source(tmp_path / "nhwc.onnx", preprocess={"mean": (0.5, 0.5, 0.5)}).preprocess
    assert got == Preprocess(layout="nhwc", mean=(0.5, 0.5, 0.5))
    with pytest.raises(UsageError, match=r"4 dimensions and 1 channel, got x: float32 \(1, 32, 32, 3\)"):
        source(tmp_path / "nhwc.onnx", preprocess={"color": "gray", "mean": (0.0,), "std": (1.0,)})


def test_a_gray_image_is_guessed_and_other_inputs_are_not_images(source: Callable[..., LoadedModel]) -> None:
    gray = source(nn.Conv2d(1, 4, 3), input={"": (1, 1, 8, 8)})
    assert gray.preprocess is not None and gray.preprocess.color == "gray"
    given = source(nn.Conv2d(1, 4, 3), input={"": (1, 1, 8, 8)}, preprocess={"divisor": 1.0}).preprocess
    assert given == Preprocess(color="gray", mean=(0.0,), std=(1.0,), divisor=1.0)
    assert source(nn.Conv2d(5, 4, 3), input={"": (1, 5, 8, 8)}).preprocess is None
    assert source(nn.Linear(3, 4), input={"": (1, 3)}).preprocess is None


def test_an_object_is_named_after_its_class(source: Callable[..., LoadedModel]) -> None:
    model = source(nn.Linear(3, 4), input={"": (2, 3)})
    assert (model.name, model.origin.kind, model.origin.name) == ("Linear", "module", "Linear")
    assert [str(spec) for spec in model.inputs] == ["input: float32 (2, 3)"]


def test_inputs_with_the_names_of_arguments_may_come_in_any_order(source: Callable[..., LoadedModel]) -> None:
    model = source(Branches(), input={"mask": (1, 8), "x": (1, 16)})
    assert [spec.name for spec in model.inputs] == ["x", "mask"]


def test_inputs_with_other_names_are_taken_in_order(source: Callable[..., LoadedModel]) -> None:
    model = source(Branches(), input={"wide": (1, 16), "narrow": (1, 8)})
    assert [str(spec) for spec in model.inputs] == ["wide: float32 (1, 16)", "narrow: float32 (1, 8)"]


@pytest.mark.parametrize(("name", "expected"), [("ids:int64", "ids"), ("int64", "input"), ("a:b:int64", "a:b")])
def test_an_input_may_say_its_element_type(source: Callable[..., LoadedModel], name: str, expected: str) -> None:
    model = source(Tokens(), input={name: (1, 6)})
    assert [str(spec) for spec in model.inputs] == [f"{expected}: int64 (1, 6)"]


@pytest.mark.parametrize(
    ("model", "options", "message", "hint"),
    [
        (nn.Linear(3, 4), {}, "expected example inputs or their shapes, got none", "input={'': (1, 3, 224, 224)}"),
        (nn.Linear(3, 4), {"shape": (1, 3)}, "shape goes with recipes and ONNX files", "input={'': (1, 3, 224, 224)}"),
        (nn.Linear(3, 4), {"input": {"": (1, 3)}, "opset": 9}, "opset: .*, got 9", "leave it out"),
        (5, {"input": {"": (1, 3)}}, r"expected a torch\.nn\.Module, or text that names a model, got 5", "ONNX"),
    ],
)
def test_the_error_on_a_module_that_cannot_be_exported_has_a_hint(
    source: Callable[..., LoadedModel], model: Any, options: dict[str, Any], message: str, hint: str
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        source(model, **options)
    assert hint in caught.value.hint


def test_weights_of_a_module_are_in_its_graph(source: Callable[..., LoadedModel], tmp_path: Path) -> None:
    trained = nn.Linear(3, 4)
    torch.save(trained.state_dict(), tmp_path / "w.pt")
    model = source(nn.Linear(3, 4), input={"": (1, 3)}, weights=str(tmp_path / "w.pt"))
    x = np.ones((1, 3), np.float32)
    (answer,) = Evaluator(model.graph).run({"input": x}).values()
    with torch.no_grad():
        np.testing.assert_allclose(answer, trained(torch.from_numpy(x)).numpy(), rtol=1e-5)
    assert model.origin.weights is not None and len(model.origin.weights.sha256) == 64


def test_a_cfg_file_chooses_diou_suppression_and_its_exponent(
    tmp_path: Path, source: Callable[..., LoadedModel]
) -> None:
    conv = "[convolutional]\nfilters=8\nsize=1\nstride=8\nactivation=logistic\n"
    head = "[yolo]\nanchors=4,4\nclasses=3\nnum=1\nscale_x_y=2\nnew_coords=1\n"
    for option, beta in (
        ("nms_kind=diounms\nbeta_nms=0.8\n", 0.8),
        ("nms_kind=diounms\n", 0.6),
        ("beta_nms=0.6\n", 0.0),
    ):
        (tmp_path / "net.cfg").write_text(f"[net]\nwidth=32\nheight=32\nchannels=3\n{conv}{head}{option}")
        model = source(tmp_path / "net.cfg")
        assert model.postprocess is not None and model.postprocess.head.diou_beta == beta
        assert model.postprocess.head.heads[0].new_coords


def test_random_ids_are_rows_of_their_table(tmp_path: Path, source: Callable[..., LoadedModel]) -> None:
    table = onnx.numpy_helper.from_array(np.arange(200, dtype=np.float32).reshape(50, 4), "table")
    graph = onnx.parser.parse_graph("g (int64[1, 40] ids) => (float[1, 40, 4] y) { y = Gather(table, ids) }")
    graph.initializer.append(table)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)]), tmp_path / "m.onnx")
    model = source(tmp_path / "m.onnx")
    found = model_inputs(model, CalibrationConfig(), TargetConfig(target="cpu"), Silent())
    ids = np.concatenate([feed["ids"] for feed in found.feeds])
    assert 40 < ids.max() < 50 and ids.min() >= 0


class OneRow(nn.Module):
    """A table of one row: an index of 1 is an error."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(1, 4)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.table(ids) * 2


def test_a_table_of_one_row_is_exported_and_checked(source: Callable[..., LoadedModel]) -> None:
    model = source(OneRow(), input={"ids:int64": (1, 5)})
    assert model.num_values == {"ids": 1}


@pytest.fixture
def dynamic_file(tmp_path: Path) -> Path:
    """Three matrix products; each run finds the ranges of their inputs."""
    graph = onnx.parser.parse_graph(
        "g (float[1, 16] x) => (float[1, 16] y) { a = MatMul(x, w) b = Tanh(a) c = MatMul(b, w) y = MatMul(c, w) }"
    )
    w = np.random.default_rng(0).standard_normal((16, 16)).astype(np.float32)
    graph.initializer.append(onnx.numpy_helper.from_array(w, "w"))
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "float.onnx")
    quantize_dynamic(tmp_path / "float.onnx", tmp_path / "dynamic.onnx")
    return tmp_path / "dynamic.onnx"


@pytest.mark.parametrize("target", ["openvino", "tensorrt", "tensorrt-rtx"])
def test_a_dynamically_quantized_file_is_a_float_model_for_targets_without_kernels(
    dynamic_file: Path, noted: Noted, target: str
) -> None:
    model = load_model(ModelConfig(model=dynamic_file), noted, target)
    assert not model.quantized
    assert [node.op_type for node in model.graph.graph] == ["MatMul", "Tanh", "MatMul", "MatMul"]
    assert any(f"which {target} has no kernels for: 3 layers" in note for note in noted.notes)
    found = {each.name: onnx.numpy_helper.to_array(each) for each in onnx.load(dynamic_file).graph.initializer}
    w = (found["w_quantized"].astype(np.float64) - found["w_zero_point"]) * found["w_scale"]
    x = np.random.default_rng(1).standard_normal((1, 16)).astype(np.float32)
    right = np.tanh(x @ w) @ w @ w
    for (got,) in (Evaluator(model.graph).run({"x": x}).values(), model.original.run([{"x": x}])[0].values()):
        np.testing.assert_allclose(got, right, rtol=1e-5, atol=1e-5 * np.abs(right).max())
    assert model.original.name == "ONNX Runtime on dynamic.onnx in float"


@pytest.mark.parametrize("target", ["cpu", None])
def test_a_dynamically_quantized_file_stays_as_it_is_for_the_others(
    dynamic_file: Path, noted: Noted, target: str | None
) -> None:
    model = load_model(ModelConfig(model=dynamic_file), noted, target)
    assert model.quantized
    assert sum(node.op_type == "MatMulInteger" for node in model.graph.graph) == 3
    assert not noted.notes


def test_error_on_external_weights_that_change_after_they_were_read(tmp_path: Path) -> None:
    weight = np.random.default_rng(0).standard_normal((256, 256)).astype(np.float32)
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [value("x", onnx.TensorProto.FLOAT, [1, 256])],
        [value("y", onnx.TensorProto.FLOAT, [1, 256])],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.data")
    original = load_model(ModelConfig(model=str(tmp_path / "m.onnx")), Silent()).original
    feed = {"x": np.ones((1, 256), np.float32)}
    np.testing.assert_allclose(original.run([feed])[0]["y"], feed["x"] @ weight, rtol=1e-3, atol=1e-3)
    (tmp_path / "m.data").write_bytes(bytes(weight.nbytes))
    with pytest.raises(GraphError, match=r"m\.data: expected the file that was read, got another one"):
        original.run([feed])
