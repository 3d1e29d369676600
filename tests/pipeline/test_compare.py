from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

import edgekit
from edgekit.arguments import on_command_line
from edgekit.errors import DataError, RunError, UsageError
from edgekit.measure import turns
from edgekit.measure.contenders import Contender, contenders_from_paths, same_feeds
from edgekit.measure.profile import profile_bundle
from edgekit.measure.relative import ChangedLayer
from edgekit.measure.reports import LatencyReport, json_from_report
from edgekit.pipeline import compare as module
from edgekit.pipeline.compare import compare, sentence
from edgekit.report.html.build import write_build_report
from edgekit.specs import ShapeRange, TensorSpec

MakeBundle = Callable[..., Path]
MakeReport = Callable[..., LatencyReport]
FAST = {"rounds": 2, "seconds": 0.02}


@pytest.fixture
def reports(make_report: MakeReport, tmp_path: Path) -> list[Path]:
    """Reports of an engine of 50 ms and one of 20 ms."""
    paths = []
    for name, base_ms in (("before", 50.0), ("after", 20.0)):
        paths.append(tmp_path / f"{name}.json")
        paths[-1].write_bytes(json_from_report(make_report(base_ms=base_ms)))
    return paths


def test_engines_take_turns_in_new_processes_on_the_same_inputs(make_bundle: MakeBundle) -> None:
    found = compare([make_bundle("a"), make_bundle("b")], **FAST)
    assert found.interleaved and found.rounds == 2
    a, b = found.contenders
    assert (a.name, b.name, a.ratios) == ("a", "b", {})
    assert len(a.rounds_ms) == len(b.rounds_ms) == 2
    assert all(len(samples) >= 5 for samples in (*a.rounds_ms, *b.rounds_ms))
    assert {"p50", "mean", "size"} <= set(b.ratios)
    assert b.ratios["size"].value == 1
    assert "no confidence intervals with 2 rounds" in found.notes[0]


