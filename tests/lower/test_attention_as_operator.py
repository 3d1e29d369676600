"""Attention as ONNX's own operator: the graph before and after, by ONNX's reference and by ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attention_graphs as small
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from small_graphs import rewritten, stays

import edgekit
from edgekit.engine.backend import BuildOptions
from edgekit.engine.builder import engine_from_graph
from edgekit.engine.bundle.manifest import read_manifest
from edgekit.errors import UsageError
from edgekit.lower.attention_as_operator import AttentionAsOperator
from edgekit.specs import Precision, ShapeRange
from tests.lower.test_attention_as_plugin import ADDED, FLAT, HIDES, SCALED, TWO, Block, inputs_of

LOWEST = float(np.finfo(np.float32).min)
CAUSAL = f"{SCALED}\n scores = Where(b, minus, d)\n {small.SOFTMAX}"
SHOWS = f"{SCALED}\n scores = Where(b, d, minus)\n {small.SOFTMAX}"
BOTH = f"{SCALED}\n e = Where(b, d, minus)\n scores = Where(c, minus, e)\n {small.SOFTMAX}"
MIXED = f"{SCALED}\n e = Where(b, d, minus)\n scores = Add(e, m)\n {small.SOFTMAX}"

RANDOM = np.random.default_rng(5)
SEEN = np.ones((small.QUERIES, small.KEYS), bool) & (np.arange(small.KEYS) != 3)
KEYS_OF_IMAGES = np.where(np.arange(small.KEYS) < np.array([7, 4])[:, None, None, None], 0, LOWEST)

# Name: body, inputs, arrays.
CASES: dict[str, tuple[str, str, dict[str, np.ndarray]]] = {
    "no mask": (small.PLAIN, "", {}),
    "scores that are scaled": (
        f"{small.TURNED}\n d = MatMul(qh, kt)\n scores = Div(d, four)\n {small.SOFTMAX}",
        "",
        {},
    ),
    "a mask for each head": (
        ADDED,
        ", float[1, 3, 5, 7] m",
        {"m": RANDOM.standard_normal((1, 3, 5, 7), np.float32)},
    ),
    "a mask of the keys": (ADDED, ", float[2, 1, 1, 7] m", {"m": KEYS_OF_IMAGES.astype(np.float32)}),
    "a mask in two dimensions": (ADDED, ", float[5, 7] m", {"m": RANDOM.standard_normal((5, 7), np.float32)}),
    "two masks": (
        TWO,
        ", float[1, 3, 5, 7] m, float[2, 1, 1, 7] n",
        {
            "m": RANDOM.standard_normal((1, 3, 5, 7), np.float32),
            "n": RANDOM.standard_normal((2, 1, 1, 7), np.float32),
        },
    ),
    "keys that get a finite score": (HIDES, ", bool[5, 7] b", {"b": ~SEEN}),
    "keys that are visible": (SHOWS, ", bool[5, 7] b", {"b": SEEN}),
    "keys that are visible, and keys that are hidden": (
        BOTH,
        ", bool[5, 7] b, bool[2, 1, 1, 7] c",
        {"b": SEEN, "c": KEYS_OF_IMAGES != 0},
    ),
    "a boolean mask and an added one": (
        MIXED,
        ", bool[5, 7] b, float[5, 7] m",
        {"b": SEEN, "m": RANDOM.standard_normal((5, 7), np.float32)},
    ),
}


def onnxruntime_of(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, feeds)[0])


def reference_of(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> np.ndarray:
    return np.asarray(ReferenceEvaluator(model).run(None, feeds)[0])


def attentions(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == "Attention"]


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_numbers_stay_the_same(case: str, dynamic: bool) -> None:
    body, inputs, more = CASES[case]
    if dynamic:
        inputs = inputs.replace("5, 7]", "S, T]").replace("1, 7]", "1, T]").replace("[2,", "[N,")
    model = small.graph(body, inputs=inputs, dynamic=dynamic)
    fused, modified = rewritten(model, AttentionAsOperator())
    assert modified and len(attentions(fused)) == 1
    assert not {"Softmax", "MatMul"} & {node.op_type for node in fused.graph.node}
    onnx.checker.check_model(fused, full_check=True)
    feeds = small.feeds() | more
    expected = reference_of(model, feeds)
    np.testing.assert_allclose(reference_of(fused, feeds), expected, rtol=0, atol=2e-6)
    np.testing.assert_allclose(onnxruntime_of(fused, feeds), expected, rtol=0, atol=2e-6)


def test_a_causal_mask_becomes_an_attribute_and_goes_with_no_other_mask() -> None:
    square = np.triu(np.ones((5, 5), bool), 1)
    constant = ", bool[5, 5] b = {" + ", ".join(str(int(x)) for x in square.flat) + "}"
    alone = small.graph(CAUSAL, constants=constant, keys=5)
    fused, _ = rewritten(alone, AttentionAsOperator())
    (node,) = attentions(fused)
    assert len(node.input) == 3 and {a.name: a.i for a in node.attribute}["is_causal"] == 1
    feeds = small.feeds(keys=5)
    np.testing.assert_allclose(reference_of(fused, feeds), reference_of(alone, feeds), rtol=0, atol=2e-6)
    two = f"{SCALED}\n e = Where(b, minus, d)\n scores = Add(e, m)\n {small.SOFTMAX}"
    masked = small.graph(two, inputs=", float[5, 5] m", constants=constant, keys=5)
    fused, _ = rewritten(masked, AttentionAsOperator())
    (node,) = attentions(fused)
    assert len(node.input) == 4 and {a.name: a.i for a in node.attribute}["is_causal"] == 0
    feeds["m"] = RANDOM.standard_normal((5, 5), np.float32)
    np.testing.assert_allclose(reference_of(fused, feeds), reference_of(masked, feeds), rtol=0, atol=2e-6)


def test_heads_and_images_in_one_dimension() -> None:
    shapes = f", int64[3] flat = {{6, -1, {small.SIZE}}}, int64[4] whole = {{2, 3, -1, {small.SIZE}}}"
    model = small.graph(
        FLAT, constants=shapes, mean="flat_mean = MatMul(weights, vf)\n mean = Reshape(flat_mean, whole)"
    )
    fused, modified = rewritten(model, AttentionAsOperator())
    assert modified
    feeds = small.feeds()
    np.testing.assert_allclose(reference_of(fused, feeds), reference_of(model, feeds), rtol=0, atol=2e-6)


def test_layers_share_a_mask_that_is_repeated() -> None:
    second = "qs2 = Mul(first, scale)\n d2 = MatMul(qs2, kt)\n e2 = Add(d2, m)\n w2 = Softmax<axis = -1>(e2)"
    twice = f"{ADDED}\n first = MatMul(weights, vh)\n {second}"
    model = small.graph(twice, inputs=", float[2, 1, 1, 7] m", mean="mean = MatMul(w2, vh)")
    fused, _ = rewritten(model, AttentionAsOperator())
    assert len(attentions(fused)) == 2
    assert [node.op_type for node in fused.graph.node].count("Expand") == 1
    feeds = small.feeds() | {"m": KEYS_OF_IMAGES.astype(np.float32)}
    np.testing.assert_allclose(reference_of(fused, feeds), reference_of(model, feeds), rtol=0, atol=2e-6)


def test_a_row_that_sees_no_key_is_zeros_where_a_guard_made_it_so() -> None:
    guarded = "raw = MatMul(weights, vh)\n nan = IsNaN(raw)\n mean = Where(nan, zero, raw)"
    model = small.graph(SHOWS, inputs=", bool[5, 7] b", mean=guarded)
    fused, modified = rewritten(model, AttentionAsOperator())
    assert modified
    feeds = small.feeds() | {"b": SEEN & (np.arange(5) != 2)[:, None]}
    with np.errstate(invalid="ignore"):
        expected, found = reference_of(model, feeds), reference_of(fused, feeds)
    assert not expected[:, 2].any()
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)
    np.testing.assert_allclose(onnxruntime_of(fused, feeds), expected, rtol=0, atol=2e-6)


def test_a_row_that_sees_no_key_stays_finite_and_changes_no_other() -> None:
    model = small.graph(HIDES, inputs=", bool[5, 7] b")
    fused, _ = rewritten(model, AttentionAsOperator())
    feeds = small.feeds() | {"b": ~SEEN | (np.arange(5) == 2)[:, None]}
    expected, found = reference_of(model, feeds), reference_of(fused, feeds)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(np.delete(found, 2, 1), np.delete(expected, 2, 1), rtol=0, atol=2e-6)


def test_the_lowest_float32_of_a_mask_stays_finite_in_float16() -> None:
    body = f"{SCALED}\n wide = Cast<to = 1>(d)\n e = Add(wide, m)\n scores = Cast<to = 10>(e)\n {small.SOFTMAX}"
    model = small.graph(body, dtype="float16", inputs=", float [2, 1, 1, 7] m")  # the space keeps it float32
    fused, modified = rewritten(model, AttentionAsOperator())
    assert modified
    mask = KEYS_OF_IMAGES.astype(np.float32)
    mask[1] = LOWEST  # an image without keys: all of them weigh the same
    feeds = {name: array.astype(np.float16) for name, array in small.feeds().items()} | {"m": mask}
    found = reference_of(fused, feeds)
    assert np.isfinite(found).all()
    with np.errstate(over="ignore", invalid="ignore"):  # the model itself has -inf there
        expected = reference_of(model, feeds)
    np.testing.assert_allclose(found[0], expected[0], rtol=0, atol=4e-3)


TWO_TYPES = f"{small.TURNED}\n qs = Mul(qh, minus_one)\n scores = MatMul(qs, kt)\n {small.SOFTMAX}"


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (
            small.graph(ADDED, inputs=", float[K, 1, 1, 7] m"),
            "its mask is not known to have the shape of the scores",
        ),
        (
            small.graph(TWO_TYPES, constants=", float minus_one = {-1.0}"),
            "its scale is not positive",
        ),
    ],
)
def test_what_does_not_fit_stays_and_the_note_says_why(model: onnx.ModelProto, reason: str) -> None:
    one = AttentionAsOperator()
    assert stays(model, one)
    (note,) = one.notes()
    assert note.endswith(f"0 of 1 run as {one.runs_as}; the others stay as they are: {reason}")


def test_group_normalization_of_opset_20_keeps_its_meaning() -> None:
    model = small.graph()
    ones = onnx.numpy_helper.from_array(np.ones(1, np.float32), "ones")
    norm = onnx.helper.make_node("GroupNormalization", ["y", "ones", "ones"], ["z"], name="norm", num_groups=1)
    model.graph.node.append(norm)
    model.graph.initializer.append(ones)
    model.graph.output[0].name = "z"
    one = AttentionAsOperator()
    assert stays(model, one)
    assert "needs opset 23, and its GroupNormalization 'norm' of opset 20 means something else there" in one.notes()[0]


@pytest.mark.parametrize(
    ("mask", "precision"),
    [
        pytest.param(mask, precision, marks=[] if precision == kept else [pytest.mark.slow])
        for mask, kept in (("", "fp16"), ("keys", "int8"), ("visible", "fp32"), ("lengths", "fp16"))
        for precision in ("fp32", "fp16", "int8")
    ],
)
def test_a_build_writes_the_operator_and_says_so(mask: str, precision: Any, tmp_path: Path) -> None:
    feeds = inputs_of(mask)
    if mask == "visible":
        feeds["m"][0, 0, 4, 0] = 1  # no row is empty: the exporter writes a finite score, of which ORT's kernel makes 0
    kinds = {"" if name == "input" else name: list(array.shape) for name, array in feeds.items()}
    if mask == "lengths":
        kinds = {"": kinds[""], "m:int64": kinds["m"]}
    outputs = {}
    for choice in ("native", "auto"):
        torch.manual_seed(0)
        place = edgekit.build(
            Block(mask).eval(),
            precision=precision,
            target="tensorrt",
            attention=choice,  # type: ignore[arg-type]
            graph_only=True,
            input=kinds,
            output=tmp_path / choice,
        )
        model = onnx.load(place / "graph.onnx")
        assert len(attentions(model)) == (choice == "native")
        outputs[choice] = onnxruntime_of(model, feeds)
    notes = read_manifest(tmp_path / "native").notes
    assert "attention: 1 of 1 run as ONNX's Attention, which TensorRT reads since 10.14" in notes
    expected = outputs["auto"]
    step = 1e-2 if precision == "int8" else 2e-3  # the last product reads 8 bits
    np.testing.assert_allclose(outputs["native"], expected, rtol=0, atol=step * np.abs(expected).max())


@pytest.mark.parametrize("target", ["cpu", "openvino"])
def test_targets_on_the_processor_do_not_take_it(target: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="attention='native' goes with targets tensorrt and tensorrt-rtx, got"):
        edgekit.build("yolov3-tiny", target=target, attention="native", output=tmp_path / "engine")


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_tensorrt_rtx_builds_an_engine_with_it(case: str, dynamic: bool, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    body, inputs, _ = CASES[case]
    if dynamic:
        inputs = inputs.replace("5, 7]", "S, T]").replace("1, 7]", "1, T]").replace("[2,", "[N,")
    inputs = inputs.replace("float[", "float16[")
    fused, _ = rewritten(
        small.graph(body, inputs=inputs, dynamic=dynamic, dtype="float16", size=32), AttentionAsOperator()
    )
    onnx.save(fused, tmp_path / "graph.onnx")
    (tmp_path / "engine").mkdir()
    sizes = {"N": (1, 2, 4), "S": (1, 5, 9), "T": (1, 7, 9)}
    shapes = {}
    for given in fused.graph.input:
        dims = [sizes.get(d.dim_param, (d.dim_value,) * 3) for d in given.type.tensor_type.shape.dim]
        shapes[given.name] = ShapeRange(*(tuple(dim[i] for dim in dims) for i in range(3)))
    options = BuildOptions(precision=Precision.FP16, shapes=shapes if dynamic else {}, engine={})
    result = engine_from_graph(tmp_path / "graph.onnx", tmp_path / "engine", "tensorrt-rtx", options, timeout_s=120)
    assert result.engine == "engine.plan"
    assert '"type":"attention_output"' in (tmp_path / "engine/layers.json").read_text()
