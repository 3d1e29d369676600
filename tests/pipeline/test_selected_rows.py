"""Rows that a TopK orders are compared by their numbers, with right values by numpy from both graphs' scores."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

import edgekit
from edgekit.graph.passes import optimize
from edgekit.pipeline.selected_rows import noise_of_same_rows, with_noise_of_same_rows
from edgekit.quantize.compare import OutputNoise
from edgekit.quantize.output_parts import forms_of_outputs
from tests.decibels import signal_to_noise_db
from tests.pipeline.networks import topk_text

ROWS, CHOSEN, FEATURES = 64, 40, 8
RANDOM = np.random.default_rng(0)
FEEDS = [{"x": RANDOM.normal(0, 1, (1, ROWS, FEATURES)).astype(np.float32)} for _ in range(4)]
WEIGHTS = RANDOM.normal(0, 1, (FEATURES, 5)).astype(np.float32)

TOPK = topk_text(ROWS, CHOSEN, "float[1, 40, 4] chosen, float[1, 40] scores, int64[1, 40] places")
SUPPRESSION = """<ir_version: 8, opset_import: ["" : 17]>
g (float[1, 64, 8] x) => (float[n, 4] boxes)
<int64[2] sizes = {4, 1}, int64[1] two = {2}, int64[1] zero = {0},
 int64[1] most = {40}, float[1] overlap = {0.5}, float[1] least = {-0.5}> {
  all = MatMul (x, w)
  raw, narrow = Split <axis = 2> (all, sizes)
  score = Transpose <perm = [0, 2, 1]> (narrow)
  chosen = NonMaxSuppression (raw, score, most, overlap, least)
  column = Gather <axis = 1> (chosen, two)
  flat = Squeeze (column, o)
  plain = Squeeze (raw, zero)
  boxes = Gather <axis = 0> (plain, flat)
}"""


def graph_of(text: str, noise: float = 0.0) -> ir.Model:
    proto = onnx.parser.parse_model(text)
    random = np.random.default_rng(5).normal(0, 1, WEIGHTS.shape)
    proto.graph.initializer.append(onnx.numpy_helper.from_array((WEIGHTS + noise * random).astype(np.float32), "w"))
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1]), "o"))
    onnx.checker.check_model(proto)
    return optimize(ir.from_proto(proto))


def run(graph: ir.Model, feed: dict[str, np.ndarray], *names: str) -> list[np.ndarray]:
    proto = ir.to_proto(graph)
    have = {output.name for output in proto.graph.output}
    proto.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names if name not in have)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(list(names), feed)


def test_a_topk_is_judged_by_the_numbers_of_the_reference_rows() -> None:
    exact, noisy = graph_of(TOPK), graph_of(TOPK, 0.02)
    wanted, got = [], []
    for feed in FEEDS:
        whole = feed["x"].astype(np.float64)[0] @ WEIGHTS.astype(np.float64)
        rows = np.argsort(-whole[:, 4], kind="stable")[:CHOSEN]
        other = feed["x"][0] @ (WEIGHTS + 0.02 * np.random.default_rng(5).normal(0, 1, WEIGHTS.shape))
        wanted.append(whole[rows])
        got.append(other[rows])
    a, b = np.stack(wanted), np.stack(got)
    found = {each.output: each for each in noise_of_same_rows(exact, noisy, FEEDS, forms_of_outputs(exact))}
    assert found["chosen"].sqnr_db == pytest.approx(signal_to_noise_db(a[..., :4], b[..., :4]), abs=0.01)
    assert found["scores"].sqnr_db == pytest.approx(signal_to_noise_db(a[..., 4], b[..., 4]), abs=0.01)


def test_suppression_is_judged_by_the_numbers_of_the_rows_that_the_reference_kept() -> None:
    exact, noisy = graph_of(SUPPRESSION), graph_of(SUPPRESSION, 0.02)
    pairs = []
    for feed in FEEDS:
        (chosen,) = run(exact, feed, "chosen")
        pairs.append([run(graph, feed, "raw")[0][0][chosen[:, 2]] for graph in (exact, noisy)])
    a, b = (np.concatenate(side) for side in zip(*pairs, strict=True))
    (found,) = noise_of_same_rows(exact, noisy, FEEDS, forms_of_outputs(exact))
    assert found.sqnr_db == pytest.approx(signal_to_noise_db(a, b), abs=0.01)


def test_graphs_stay_as_they_were_and_others_are_not_looked_at() -> None:
    exact = graph_of(TOPK)
    before = [(node.name, node.op_type) for node in exact.graph], len(exact.graph.inputs)
    noise_of_same_rows(exact, exact, FEEDS, forms_of_outputs(exact))
    assert before == ([(node.name, node.op_type) for node in exact.graph], len(exact.graph.inputs))
    plain = graph_of(TOPK.replace("scores, places = TopK <axis = 1> (score, k)", "").split("  column")[0].replace(
        "float[1, 40, 4] chosen, float[1, 40] scores, int64[1, 40] places", "float[1, 64, 4] raw") + "}")  # fmt: skip
    assert noise_of_same_rows(plain, plain, FEEDS, forms_of_outputs(plain)) == ()


def test_the_agreement_of_the_engine_stays_and_what_it_loses_beyond_its_graph_is_subtracted() -> None:
    noise = (
        OutputNoise(output="y", sqnr_db=11.0, agreement=0.8),
        OutputNoise(output="other", sqnr_db=40.0),
        OutputNoise(output="places", agreement=0.7),
    )
    same = (OutputNoise(output="y", part="0:4", sqnr_db=30.0), OutputNoise(output="y", part="4:5", sqnr_db=25.0))
    got = with_noise_of_same_rows(noise, same, beyond_db=5.0)
    assert {(e.output, e.part): (e.sqnr_db, e.agreement) for e in got} == {
        ("y", "0:4"): (25.0, 0.8),
        ("y", "4:5"): (20.0, 0.8),
        ("other", ""): (40.0, None),
        ("places", ""): (None, 0.7),
    }


@pytest.mark.parametrize("target", ["cpu", "openvino"])
def test_a_build_reports_the_ratio_of_the_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    pytest.importorskip("openvino" if target == "openvino" else "onnxruntime")
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    onnx.save(ir.to_proto(graph_of(TOPK)), tmp_path / "rows.onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", edgekit.EdgeKitWarning)
        place = edgekit.build(
            tmp_path / "rows.onnx",
            target=target,
            calib=[feed["x"] for feed in FEEDS],
            no_head=True,
            quantize_heads=True,
            profile=False,
            progress=False,
            output=tmp_path / "e",
        )
    found = edgekit.load(place).manifest.verification.sqnr_db
    (name,) = [each for each in found if each.startswith("INT8 engine")]
    # By definition: the scores of the quantized product, in the rows of the float scores.
    typed = ir.load(place / "graph.onnx")
    split = next(node for node in typed.graph if node.op_type in ("Split", "TopK"))
    source = split.inputs[0].name
    pairs = []
    for feed in FEEDS[:2]:
        (whole,) = run(graph_of(TOPK), feed, "all")
        rows = np.argsort(-whole[0, :, 4], kind="stable")[:CHOSEN]
        pairs.append((whole[0, rows], run(typed, feed, source)[0][0, rows]))
    a, b = (np.stack(side) for side in zip(*pairs, strict=True))
    assert found[name] == pytest.approx(
        min(signal_to_noise_db(a[..., :4], b[..., :4]), signal_to_noise_db(a[..., 4], b[..., 4])), abs=0.1
    )