def test_the_order_of_turns_is_random_and_each_round_has_all(
    make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def record(name: str, request: turns.TurnRequest, folder: Path) -> turns.TurnResponse:
        seen.append(name)
        return turns.TurnResponse(samples_ms=(1.0,) * 5, peak_bytes=1, engine_bytes=1)

    monkeypatch.setattr(turns, "_turn", record)
    compare([make_bundle(name) for name in "abc"], rounds=20, seconds=1)
    orders = {tuple(seen[i : i + 3]) for i in range(0, 60, 3)}
    assert all(sorted(order) == ["a", "b", "c"] for order in orders)
    assert len(orders) > 3


def test_a_foreign_onnx_file_is_run_by_plain_onnx_runtime(
    write_classifier: Callable[..., Path], make_bundle: MakeBundle, tmp_path: Path
) -> None:
    foreign = write_classifier(tmp_path / "model.onnx")
    kind = {
        "inputs": (TensorSpec("input", "float32", (1, 3, 32, 32)),),
        "outputs": (TensorSpec("y", "float32", (1, 10)),),
        "task": "tensor",
    }
    found = compare([foreign, make_bundle("its-engine", kind=kind)], rounds=1, seconds=0.02)
    assert [each.kind for each in found.contenders] == ["onnx", "engine"]
    assert found.contenders[0].backend == "plain ONNX Runtime"
    assert found.contenders[0].size_bytes == foreign.stat().st_size
    # The null backend copies zeros; a network of three convolutions takes longer.
    assert found.contenders[1].ratios["p50"].value < 1


def test_a_turn_that_fails_says_whose_it_was(make_bundle: MakeBundle) -> None:
    a, b = make_bundle("a"), make_bundle("b")
    (b / "engine.json").write_bytes(b"{}")
    with pytest.raises(RunError, match="b: .*was changed|b: ") as error:
        compare([a, b], **FAST)
    assert error.value.hint


def test_reports_are_compared_by_their_runs_without_new_ones(reports: list[Path]) -> None:
    found = compare(reports)
    assert not found.interleaved and found.machine is None
    ratio = found.contenders[1].ratios["p50"]
    assert ratio.value == pytest.approx(0.4, rel=0.01)
    assert ratio.low is not None and ratio.high is not None and ratio.low <= ratio.value <= ratio.high
    assert found.sentences[0].startswith("after is 2.50 x as fast as before (95 %: 2.4")
    assert "not interleaved" in found.notes[0]


@pytest.mark.parametrize("given", [{"rounds": 4}, {"seconds": 0.5}, {"threads": 2}, {"sizes": {"x": (1, 3)}}])
def test_options_of_measurements_are_refused_for_reports(given: dict[str, Any], reports: list[Path]) -> None:
    with pytest.raises(UsageError, match=f"^{next(iter(given))}.*are measured, got a report"):
        compare(reports, **given)


def test_a_bundle_is_compared_with_a_report_by_its_own(
    make_bundle: MakeBundle, make_report: MakeReport, reports: list[Path]
) -> None:
    bundle = make_bundle("c")
    with pytest.raises(UsageError, match="expected a report"):
        compare([reports[0], bundle])
    write_build_report(bundle, {"fp32": make_report("fp32"), "int8": make_report(base_ms=25.0)}, {})
    for path in (bundle, bundle / "report.json"):
        found = compare([reports[0], path])
        assert found.contenders[1].name == "c"
        assert found.contenders[1].ratios["p50"].value == pytest.approx(0.5, rel=0.01)


def test_accuracy_comes_from_the_build_and_from_an_evaluation(
    make_bundle: MakeBundle, make_report: MakeReport, tmp_path: Path
) -> None:
    bundles = [make_bundle("fp32"), make_bundle("int8")]
    write_build_report(bundles[1], {"int8": make_report()}, {"sqnr_db": {"y": 31.5}})
    evaluation = tmp_path / "eval.json"
    figures = [
        {"engine": str(path), "figures": {"map50_95": value}}
        for path, value in zip(bundles, (0.331, 0.329), strict=True)
    ]
    evaluation.write_text(json.dumps({"engines": figures}))
    found = compare(bundles, **FAST, evaluation=evaluation)
    assert found.contenders[1].accuracy == {"SQNR of y (dB)": 31.5, "map50_95": 0.329}
    assert "0.2 % lower" in found.sentences[0]
    evaluation.write_text(json.dumps({"engines": [{"engine": "elsewhere", "figures": {}}]}))
    with pytest.raises(DataError, match="expected figures of") as caught:
        compare(bundles, **FAST, evaluation=evaluation)
    command = "edgekit eval A B --data SET --json-file FILE, with the same folders"
    assert caught.value.hint == f"in a shell: {command}"
    with on_command_line(), pytest.raises(DataError) as caught:
        compare(bundles, **FAST, evaluation=evaluation)
    assert caught.value.hint == command
    evaluation.write_text("[1]")
    with pytest.raises(DataError, match="expected the JSON of `edgekit eval"):
        compare(bundles, **FAST, evaluation=evaluation)


def profiled(name: str, times_ms: dict[str, float], groups: Sequence[str]) -> Contender:
    layers = [SimpleNamespace(module=layer, median_ms=ms) for layer, ms in times_ms.items()]
    by_module = [SimpleNamespace(name=group) for group in groups]
    report = SimpleNamespace(layer_times=SimpleNamespace(layers=layers, by_module=by_module))
    return Contender(name=name, kind="report", path=name, report=report)  # type: ignore[arg-type]


def test_the_modules_that_changed_most_are_named() -> None:
    one = profiled("A", {"stem.conv": 3.0, "head.conv": 1.0, "head.out": 1.0}, ["stem", "head"])
    other = profiled("B", {"stem.conv": 2.9, "head.conv": 0.5, "neck.conv": 0.2}, ["stem", "head", "neck"])
    found = module._most_changed(module._changed_layers([one, other]))
    assert [(layer.name, layer.before_ms, layer.after_ms) for layer in found] == [
        ("head", 2.0, 0.5), ("neck", 0.0, 0.2), ("stem", 3.0, 2.9),
    ]  # fmt: skip


def test_modules_that_only_one_report_divides_are_compared_part_by_part() -> None:
    times_ms = {"backbone.conv1": 3.0, "backbone.conv10": 4.0, "backbone.pool": 0.5, "head": 1.0}
    one = profiled("A", times_ms, ["backbone", "head"])
    other = profiled("B", times_ms | {"backbone.conv1": 5.0}, ["backbone.conv1", "backbone.conv10", "head"])
    found = module._most_changed(module._changed_layers([one, other]))
    assert (found[0].name, found[0].before_ms, found[0].after_ms) == ("backbone.conv1", 3.0, 5.0)
    assert [layer.before_ms for layer in found[1:]] == [layer.after_ms for layer in found[1:]]


def test_layers_without_a_module_are_counted_too() -> None:
    one = profiled("A", {"stem": 3.0, "head": 1.0}, ["stem", "head"])
    other = profiled("B", {"stem": 1.0, "head": 1.0, "": 2.5}, ["stem", "head"])
    found = module._most_changed(module._changed_layers([one, other]))
    assert (found[0].name, found[0].before_ms, found[0].after_ms) == ("(no module)", 0.0, 2.5)


def changed(**times_ms: tuple[float, float]) -> list[ChangedLayer]:
    return [
        ChangedLayer(contender="after", name=name, before_ms=before, after_ms=after)
        for name, (before, after) in times_ms.items()
    ]


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        ({"stem": (30.0, 10.0), "head": (9.0, 8.0)}, "mostly in stem"),
        # What became slower is not where an engine is faster, however much it changed.
        ({"stem": (20.0, 5.0), "neck": (20.0, 8.0), "head": (1.0, 14.0)}, "mostly in stem"),
        ({"a": (20.0, 11.0), "b": (20.0, 12.0), "c": (20.0, 13.0)}, "most of all in a"),
        ({"a": (10.0, 12.0)}, ""),
        ({}, ""),
    ],
)
def test_the_sentence_names_a_module_that_changed_as_the_whole_did(
    layers: dict[str, tuple[float, float]], said: str, reports: list[Path]
) -> None:
    before, after = compare(reports).contenders
    text = sentence(before, after, changed(**layers))
    assert "as fast as before" in text
    assert (f", {said}." in text) if said else (" in " not in text)


