"""Builds are refused or warned about where a stage parts from the model as it came."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import edgekit
from edgekit.arguments import on_command_line
from edgekit.engine.bundle.manifest import read_manifest
from edgekit.errors import AccuracyError, GraphError
from edgekit.measure import compare
from edgekit.measure.reports import build_report_from_bundle
from edgekit.pipeline import load_model, verify
from edgekit.pipeline.inputs import model_inputs
from edgekit.pipeline.reference import reference_outputs
from edgekit.pipeline.validate import build_config
from edgekit.progress import Silent
from edgekit.specs import Precision
from tests.decibels import signal_to_noise_db

RANDOM = np.random.default_rng(3)


@pytest.fixture(autouse=True)
def _in_an_empty_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(compare, "MEASURE_S", 0.05)
    monkeypatch.chdir(tmp_path)


def spoiled(optimize: Callable[[ir.Model], ir.Model]) -> Callable[[ir.Model], ir.Model]:
    """An optimization with a fault: it changes the second weight."""

    def run(graph: ir.Model) -> ir.Model:
        graph = optimize(graph)
        value = graph.graph.initializers["w1"]
        assert value.const_value is not None
        value.const_value = ir.tensor(value.const_value.numpy() * np.float32(1.05), name="w1")
        return graph

    return run


@pytest.fixture
def classifier(write_classifier: Callable[..., Path]) -> Path:
    return write_classifier(Path("classifier.onnx"))


def test_a_fault_of_our_own_passes_is_found_and_its_node_named(
    classifier: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load_model, "optimize", spoiled(load_model.optimize))
    with pytest.raises(AccuracyError) as caught:
        edgekit.build(classifier, precision="fp32", target="cpu")
    text = caught.value.message
    assert "of the optimized graph: expected a signal-to-noise ratio of at least 60 dB against ONNX Runtime" in text
    assert "the first value that differs is" in text and "of Conv" in text
    assert not Path("engines").exists() or not list(Path("engines").iterdir())


def test_allow_noise_builds_it_with_a_note(classifier: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_model, "optimize", spoiled(load_model.optimize))
    place = edgekit.build(classifier, precision="fp32", target="cpu", allow_noise=True, profile=False)
    manifest = read_manifest(place)
    assert any("optimized graph" in note for note in manifest.notes)
    assert manifest.verification is not None and manifest.verification.sqnr_db["optimized graph"] < 60


@pytest.mark.parametrize("profile", [True, False])
def test_every_stage_has_its_ratio_in_the_manifest(classifier: Path, profile: bool) -> None:
    place = edgekit.build(classifier, target="cpu", profile=profile)
    found = read_manifest(place).verification
    assert found is not None and found.reference == "ONNX Runtime on classifier.onnx" and found.inputs == 8
    stages = ["optimized graph", *(["FP32 engine for cpu"] if profile else []), "INT8 engine for cpu"]
    assert list(found.sqnr_db) == stages
    assert found.sqnr_db["optimized graph"] > 90 and 15 < found.sqnr_db["INT8 engine for cpu"] < 60
    report = build_report_from_bundle(place)
    assert (report is not None) is profile
    if report is not None:
        assert report.facts["verified_db"] == found.sqnr_db


def test_integer_outputs_have_their_agreement_in_the_manifest(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("ArgMax", ["h"], ["y"], axis=1)]
    weight = numpy_helper.from_array(RANDOM.standard_normal((8, 5)).astype(np.float32), "w")
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 8])],
        [helper.make_tensor_value_info("y", TensorProto.INT64, [4, 1])],
        [weight],
    )
    opset = helper.make_opsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), tmp_path / "m.onnx")
    found = read_manifest(
        edgekit.build(tmp_path / "m.onnx", precision="fp32", target="cpu", profile=False)
    ).verification
    assert found is not None and found.sqnr_db == {}
    assert found.agreement == {"optimized graph": 1.0, "FP32 engine for cpu": 1.0}


def test_a_wrong_engine_is_refused_with_its_first_node(classifier: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The backend computes another graph than it was given, as one with a faulty operator would."""
    from edgekit.pipeline import compile as compiling
    from edgekit.pipeline import values

    def faulty(save: Callable[..., None]) -> Callable[..., None]:
        def run(graph: ir.Model, path: Path) -> None:
            weight = graph.graph.initializers["w2"].const_value
            assert weight is not None
            graph.graph.initializers["w2"].const_value = ir.tensor(weight.numpy() * np.float32(1.1), name="w2")
            save(graph, path)
            graph.graph.initializers["w2"].const_value = weight

        return run

    monkeypatch.setattr(compiling, "save_graph", faulty(compiling.save_graph))
    monkeypatch.setattr(values, "save_graph", faulty(values.save_graph))
    with pytest.raises(AccuracyError, match="FP32 engine for cpu.*the first value that differs is.*of Conv"):
        edgekit.build(classifier, precision="fp32", target="cpu", profile=False)


