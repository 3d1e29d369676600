from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from torch import nn

import edgekit
from edgekit import storage
from edgekit.engine.bundle.checks import read_bundle
from edgekit.engine.bundle.manifest import read_manifest
from edgekit.errors import BackendUnavailable, BuildError, CalibrationError, EdgeKitError, GraphError, UsageError
from edgekit.extras import install_command
from edgekit.measure import compare as side_by_side
from edgekit.measure.reports import build_report_from_bundle
from edgekit.progress import Advance, Silent
from edgekit.recipe.schema import Preprocess
from tests.decibels import signal_to_noise_db

torch.set_num_threads(2)

WriteClassifier = Callable[..., Path]
Arrays = Mapping[str, np.ndarray]


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


@pytest.fixture(autouse=True)
def _in_an_empty_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(side_by_side, "MEASURE_S", 0.1)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def classifier(tmp_path: Path, write_classifier: WriteClassifier) -> Path:
    return write_classifier(tmp_path / "classifier.onnx")


@pytest.fixture(scope="module", params=["cpu", "openvino"])
def target(request: pytest.FixtureRequest) -> str:
    if request.param == "openvino":
        pytest.importorskip("openvino")
    return str(request.param)


def write_arrays(folder: Path, count: int = 4, seed: int = 0) -> Path:
    """Inputs for the classifier."""
    folder.mkdir()
    for i in range(count):
        np.save(folder / f"{i}.npy", np.random.default_rng((seed, i)).random((1, 3, 32, 32), np.float32))
    return folder


def write_onnx(path: Path, text: str, **weights: np.ndarray) -> Path:
    """An ONNX file from ONNX's own text format."""
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]>\n{text}')
    for name, array in weights.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def normal(*shape: int) -> np.ndarray:
    return (np.random.default_rng(0).standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32)


def outputs_of(bundle: Path, inputs: list[Arrays]) -> list[dict[str, np.ndarray]]:
    with edgekit.load(bundle) as session:
        return [session.run(arrays) for arrays in inputs]


def reference_outputs(model: Path, inputs: list[Arrays]) -> list[dict[str, np.ndarray]]:
    """The outputs of ONNX Runtime for the user's own file."""
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return [dict(zip(names, session.run(names, dict(arrays)), strict=True)) for arrays in inputs]


def sqnr_db(expected: list[dict[str, np.ndarray]], got: list[dict[str, np.ndarray]], name: str) -> float:
    ratio = signal_to_noise_db([answer[name] for answer in expected], [answer[name] for answer in got])
    assert ratio is not None
    return ratio


def random_inputs(count: int, **shapes: tuple[int, ...]) -> list[Arrays]:
    random = np.random.default_rng(7)
    return [{name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}] * count


@pytest.fixture(scope="module")
def built(target: str, tmp_path_factory: pytest.TempPathFactory, write_classifier: WriteClassifier) -> Path:
    """A folder with ``classifier.onnx``, the ``arrays`` it was calibrated on, and the bundle ``out``."""
    folder = tmp_path_factory.mktemp(target)
    model, arrays = write_classifier(folder / "classifier.onnx"), write_arrays(folder / "arrays")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEKIT_CACHE", str(folder / "cache"))
        patch.setattr(side_by_side, "MEASURE_S", 0.1)
        place = edgekit.build(model, target=target, calib=arrays, output=folder / "out")
    assert place == folder / "out"
    return folder


def test_a_bundle_holds_what_it_says_and_nothing_else(built: Path, target: str) -> None:
    manifest = read_bundle(built / "out").manifest
    engine = {"cpu": {"engine.onnx"}, "openvino": {"engine.xml", "engine.bin"}}[target]
    assert set(manifest.files) == engine | {"graph.onnx", "calibration.json", "report.json", "report.html"}
    assert {path.name for path in (built / "out").iterdir()} == {*manifest.files, "manifest.json"}
    assert all(len(info.sha256) == 64 for info in manifest.files.values())
    assert (manifest.name, manifest.task, manifest.backend) == ("classifier", "tensor", target)
    assert manifest.layers["int8"] > 0
    assert manifest.calibration is not None and manifest.calibration.images == 4
    assert [str(spec) for spec in manifest.outputs] == ["y: float32 (1, 10)"]
    assert [path.name for path in built.iterdir() if path.name.startswith(".")] == []