def test_no_module_is_named_where_engines_cannot_be_told_apart(reports: list[Path], tmp_path: Path) -> None:
    same = tmp_path / "after.json"
    same.write_bytes(reports[0].read_bytes())
    before, after = compare([reports[0], same]).contenders
    after = msgspec.structs.replace(after, name="after")
    assert " in " not in sentence(before, after, changed(stem=(30.0, 10.0)))


def test_layers_of_engines_are_measured_and_mapped_to_modules(
    write_classifier: Callable[..., Path], tmp_path: Path
) -> None:
    model = write_classifier(tmp_path / "net.onnx", shape=(1, 3, 32, 32))
    engines = [
        edgekit.build(model, precision=precision, output=tmp_path / precision, profile=False)
        for precision in ("fp32", "int8")
    ]
    found = compare([*engines, model], **FAST, layers=True)
    assert {layer.contender for layer in found.layers} == {"int8"}
    measured = sum(layer.before_ms for layer in found.layers)
    assert 0 < measured and all(layer.before_ms >= 0 and layer.after_ms >= 0 for layer in found.layers)
    assert "The layers of net.onnx were not measured." in found.notes
    assert "not interleaved" in found.notes[1]
    assert compare([*engines], **FAST).layers == ()


def test_reports_with_layers_are_compared_by_their_modules(
    write_classifier: Callable[..., Path], tmp_path: Path
) -> None:
    model = write_classifier(tmp_path / "net.onnx", shape=(1, 3, 32, 32))
    files = []
    for precision in ("fp32", "int8"):
        engine = edgekit.build(model, precision=precision, output=tmp_path / precision, profile=False)
        report = profile_bundle(engine, runs=20, layers=True)
        files.append(tmp_path / f"{precision}.json")
        files[-1].write_bytes(json_from_report(report))
        sums = report.layer_times.sum_ms  # type: ignore[union-attr]
        every = module._changed_layers(contenders_from_paths([files[0], files[-1]]))
        assert sum(layer.after_ms for layer in every) == pytest.approx(sums), "no layer is left out"
    assert compare(files).layers