def joined(path: Path) -> Path:
    """Boxes and scores in one output."""
    value = helper.make_tensor_value_info
    names = {"w": (8, 3, 3, 3), "w8": (8, 8, 3, 3), "wb": (4, 8, 1, 1), "ws": (2, 8, 1, 1)}
    arrays = {name: RANDOM.standard_normal(size).astype(np.float32) / 3 for name, size in names.items()}
    arrays["big"] = np.float32(3000)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], pads=[1] * 4, name="stem"),
        helper.make_node("Relu", ["a"], ["r0"]),
        helper.make_node("Conv", ["r0", "w8"], ["a2"], pads=[1] * 4, name="second"),
        helper.make_node("Relu", ["a2"], ["r"]),
        helper.make_node("Conv", ["r", "wb"], ["b"], name="boxes"),
        helper.make_node("Mul", ["b", "big"], ["bb"]),
        helper.make_node("Conv", ["r", "ws"], ["s"], name="scores"),
        helper.make_node("Concat", ["s", "bb"], ["y"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.FLOAT, [1, 3, 16, 16])],
        [value("y", TensorProto.FLOAT, [1, 6, 16, 16])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_the_worst_part_of_an_output_is_what_is_judged(tmp_path: Path) -> None:
    place = edgekit.build(joined(tmp_path / "joined.onnx"), target="cpu", profile=True)
    report = build_report_from_bundle(place)
    assert report is not None and report.accuracy is not None
    parts = {each.part: each.sqnr_db for each in report.accuracy.noise}
    assert set(parts) == {"0:2", "2:6"}
    worst = min(value for value in parts.values() if value is not None)
    assert report.facts["sqnr_db"]["y"] == pytest.approx(worst)


def test_random_weights_are_never_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {**verify.LIMITS, Precision.INT8: verify.Limits(190.0, 0.0, 195.0)}
    monkeypatch.setattr(verify, "LIMITS", limits)
    place = edgekit.build("lenet", target="cpu", calib_images=2, profile=False)
    assert any("INT8 engine for cpu" in note and "190 dB" in note for note in read_manifest(place).notes)


def random_convolutions(path: Path) -> Path:
    value = helper.make_tensor_value_info
    weights = [RANDOM.standard_normal((32, 3 if i == 0 else 32, 3, 3)).astype(np.float32) / 9 for i in range(4)]
    graph = helper.make_graph(
        [helper.make_node("Conv", [f"x{i}", f"w{i}"], [f"x{i + 1}"]) for i in range(4)],
        "g",
        [value("x0", TensorProto.FLOAT, [1, 3, 16, 16])],
        [value("x4", TensorProto.FLOAT, [1, 32, 8, 8])],
        [numpy_helper.from_array(array, f"w{i}") for i, array in enumerate(weights)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_random_weights_of_an_onnx_file_are_never_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = random_convolutions(tmp_path / "fresh.onnx")
    monkeypatch.setattr(verify, "LIMITS", {**verify.LIMITS, Precision.INT8: verify.Limits(190.0, 0.0, 195.0)})
    place = edgekit.build(path, target="cpu", calib_images=2, profile=False)
    assert any("190 dB" in note and "the weights are random" in note for note in read_manifest(place).notes)


def test_a_weak_engine_of_an_onnx_file_with_random_weights_says_why_it_is_no_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = random_convolutions(tmp_path / "fresh.onnx")
    monkeypatch.setattr(verify, "LIMITS", {**verify.LIMITS, Precision.INT8: verify.Limits(0.0, 0.0, 195.0)})
    place = edgekit.build(path, target="cpu", calib_images=2, profile=False)
    (note,) = [note for note in read_manifest(place).notes if "look like random numbers" in note]
    assert note.startswith("INT8 keeps ") and "of output 'x4'" in note and "keep_float" not in note


def test_a_weak_engine_names_the_noisiest_layers(classifier: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {**verify.LIMITS, Precision.INT8: verify.Limits(0.0, 0.0, 100.0)}
    monkeypatch.setattr(verify, "LIMITS", limits)
    with on_command_line():
        place = edgekit.build(classifier, target="cpu", profile=False)
    notes = [note for note in read_manifest(place).notes if "--keep-float" in note]
    assert len(notes) == 1 and "usually visible" in notes[0] and "Most of the noise comes from" in notes[0]


@pytest.mark.parametrize("spread", [0.002, 1.0])
def test_an_engine_with_few_integers_of_the_original_is_noted(spread: float, tmp_path: Path) -> None:
    value = helper.make_tensor_value_info
    columns = RANDOM.standard_normal((64, 1)) + spread * RANDOM.standard_normal((64, 32))  # close scores, or not
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["scores"]), helper.make_node("ArgMax", ["scores"], ["best"], axis=1)],
        "g",
        [value("x", TensorProto.FLOAT, [16, 64])],
        [value("best", TensorProto.INT64, [16, 1])],
        [numpy_helper.from_array(columns.astype(np.float32), "w")],
    )
    path = tmp_path / "best.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    feeds = [RANDOM.standard_normal((16, 64)).astype(np.float32) for _ in range(4)]
    place = edgekit.build(path, target="cpu", static=True, calib=feeds, profile=False)
    right = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    with edgekit.load(place) as engine:
        pairs = [(engine.run({"x": x})["best"], right.run(None, {"x": x})[0]) for x in feeds]
    share = np.mean([got == wanted for got, wanted in pairs])
    found = [note for note in read_manifest(place).notes if "of the integers of output 'best'" in note]
    assert (share < 0.5) == (spread < 1)
    if share < 0.5:
        assert len(found) == 1 and found[0].startswith(f"INT8 keeps {100 * share:.0f} % ")
    else:
        assert not found


def test_the_ratios_are_those_against_onnxruntime_on_the_file(classifier: Path) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(classifier, options, providers=["CPUExecutionProvider"])
    feeds = [{"x": RANDOM.random((1, 3, 32, 32)).astype(np.float32)} for _ in range(8)]
    Path("calib").mkdir()
    for i, feed in enumerate(feeds):
        np.savez(f"calib/{i}.npz", allow_pickle=False, **feed)
    place = edgekit.build(classifier, target="cpu", calib="calib", profile=False)
    with edgekit.load(place) as engine:
        got = [engine.run(feed)["y"] for feed in feeds]
    measured = signal_to_noise_db([session.run(None, feed)[0] for feed in feeds], got)
    found = read_manifest(place).verification
    assert found is not None and found.sqnr_db["INT8 engine for cpu"] == pytest.approx(measured, abs=0.1)


@pytest.mark.parametrize(("operator", "others"), [("RandomNormalLike", []), ("Dropout", ["ratio", "training"])])
def test_a_graph_that_draws_random_numbers_is_built_and_not_compared(
    operator: str, others: list[str], tmp_path: Path
) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv"),
        helper.make_node(operator, ["c", *others], ["r"], name="draws"),
        helper.make_node("Add", ["c", "r"], ["y"], name="add"),
    ]
    value = helper.make_tensor_value_info
    constants = {
        "w": RANDOM.standard_normal((4, 3, 1, 1)).astype(np.float32),
        "ratio": np.float32(0.5),
        "training": np.bool_(True),
    }
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [value("y", TensorProto.FLOAT, [1, 4, 8, 8])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    path = tmp_path / "random.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    place = edgekit.build(path, precision="fp32", target="cpu", profile=False)
    assert any(f"node 'draws' ({operator}) draws random numbers" in note for note in read_manifest(place).notes)
    session = edgekit.load(place)
    x = RANDOM.standard_normal((1, 3, 8, 8)).astype(np.float32)
    first, second = session.run({"x": x})["y"], session.run({"x": x})["y"]
    assert first.shape == (1, 4, 8, 8) and not np.array_equal(first, second)


@pytest.mark.parametrize(
    ("body", "what"),
    [
        ("z = Sub (x, x)  y = Log (z)", "has no number but NaN and infinities"),
        ("z = Sub (x, x)  y = Relu (z)", "is zero"),
        ("z = Add (x, x)  y = Relu (z)", ""),
    ],
)
def test_an_output_that_shows_nothing_is_noted(body: str, what: str, tmp_path: Path) -> None:
    text = f"""<ir_version: 8, opset_import: ["" : 17]> g (float[1, 8] x) => (float[1, 8] y) {{ {body} }}"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "g.onnx")
    place = edgekit.build(tmp_path / "g.onnx", precision="fp32", target="cpu", profile=False, progress=False)
    notes = [note for note in read_manifest(place).notes if "was not shown" in note]
    assert bool(notes) == bool(what) and all(f"output 'y' of ONNX Runtime on g.onnx {what}" in note for note in notes)


def test_a_graph_that_cannot_run_says_what_it_was_given(tmp_path: Path) -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    picky (float[1, n] x) => (float[1, 3] y) <int64[2] shape = {1, 3}> { y = Reshape (x, shape) }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "picky.onnx")
    with pytest.raises(GraphError) as caught:
        edgekit.build(tmp_path / "picky.onnx", precision="fp32", target="cpu", input={"x": (1, 4)})
    assert "x: float32 (1, 4)" in caught.value.hint and "input" in caught.value.hint


def test_where_a_graph_parts_from_its_module_is_found() -> None:
    """The module has to be there still, when an error is explained."""
    module = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    config = build_config(model=module, input={"x": (1, 4)}, precision="fp32", target="cpu")
    model = load_model.load_model(config.model, Silent())
    inputs = model_inputs(model, config.calibration, config.target, Silent())
    reference = reference_outputs(model, inputs, Silent())
    weight = next(value for name, value in model.graph.graph.initializers.items() if name == "0.weight")
    assert weight.const_value is not None
    weight.const_value = ir.tensor(weight.const_value.numpy() * np.float32(1.1), name=weight.name)
    checked = verify.Verifier(model=model, inputs=inputs, reference=reference, target=config.target, progress=Silent())
    with pytest.raises(AccuracyError, match="against PyTorch.*the first value that differs is '0'"):
        checked.verify_graph()
    model.original.close()


def logistic_map(steps: int) -> Path:
    """``x = 4 x (1 - x)`` again and again, which doubles a small difference in each step; and ``z = 3 x``."""
    lines = ["s0 = Sigmoid(x)"]
    for step in range(steps):
        lines += [
            f"a{step} = Mul(s{step}, four)",
            f"b{step} = Sub(one, s{step})",
            f"s{step + 1} = Mul(a{step}, b{step})",
        ]
    lines += [f"y = Identity(s{steps})", "z = Mul(x, three)"]
    graph = onnx.parser.parse_graph(f"g (float[1, 64] x) => (float[1, 64] y, float[1, 64] z) {{ {' '.join(lines)} }}")
    for name, number in (("four", 4), ("one", 1), ("three", 3)):
        graph.initializer.append(numpy_helper.from_array(np.array(number, np.float32), name))
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), "map.onnx")
    return Path("map.onnx")


def with_another_rounding(optimize: Callable[[ir.Model], ir.Model]) -> Callable[[ir.Model], ir.Model]:
    """An optimization that is right: it changes the last bit of a number that is computed."""

    def run(graph: ir.Model) -> ir.Model:
        graph = optimize(graph)
        value = graph.graph.initializers["four"]
        value.const_value = ir.tensor(np.nextafter(np.float32(4), np.float32(0)), name="four")
        return graph

    return run


def test_a_model_that_amplifies_rounding_is_built_with_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_model, "optimize", with_another_rounding(load_model.optimize))
    manifest = read_manifest(edgekit.build(logistic_map(30), precision="fp32", target="cpu", profile=False))
    assert manifest.verification is not None and manifest.verification.sqnr_db["optimized graph"] < 60
    (note,) = [note for note in manifest.notes if "optimized graph" in note]
    assert "change by the rounding of float32" in note and "calib" in note


def test_the_same_rounding_is_no_note_where_it_stays_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_model, "optimize", with_another_rounding(load_model.optimize))
    manifest = read_manifest(edgekit.build(logistic_map(3), precision="fp32", target="cpu", profile=False))
    assert not [note for note in manifest.notes if "optimized graph" in note]


@pytest.mark.parametrize(("steps", "constant", "wrong"), [(12, "one", 0.99), (30, "three", 3.01)])
def test_a_fault_is_refused_where_rounding_is_amplified_less(
    monkeypatch: pytest.MonkeyPatch, steps: int, constant: str, wrong: float
) -> None:
    """After few steps; and in another output than the one that amplifies."""

    def run(graph: ir.Model) -> ir.Model:
        graph = optimize(graph)
        graph.graph.initializers[constant].const_value = ir.tensor(np.float32(wrong), name=constant)
        graph.graph.initializers["four"].const_value = ir.tensor(
            np.nextafter(np.float32(4), np.float32(0)), name="four"
        )
        return graph

    optimize = load_model.optimize
    monkeypatch.setattr(load_model, "optimize", run)
    with pytest.raises(AccuracyError, match="of the optimized graph"):
        edgekit.build(logistic_map(steps), precision="fp32", target="cpu", profile=False)