def test_int8_is_close_to_float_and_the_report_says_how_close(built: Path) -> None:
    inputs: list[Arrays] = [{"x": np.load(file)} for file in sorted((built / "arrays").iterdir())]
    expected = reference_outputs(built / "classifier.onnx", inputs)
    measured = sqnr_db(expected, outputs_of(built / "out", inputs), "y")
    assert measured > 25
    report = build_report_from_bundle(built / "out")
    assert report is not None
    assert report.facts["sqnr_db"]["y"] == pytest.approx(measured, abs=0.5)
    assert list(report.engines) == ["fp32", "int8"]
    assert report.engines["fp32"].layers == {"float32": 4}
    assert report.size_ratio is not None and report.size_ratio > 1


def test_fp32_computes_what_the_file_computes(classifier: Path, target: str) -> None:
    place = edgekit.build(classifier, precision="fp32", target=target, profile=False)
    assert place == Path(f"engines/classifier-fp32-{target}")
    inputs = random_inputs(1, x=(1, 3, 32, 32))
    got, expected = outputs_of(place, inputs), reference_outputs(classifier, inputs)
    np.testing.assert_allclose(got[0]["y"], expected[0]["y"], rtol=1e-3, atol=1e-5)
    assert {path.name for path in place.iterdir()} >= {"manifest.json", "graph.onnx"}
    assert not (place / "report.json").exists()


def test_a_module_is_built() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.SiLU(), nn.Conv2d(16, 32, 3, stride=2), nn.ReLU(),
        nn.Conv2d(32, 32, 3), nn.Hardswish(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip
    place = edgekit.build(module, input={"": (2, 3, 32, 32)}, output="out")
    assert module.training
    manifest = read_manifest(place)
    assert (manifest.name, manifest.rebuild) == ("Sequential", "")
    x = np.random.default_rng(0).random((2, 3, 32, 32), np.float32)
    with torch.no_grad():
        expected = module.eval()(torch.from_numpy(x)).numpy()
    (got,) = outputs_of(place, [{"input": x}])[0].values()
    ratio = signal_to_noise_db([expected], [got])
    assert ratio is not None and ratio > 20


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
def test_a_transformer_multiplies_its_activations_in_integers(target: str) -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(64, nhead=4, dim_feedforward=128, batch_first=True)
    encoder = nn.TransformerEncoder(layer, num_layers=2).eval()
    place = edgekit.build(encoder, target=target, input={"src": (1, 16, 64)}, output="out")
    assert read_manifest(place).layers["int8"] >= 4
    x = np.random.default_rng(1).standard_normal((1, 16, 64)).astype(np.float32)
    with torch.no_grad():
        expected = encoder(torch.from_numpy(x)).numpy()
    (got,) = outputs_of(place, [{"src": x}])[0].values()
    ratio = signal_to_noise_db([expected], [got])
    assert ratio is not None and ratio > 25


def test_weights_in_a_file_beside_the_model_are_built_in(classifier: Path) -> None:
    Path("moved").mkdir()
    onnx.save(onnx.load(classifier), "moved/m.onnx", save_as_external_data=True, location="m.data", size_threshold=100)
    place = edgekit.build("moved/m.onnx", calib=write_arrays(Path("arrays")), profile=False)
    Path("moved/m.data").unlink()
    inputs = [{"x": np.load(file)} for file in sorted(Path("arrays").iterdir())]
    assert sqnr_db(reference_outputs(classifier, inputs), outputs_of(place, inputs), "y") > 25


def test_several_inputs_of_any_type_are_calibrated_on_what_is_given(target: str) -> None:
    text = """
    tagger (int64[N, length] ids, float[N, length, 16] features) => (float[N, length, 8] y) {
        e = Gather (table, ids)
        s = Add (e, features)
        h = MatMul (s, w1)
        r = Relu (h)
        k = MatMul (r, w2)
        t = Tanh (k)
        y = MatMul (t, w3)
    }"""
    weights = {"table": normal(50, 16), "w1": normal(16, 32), "w2": normal(32, 32), "w3": normal(32, 8)}
    model = write_onnx(Path("tagger.onnx"), text, **weights)
    random = np.random.default_rng(0)
    inputs: list[Arrays] = [
        {"ids": random.integers(0, 50, (1, 6)), "features": random.standard_normal((1, 6, 16)).astype(np.float32)}
        for _ in range(4)
    ]
    Path("samples").mkdir()
    for i, arrays in enumerate(inputs):
        np.savez(f"samples/{i}.npz", **arrays)  # type: ignore[arg-type]
    place = edgekit.build(model, target=target, input={"ids": (1, 6)}, calib="samples", output="out")
    manifest = read_manifest(place)
    assert [spec.shape for spec in manifest.inputs] == [(1, 6), (1, 6, 16)]
    assert manifest.layers["int8"] >= 2
    assert sqnr_db(reference_outputs(model, inputs), outputs_of(place, inputs), "y") > 25


def test_without_samples_a_model_that_takes_no_images_is_calibrated_on_random_numbers() -> None:
    model = write_onnx(
        Path("mlp.onnx"),
        "mlp (float[1, 16] x) => (float[1, 4] y) { h = MatMul (x, w1)\n r = Relu (h)\n y = MatMul (r, w2) }",
        w1=normal(16, 32),
        w2=normal(32, 4),
    )
    noted = Noted()
    place = edgekit.build(model, calib_images=3, profile=False, progress=noted)
    manifest = read_manifest(place)
    assert manifest.calibration is not None
    assert (manifest.calibration.set, manifest.calibration.images) == ("random numbers", 3)
    assert [note for note in manifest.notes if "3 random inputs" in note and "calib=DIR" in note]
    assert list(manifest.notes) == noted.notes


class Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self) -> None:
        self.left = [{"x": np.random.default_rng(i).random((1, 3, 32, 32), np.float32)} for i in range(4)]

    def get_next(self) -> dict[str, np.ndarray] | None:
        return self.left.pop() if self.left else None