def test_error_on_an_estimate_among_reports(reports: list[Path], tmp_path: Path) -> None:
    estimate = tmp_path / "estimate.json"
    estimate.write_text(json.dumps({"measured": False, "reason": "no GPU"}))
    with pytest.raises(DataError, match="expected a measured latency, got an estimate: no GPU"):
        compare([reports[0], estimate])


def test_engines_that_cannot_be_told_apart_are_not_ranked(reports: list[Path], tmp_path: Path) -> None:
    same = tmp_path / "same.json"
    same.write_bytes(reports[0].read_bytes())
    found = compare([reports[0], same])
    assert "cannot be told apart" in found.sentences[0]
    assert sentence(found.contenders[0], found.contenders[1]) == found.sentences[0]


def test_inputs_are_matched_by_position_where_names_differ_and_keep_their_types(make_bundle: MakeBundle) -> None:
    kind = {"outputs": (TensorSpec("y", "float32", (1,)),), "task": "tensor"}
    full = make_bundle("full", kind=kind | {"inputs": (TensorSpec("x", "float32", (2, 3)),)})
    half = make_bundle("half", kind=kind | {"inputs": (TensorSpec("data", "float16", (2, 3)),)})
    a, b = same_feeds(contenders_from_paths([full, half]))
    assert (a["x"].dtype, b["data"].dtype) == (np.float32, np.float16)
    assert np.allclose(a["x"], b["data"], atol=1e-2)


def test_dynamic_sizes_are_those_that_all_take(make_bundle: MakeBundle) -> None:
    kind = {"outputs": (TensorSpec("y", "float32", (1,)),), "task": "tensor"}
    wide = make_bundle(
        "wide",
        kind=kind | {"inputs": (TensorSpec("x", "float32", (1, "w")),)},
        shapes={"x": ShapeRange((1, 8), (1, 16), (1, 64))},
    )
    fixed = make_bundle("fixed", kind=kind | {"inputs": (TensorSpec("x", "float32", (1, 32)),)})
    contenders = contenders_from_paths([wide, fixed])
    with pytest.raises(UsageError, match="fixed: expected an input of 1x16, as wide has"):
        same_feeds(contenders)
    assert same_feeds(contenders, {"x": (1, 32)})[0]["x"].shape == (1, 32)
    with pytest.raises(UsageError, match="has no input 'z'"):
        same_feeds(contenders, {"z": (1, 32)})


def test_error_on_too_few_and_on_what_cannot_be_compared(tmp_path: Path, detector: Path, arrays_engine: Path) -> None:
    with pytest.raises(UsageError, match="two or more"):
        compare([detector])
    with pytest.raises(UsageError, match="got nothing"):
        compare([detector, tmp_path / "nowhere"])
    with pytest.raises(UsageError, match="got a folder without an engine"):
        compare([detector, tmp_path])
    with pytest.raises(UsageError, match="expected an input of"):
        compare([detector, arrays_engine])
    (tmp_path / "other.json").write_text('{"a": 1}')
    with pytest.raises(DataError, match="expected a report of `edgekit profile"):
        compare([detector, tmp_path / "other.json"])
    with pytest.raises(UsageError, match="rounds: expected a whole number from 1 to"):
        compare([detector, detector], rounds=0)


def test_the_same_path_twice_gets_two_names(detector: Path) -> None:
    names = [each.name for each in contenders_from_paths([detector, detector])]
    assert len(set(names)) == 2
