"""Windows of attention, in opset 25; ONNX's reference evaluator has the right values."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import onnx.reference
import pytest

from edgekit.engine.backend import BuildOptions
from edgekit.graph.evaluator import Evaluator
from edgekit.graph.load.onnx_file import graph_from_onnx
from edgekit.graph.original import OnnxOriginal
from edgekit.specs import Precision
from tests.lower.models import run_in_openvino

RANDOM = np.random.default_rng(3)
HEADS, PAIRS = "float[2, 4, 6, 8] q, float[2, 2, 7, 8] k, float[2, 2, 7, 8] v", "past_key, past_value"


def floats(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


INPUTS = {
    "heads": (HEADS, "q, k, v", "float[2, 4, 6, 8] y"),
    "channels": ("float[2, 6, 32] q, float[2, 7, 16] k, float[2, 7, 16] v", "q, k, v", "float[2, 6, 32] y"),
    "any sizes": ("float[b, 4, s, 8] q, float[b, 2, t, 8] k, float[b, 2, t, 8] v", "q, k, v", "float[b, 4, s, 8] y"),
    "bool mask": (f"{HEADS}, bool[6, 7] m", "q, k, v, m", "float[2, 4, 6, 8] y"),
    "float mask": (f"{HEADS}, float[2, 1, 6, 7] m", "q, k, v, m", "float[2, 4, 6, 8] y"),
    "past": (
        f"{HEADS}, float[2, 2, 3, 8] past_key, float[2, 2, 3, 8] past_value",
        f"q, k, v, , {PAIRS}",
        "float[2, 4, 6, 8] y, float[2, 2, 10, 8] present_key, float[2, 2, 10, 8] present_value",
    ),
    "past and mask": (
        f"{HEADS}, bool[6, 10] m, float[2, 2, 3, 8] past_key, float[2, 2, 3, 8] past_value",
        f"q, k, v, m, {PAIRS}",
        "float[2, 4, 6, 8] y, float[2, 2, 10, 8] present_key, float[2, 2, 10, 8] present_value",
    ),
}


def model_of(case: str, windows: str) -> onnx.ModelProto:
    inputs, given, outputs = INPUTS[case]
    names = ", ".join(re.findall(r"\] (\w+)", outputs))
    heads = "q_num_heads = 4, kv_num_heads = 2, " if case == "channels" else ""
    return onnx.parser.parse_model(f"""<ir_version: 11, opset_import: ["" : 25]>
        g ({inputs}) => ({outputs}) {{ {names} = Attention <{heads}{windows}> ({given}) }}""")


def feed_of(case: str) -> dict[str, np.ndarray]:
    feed = {"q": floats(2, 4, 6, 8), "k": floats(2, 2, 7, 8), "v": floats(2, 2, 7, 8)}
    if case == "channels":
        feed = {"q": floats(2, 6, 32), "k": floats(2, 7, 16), "v": floats(2, 7, 16)}
    if case.startswith("past"):
        feed |= {"past_key": floats(2, 2, 3, 8), "past_value": floats(2, 2, 3, 8)}
    masks = {"bool mask": (6, 7), "past and mask": (6, 10)}
    if case in masks:
        feed["m"] = RANDOM.random(masks[case]) < 0.8
        feed["m"][..., :4] = True
    return feed | {"m": floats(2, 1, 6, 7)} if case == "float mask" else feed


@pytest.mark.parametrize("target", ["evaluator", "openvino"])
@pytest.mark.parametrize(
    "windows",
    [
        "left_window_size = 2, right_window_size = 1",
        "left_window_size = 3",
        "right_window_size = 0",
        "left_window_size = 4, is_causal = 1",
    ],
)
@pytest.mark.parametrize("case", INPUTS)
def test_a_window_hides_the_keys_outside_of_it(case: str, windows: str, target: str, tmp_path: Path) -> None:
    model, feed = model_of(case, windows), feed_of(case)
    onnx.save(model, tmp_path / "m.onnx")
    reference = onnx.reference.ReferenceEvaluator(model)
    expected = dict(zip(reference.output_names, reference.run(None, feed), strict=True))
    graph = graph_from_onnx(tmp_path / "m.onnx")
    if target == "openvino":
        pytest.importorskip("openvino")
        got = run_in_openvino(graph, feed, tmp_path, BuildOptions(precision=Precision.FP32, threads=1))[1]
    else:
        got = Evaluator(graph).run(feed)
    (node,) = (node for node in graph.graph if node.op_type == "Attention")
    assert graph.graph.opset_imports[""] == 24
    assert not any("window" in name for name in node.attributes)
    original = OnnxOriginal(tmp_path / "m.onnx").run([feed])[0]
    for name, array in expected.items():
        np.testing.assert_allclose(original[name], array, atol=1e-5)
        np.testing.assert_allclose(got[name], array, atol=1e-5)


@pytest.mark.parametrize(
    ("inputs", "given"),
    [
        (f"{HEADS}, bool[6, 5] m", "q, k, v, m"),
        (f"{HEADS}, bool[6, n] m", "q, k, v, m"),
        (f"{HEADS}, int64[2] lengths", "q, k, v, , , , lengths"),
    ],
)
def test_an_attention_of_unknown_keys_keeps_its_windows(inputs: str, given: str, tmp_path: Path) -> None:
    onnx.save(
        onnx.parser.parse_model(f"""<ir_version: 11, opset_import: ["" : 25]>
        g ({inputs}) => (float[2, 4, 6, 8] y) {{ y = Attention <left_window_size = 2> ({given}) }}"""),
        tmp_path / "m.onnx",
    )
    graph = graph_from_onnx(tmp_path / "m.onnx").graph
    assert [node.op_type for node in graph] == ["Attention"] and graph.opset_imports[""] == 25


@pytest.mark.parametrize("opset", [23, 24])
@pytest.mark.parametrize("case", ["past", "past and mask", "heads", "float mask"])
def test_openvino_counts_the_keys_of_before_in_causal_attention(case: str, opset: int, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    model, feed = model_of(case, "is_causal = 1"), feed_of(case)
    model.opset_import[0].version = opset
    onnx.save(model, tmp_path / "m.onnx")
    expected = OnnxOriginal(tmp_path / "m.onnx").run([feed])[0]
    graph = graph_from_onnx(tmp_path / "m.onnx")
    got = run_in_openvino(graph, feed, tmp_path, BuildOptions(precision=Precision.FP32, threads=1))[1]
    np.testing.assert_allclose(got["y"], expected["y"], atol=1e-5)