def quantized_by_onnxruntime(model: Path, how: str) -> Path:
    path = model.with_name(f"{how}.onnx")
    if how == "dynamic":
        quantize_dynamic(model, path)
    else:
        style = QuantFormat.QOperator if how == "operators" else QuantFormat.QDQ
        more: dict[str, Any] = {}
        if how == "float weights":
            more = {"per_channel": True, "extra_options": {"AddQDQPairToWeight": True}}
        quantize_static(model, path, Reader(), quant_format=style, activation_type=QuantType.QUInt8, **more)
    return path


@pytest.mark.parametrize("how", ["qdq", "float weights", "operators", "dynamic"])
def test_a_quantized_model_is_built_and_not_quantized_again(classifier: Path, how: str) -> None:
    model = quantized_by_onnxruntime(classifier, how)
    noted = Noted()
    place = edgekit.build(model, output="out", progress=noted)
    manifest = read_manifest(place)
    assert manifest.layers == {"int8": 4}
    assert manifest.calibration is None and not (place / "calibration.json").exists()
    assert "calibrating" not in noted.stages and "quantizing" not in noted.stages
    assert [note for note in manifest.notes if "the model is already quantized and is built unchanged" in note]
    inputs = random_inputs(2, x=(1, 3, 32, 32))
    np.testing.assert_allclose(
        outputs_of(place, inputs)[0]["y"], reference_outputs(model, inputs)[0]["y"], rtol=0.1, atol=0.02
    )
    with pytest.raises(BuildError, match="4 of 4 layers in int8, expected float32") as caught:
        edgekit.build(model, precision="fp32", output="float")
    assert "build it with precision='int8'" in caught.value.hint


def test_an_edgekit_graph_is_recognized_as_quantized(built: Path, target: str) -> None:
    first = built / "out"
    again = edgekit.build(first / "graph.onnx", target=target, output="again", profile=False)
    inputs = random_inputs(1, x=(1, 3, 32, 32))
    np.testing.assert_array_equal(outputs_of(first, inputs)[0]["y"], outputs_of(again, inputs)[0]["y"])
    assert read_manifest(again).layers == read_manifest(first).layers


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("m (float[1, 8] x) => (float[1, 8] y) { y = Relu (x) }", "got none"),
        (
            "m (float[1, 8] x, bool c) => (float[1, 8] y)\n"
            "{ y = If (c) <then_branch = a () => (float[1, 8] p) { p = MatMul (x, w) },"
            " else_branch = b () => (float[1, 8] q) { q = Relu (x) }> }",
            "1 inside of If, Loop or Scan",
        ),
        ("m (float[1, 8, 2, 2] x) => (float[1, 8, 2, 2] y) { y = Conv (x, w) }", "the last layer before an output"),
    ],
)
def test_a_model_with_nothing_to_quantize_says_why_and_builds_in_float(text: str, why: str) -> None:
    sizes = (8, 8) if "MatMul" in text else (8, 8, 1, 1) if "Conv" in text else None
    model = write_onnx(Path("m.onnx"), text, **({"w": normal(*sizes)} if sizes else {}))
    target = "openvino" if "If" in why else "cpu"  # whose branches are quantized on cpu
    with pytest.raises(GraphError, match=f"nothing in the graph can be quantized: .*{why}") as caught:
        edgekit.build(model, target=target)
    assert "precision='fp32'" in caught.value.hint
    assert ("quantize_heads=True" in caught.value.hint) == ("last layer" in why)
    assert not Path("engines").exists()
    edgekit.build(model, precision="fp32", profile=False)


def test_outputs_whose_shape_depends_on_the_values_are_not_compared() -> None:
    text = """
    m (float[4, 32] x) => (int64[2, k] places, float[4, 8] y) {
        h = MatMul (x, w1)
        r = Relu (h)
        places = NonZero (r)
        y = MatMul (r, w2)
    }"""
    model = write_onnx(Path("m.onnx"), text, w1=normal(32, 16), w2=normal(16, 8))
    report = build_report_from_bundle(edgekit.build(model))
    assert report is not None
    assert list(report.facts["sqnr_db"]) == ["y"]


def test_a_second_build_reads_its_ranges_from_the_cache(classifier: Path) -> None:
    folder, first, second = write_arrays(Path("arrays")), Noted(), Noted()
    one = edgekit.build(classifier, calib=folder, output="one", profile=False, progress=first)
    two = edgekit.build(classifier, calib=folder, output="two", profile=False, progress=second)
    assert "calibrating" in first.stages
    assert "calibrating" not in second.stages and "calibration found in the cache" in second.stages
    assert (one / "calibration.json").read_bytes() == (two / "calibration.json").read_bytes()
    assert (one / "graph.onnx").read_bytes() == (two / "graph.onnx").read_bytes()
    assert read_manifest(one).calibration == read_manifest(two).calibration


@pytest.mark.parametrize(
    "change",
    [
        {"calib": "others"},
        {"calib_images": 3},
        {"calib_method": "percentile"},
        {"preprocess": Preprocess(mean=(0.5, 0.5, 0.5))},
        {"preprocess": {"mean": (0.5, 0.5, 0.5)}},
        {"shape": (64, 64)},
        {"model": "other.onnx"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_options_that_change_the_ranges_calibrate_again(
    write_classifier: WriteClassifier, change: dict[str, Any]
) -> None:
    write_classifier(Path("classifier.onnx"), shape=("N", 3, "h", "w"))
    write_classifier(Path("other.onnx"), shape=("N", 3, "h", "w"), seed=1)
    for seed, name in enumerate(("arrays", "others")):
        write_arrays(Path(name), seed=seed)
    pictures = {"shape", "preprocess"} & set(change)
    asked = {
        "model": "classifier.onnx", "target": "null", "shape": (32, 32), "calib": "sample" if pictures else "arrays"
    }  # fmt: skip
    edgekit.build(**asked, output="first", profile=False)
    noted = Noted()
    edgekit.build(**{**asked, **change}, output="second", profile=False, progress=noted)
    assert "calibrating" in noted.stages
    first, second = (json.loads(Path(name, "calibration.json").read_text()) for name in ("first", "second"))
    assert first["ranges"] != second["ranges"]


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(
    classifier: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "file"))
    assert read_bundle(edgekit.build(classifier, target="null", profile=False))


def test_a_build_over_an_engine_replaces_it_whole(classifier: Path) -> None:
    place = edgekit.build(classifier, output="out")
    with pytest.warns(edgekit.EdgeKitWarning, match=r"the engine at out .* was replaced by "):
        assert edgekit.build(classifier, precision="fp32", output="out", profile=False) == place
    assert read_bundle(place).manifest.layers == {"float32": 4}
    assert {path.name for path in place.iterdir()} == {"manifest.json", "engine.onnx", "graph.onnx"}


def test_the_rebuild_command_of_the_manifest_is_that_of_the_build(classifier: Path) -> None:
    place = edgekit.build(classifier, target="null", calib_images=2, keep_float=["c1"], profile=False)
    assert read_manifest(place).rebuild == (
        f"edgekit build {classifier} --int8 --target null --calib-images 2 --keep-float c1 --no-profile"
    )


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"precision": "int4"}, UsageError, "unknown precision 'int4': expected fp32, fp16, bf16 or int8"),
        ({"target": "cup"}, UsageError, "unknown target 'cup'"),
        ({"precision": "fp32", "calib_method": "mse"}, UsageError, "calib_method does not go with precision='fp32'"),
        ({"precision": "fp32", "keep_float": ["c1"]}, UsageError, "keep_float does not go with precision='fp32'"),
        ({"keep_float": ["nope*"]}, UsageError, r"'nope\*' matches no node"),
        ({"calib": "nowhere"}, UsageError, "calib='nowhere': expected a folder of images or arrays, a data set"),
        ({"calib_method": "kl"}, UsageError, "calib_method: expected 'minmax', 'percentile', 'entropy' or 'mse'"),
        ({"calib": "arrays", "calib_images": 0}, UsageError, "calib_images: expected a whole number from 1 to"),
        ({"calib": "."}, CalibrationError, "expected images"),
    ],
)
def test_a_wrong_option_is_named_before_anything_is_measured(
    classifier: Path, options: dict[str, Any], error: type[EdgeKitError], message: str
) -> None:
    Path("arrays").mkdir()
    noted = Noted()
    with pytest.raises(error, match=message):
        edgekit.build(classifier, progress=noted, **options)
    assert not {"calibrating", "measuring FP32"} & set(noted.stages)
    assert sorted(path.name for path in Path.cwd().iterdir()) == ["arrays", "classifier.onnx"]


def test_a_place_that_is_taken_is_refused_before_the_model_is_read(classifier: Path) -> None:
    Path("out").mkdir()
    Path("out/mine.txt").write_text("precious")
    noted = Noted()
    with pytest.raises(UsageError, match="is not empty and no engine"):
        edgekit.build(classifier, output="out", progress=noted)
    assert noted.stages == []
    assert Path("out/mine.txt").read_text() == "precious"


def test_too_little_room_is_an_error_before_the_engine_is_built(
    classifier: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "free_bytes", lambda place: 1000)
    noted = Noted()
    with pytest.raises(BuildError, match=r"/out: the disk is full; [\d,]+ bytes needed, 1,000 bytes free"):
        edgekit.build(classifier, output="out", progress=noted)
    assert noted.stages == ["reading classifier.onnx"]
    assert not Path("out").exists()


def test_a_target_that_is_not_installed_is_named_before_anything_else(
    classifier: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    noted = Noted()
    with pytest.raises(BackendUnavailable, match="needs the package 'openvino'") as caught:
        edgekit.build(classifier, target="openvino", progress=noted)
    assert caught.value.hint == install_command("openvino")
    assert noted.stages == []


def test_a_board_without_the_build_extra_says_how_to_get_it(classifier: Path) -> None:
    code = (
        "import sys\nsys.modules['onnx'] = None\nimport edgekit\n"
        "try:\n    edgekit.build(sys.argv[1], target='null')\n"
        "except edgekit.BackendUnavailable as e:\n    print(e.message, '|', e.hint)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(classifier)], capture_output=True, text=True, check=True,
        env={"PYTHONPATH": ":".join(sys.path)},
    )  # fmt: skip
    message, _, hint = done.stdout.strip().partition(" | ")
    assert "needs packages that are not installed" in message
    assert hint == install_command("build")


def test_a_detector_with_a_batch_is_built_and_measured_on_arrays() -> None:
    place = edgekit.build("yolov3-tiny", target="null", precision="fp32", shape=(2, 3, 64, 64))
    report = build_report_from_bundle(place)
    assert report is not None
    assert list(report.engines["fp32"].stages) == ["inference"]
    assert read_manifest(place).inputs[0].shape == (2, 3, 64, 64)
