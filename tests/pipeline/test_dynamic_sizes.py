"""Dynamic sizes of any dimension: engines are correct at the min and max of their ranges."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import edgekit
from edgekit.engine.bundle.manifest import read_manifest
from edgekit.errors import AccuracyError, CalibrationError, GraphError, RunError, UsageError
from edgekit.graph import sizes as graph_sizes
from edgekit.graph.evaluator import Evaluator
from edgekit.graph.export.module import graph_from_module
from edgekit.graph.file import save_graph
from edgekit.graph.load.onnx_file import graph_from_onnx
from edgekit.measure.inspection import inspection_from_bundle
from edgekit.pipeline import verify
from edgekit.pipeline.compile_bundle import compile_bundle
from edgekit.quantize.compare import OutputNoise, noise_of_outputs
from edgekit.serving.triton import export_triton
from edgekit.specs import ShapeRange, TensorSpec

SIDES = (8, 16, 24)
IMAGE = ShapeRange((1, 3, 8, 8), (1, 3, 16, 16), (1, 3, 24, 24))


@pytest.fixture(autouse=True)
def _in_an_empty_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


class Pixels(nn.Module):
    """A stride, a sum, a slope and a table of pixels, which an engine could plan for one size only."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 8, 3, padding=1, stride=2)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.last = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.leaky_relu(self.first(x), 0.1)
        x = x + nn.functional.leaky_relu(self.second(x), 0.1)
        return self.last(x.flatten(2).transpose(1, 2))


class Words(nn.Module):
    """One Transformer layer over ``ids`` with ``mask``; positions are a table of 12."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(2, 16)
        self.positions = nn.Parameter(torch.randn(12, 16))
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.layer(
            self.embedding(ids) + self.positions[: ids.shape[1]], src_key_padding_mask=mask == 0
        )
        return found


class Folded(nn.Module):
    """Takes a single width only."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(x.shape[0], 24)


@pytest.fixture(scope="module")
def pixels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "pixels.onnx"
    save_graph(graph_from_module(Pixels().eval(), [TensorSpec("x", "float32", (1, 3, "h", "w"))], ["y"]), path)
    return path


def build(model: object, **options: object) -> Path:
    given = {"target": "cpu", "precision": "fp32", "profile": False, **options}
    return edgekit.build(model, **given)  # type: ignore[arg-type]


def random_feeds(bundle: Path, which: str) -> dict[str, np.ndarray]:
    manifest, random = read_manifest(bundle), np.random.default_rng(0)
    feeds = {}
    for spec in manifest.inputs:
        shape = getattr(manifest.shapes[spec.name], which)
        numbers = random.random(shape) if spec.dtype == "float32" else np.ones(shape)
        feeds[spec.name] = numbers.astype(spec.dtype)
    return feeds


def relative_error(got: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> float:
    (a,), (b,) = got.values(), expected.values()
    assert a.shape == b.shape
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


@pytest.mark.parametrize(
    ("target", "precision", "allowed"),
    [("cpu", "fp32", 1e-5), ("cpu", "int8", 0.05), ("openvino", "fp32", 1e-5), ("openvino", "int8", 0.05)],
)
def test_an_engine_is_correct_at_the_min_and_max_of_its_range(
    pixels: Path, target: str, precision: str, allowed: float
) -> None:
    if target == "openvino":
        pytest.importorskip("openvino")
    bundle = build(pixels, target=target, precision=precision, input={"": (1, 3, SIDES, SIDES)})
    manifest = read_manifest(bundle)
    assert manifest.shapes == {"x": IMAGE}
    assert manifest.inputs == (TensorSpec("x", "float32", (1, 3, "h", "w")),)
    assert "--input 1x3x8:16:24x8:16:24" in manifest.rebuild
    if target == "openvino":  # which plans memory by it
        assert 'shape="1,3,8..24,8..24"' in (bundle / manifest.engine).read_text()
    reference = Evaluator(graph_from_onnx(pixels))
    with edgekit.load(bundle) as session:
        for which in ("min", "opt", "max"):
            feeds = random_feeds(bundle, which)
            assert relative_error(session.run(feeds), reference.run(feeds)) < allowed, which


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_tensorrt_rtx_gets_the_range_as_its_profile(pixels: Path, precision: str) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    sizes = {"x": (1, 3, SIDES, SIDES)}
    bundle = build(pixels, target="tensorrt-rtx", precision=precision, input=sizes)
    manifest = read_manifest(bundle)
    assert manifest.shapes == {"x": IMAGE}
    assert manifest.engine == "engine.plan"
    assert manifest.layers.get({"fp16": "float16", "int8": "int8"}[precision])


def test_a_graph_only_bundle_keeps_its_ranges(pixels: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    planned = build(pixels, target="tensorrt", precision="fp16", graph_only=True, shape=(SIDES, SIDES))
    assert read_manifest(planned).shapes == {"x": IMAGE}
    compiled = compile_bundle(planned, target="tensorrt-rtx", output="compiled")
    assert read_manifest(compiled).shapes == {"x": IMAGE}
    model = export_triton(compiled, Path("models"))
    assert "dims: [ 1, 3, -1, -1 ]" in (model.path / "config.pbtxt").read_text()


def test_dimensions_that_a_module_needs_equal_become_one() -> None:
    module, sizes = Words().eval(), (1, (2, 5, 12))
    bundle = build(module, input={"ids:int64": sizes, "mask:int64": sizes}, batch=(1, 2, 3))
    manifest = read_manifest(bundle)
    assert [spec.shape for spec in manifest.inputs] == [("batch", "ids_1"), ("batch", "ids_1")]
    assert set(map(str, manifest.shapes["mask"].sizes)) == {"1:2:3", "2:5:12"}
    with edgekit.load(bundle) as session:
        for which in ("min", "opt", "max"):
            feeds = random_feeds(bundle, which)
            with torch.no_grad():
                expected = module(*map(torch.from_numpy, feeds.values())).numpy()
            assert relative_error(session.run(feeds), {"": expected}) < 1e-4, which


class Lengths(nn.Module):
    """Means of two inputs of independent lengths."""

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return left.mean(0), right.mean(0)


def test_independent_dimensions_have_separate_ranges() -> None:
    bundle = build(Lengths(), input={"left": ((2, 5, 12), 4), "right": ((3, 5, 9), 4)})
    assert [spec.shape for spec in read_manifest(bundle).inputs] == [("left_0", 4), ("right_0", 4)]
    left, right = np.ones((2, 4), np.float32), np.ones((9, 4), np.float32)
    with edgekit.load(bundle) as session:
        for mean in session.run({"left": left, "right": right}).values():
            np.testing.assert_array_equal(mean, 1)


@pytest.mark.parametrize("target", ["cpu", pytest.param("openvino", marks=pytest.mark.slow)])
def test_error_on_two_sizes_of_one_dimension(target: str) -> None:
    if target == "openvino":  # which forgets the names of dimensions
        pytest.importorskip("openvino")
    bundle = build(Words().eval(), target=target, input={"ids:int64": (1, (2, 5, 9)), "mask:int64": (1, (2, 5, 9))})
    with (
        edgekit.load(bundle) as session,
        pytest.raises(RunError, match=r"got \(1, 8\): 'ids_1' is 9 in another input"),
    ):
        session.run({"ids": np.ones((1, 9), np.int64), "mask": np.ones((1, 8), np.int64)})


@pytest.mark.parametrize(
    ("module", "sizes", "message"),
    [
        (
            Folded(),
            {"x": (1, 3, (4, 8, 16))},
            r"input x: .*: expected a fixed size for dimension 2, because Folded accepts only 8, got",
        ),
        pytest.param(
            Words(),
            {"ids:int64": (1, (2, 5, 16)), "mask:int64": (1, (2, 5, 16))},
            r"does not accept the min or max shape .*\(1, 16\)",
            marks=pytest.mark.slow,
        ),
        (Words(), {"ids:int64": (1, (2, 5, 8)), "mask:int64": (1, (2, 5, 9))}, "one range .*, got 2:5:9 and 2:5:8"),
    ],
)
def test_error_on_a_range_that_the_module_does_not_take(
    module: nn.Module, sizes: dict[str, tuple[object, ...]], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        build(module.eval(), input=sizes)


def test_error_on_a_min_or_max_that_the_graph_does_not_take(tmp_path: Path) -> None:
    text = (
        '<ir_version: 10, opset_import: ["" : 20]> g (float[1, w] x) => (float[2, 4] y) '
        "<int64[2] shape = {2, 4}> { y = Reshape (x, shape) }"
    )
    onnx.save(onnx.parser.parse_model(text), tmp_path / "m.onnx")
    with pytest.raises(GraphError) as caught:
        build(tmp_path / "m.onnx", input={"x": (1, (8, 8, 16))})
    assert "x: float32 (1, 16)" in caught.value.hint


@pytest.fixture
def noise_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, float], None]:
    """Sets the signal-to-noise ratio of the INT8 engine of `Pixels` at inputs of one side, in dB."""
    found: dict[int, float] = {}

    def noise(
        reference: list[dict[str, np.ndarray]], got: list[dict[str, np.ndarray]], forms: object = None
    ) -> tuple[OutputNoise, ...]:
        judged = noise_of_outputs(reference, got)
        if min(each.sqnr_db or 0.0 for each in judged) > 60:
            return judged  # of the graph and the FP32 engine
        ((name, array),) = reference[0].items()
        return (OutputNoise(output=name, sqnr_db=found.get(2 * round(array.shape[1] ** 0.5), 30.0)),)

    monkeypatch.setattr(verify, "noise_of_outputs", noise)
    return found.__setitem__


def test_error_on_an_output_that_is_lost_in_noise_at_the_max(
    pixels: Path, noise_at: Callable[[int, float], None]
) -> None:
    noise_at(24, -1.0)
    with pytest.raises(AccuracyError, match=r"given x: float32 \(1, 3, 24, 24\) is lost in noise: .* at least 0 dB"):
        build(pixels, precision="int8", shape=(SIDES, SIDES), profile=True)


def test_an_snr_near_0_db_at_the_min_or_max_is_noted_and_a_worse_one_is_an_error(
    pixels: Path, noise_at: Callable[[int, float], None]
) -> None:
    noise_at(16, 2.0)
    noise_at(8, -7.9)
    bundle = build(pixels, precision="int8", shape=(SIDES, SIDES), profile=True)
    assert any("(1, 3, 8, 8): -7.9 dB at 'y', which is lost" in note for note in read_manifest(bundle).notes)
    noise_at(8, -8.1)
    with pytest.raises(AccuracyError, match="at least -8 dB"):
        build(pixels, precision="int8", shape=(SIDES, SIDES), profile=True)


def test_checks_at_an_expensive_max_are_skipped_with_a_note(pixels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_sizes, "CHEAP_MACS", 1)
    notes = read_manifest(build(pixels, shape=(SIDES, SIDES))).notes
    assert any("too expensive for numerical checks" in note and "x: float32 (1, 3, 24, 24)" in note for note in notes)


@pytest.mark.parametrize(
    ("shape", "wanted"),
    [((1, 3, 7, 8), "a range with 7"), ((1, 3, 8, 25), "a range with 25"), ((2, 3, 8, 8), "another shape")],
)
def test_error_on_an_input_out_of_range(pixels: Path, shape: tuple[int, ...], wanted: str) -> None:
    bundle = build(pixels, shape=(SIDES, SIDES), target="null")
    with edgekit.load(bundle) as session:
        with pytest.raises(RunError) as caught:
            session.run({"x": np.zeros(shape, np.float32)})
        assert caught.value.message == (
            f"input 'x': expected float32 (1, 3, 8:16:24, 8:16:24), got ({', '.join(map(str, shape))})"
        )
        command = "the command of this one, in a shell, was edgekit build "
        assert caught.value.hint.startswith(f"build an engine for {wanted}; {command}")


def test_an_image_is_resized_to_the_opt_size(pixels: Path) -> None:
    bundle = build(pixels, shape=(SIDES, (8, 20, 24)), target="null")
    with edgekit.load(bundle) as session:
        feeds, _ = session.preprocess(np.zeros((50, 60, 3), np.uint8))
    assert feeds["x"].shape == (1, 3, 16, 20)


def test_arrays_of_any_size_in_the_range_calibrate(pixels: Path, tmp_path: Path) -> None:
    samples = tmp_path / "arrays"
    samples.mkdir()
    for side in (8, 17, 24):
        np.save(samples / f"{side}.npy", np.random.default_rng(0).random((1, 3, side, 9), np.float32))
    bundle = build(pixels, precision="int8", shape=(SIDES, SIDES), calib=samples)
    calibration = read_manifest(bundle).calibration
    assert calibration is not None and calibration.images == 3
    np.save(samples / "a.npy", np.zeros((1, 3, 8, 25), np.float32))
    with pytest.raises(
        CalibrationError, match=r"expected x: float32 \(1, 3, 8:16:24, 8:16:24\), got float32 \(1, 3, 8, 25"
    ) as e:
        build(pixels, precision="int8", shape=(SIDES, SIDES), calib=samples)
    assert "input={'x': (1, 3, 8, 25)}" in str(e.value.hint)


def test_layers_are_counted_at_the_opt_size(pixels: Path) -> None:
    bundle = build(pixels, shape=(SIDES, SIDES), target="null")
    found = inspection_from_bundle(bundle)
    assert found.assumed_sizes == {"h": 16, "w": 16}
    assert found.macs == 64 * (8 * 27 + 8 * 72 + 8 * 4)


def test_weights_in_a_file_of_their_own_may_be_cut_to_the_size_of_an_input(tmp_path: Path) -> None:
    text = (
        '<ir_version: 10, opset_import: ["" : 20]> g (float[1, length, 32] x) => (float[1, n, 32] y) '
        "<int64[1] zero = {0}, int64[1] one = {1}, int64[1] axis = {0}, int64[3] folded = {1, -1, 32}> {"
        " shape = Shape (x) size = Slice (shape, one, two, axis) rows = Slice (table, zero, size, axis)"
        " cut = Reshape (rows, folded) y = Add (x, cut) }"
    )
    model = onnx.parser.parse_model(text)
    table = np.random.default_rng(0).random((64, 32), np.float32)
    for array, name in ((table, "table"), (np.array([2]), "two")):
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    path = tmp_path / "m.onnx"
    onnx.save(model, path, save_as_external_data=True, size_threshold=1024)
    with edgekit.load(build(path, input={"x": (1, (1, 8, 64), 32)})) as session:
        zeros = np.zeros((1, 5, 32), np.float32)
        np.testing.assert_array_equal(session.run({"x": zeros})["y"][0], table[:5])


@pytest.mark.parametrize("name", ["yolov3-tiny", "yolov1"])
def test_error_on_a_detector_of_any_size(name: str) -> None:
    with pytest.raises(
        UsageError, match=f"shape: {name} expects one height and one width, .* got 320:416:640x416"
    ) as e:
        build(name, shape=((320, 416, 640), 416))
    assert "shape=(416, 416)" in e.value.hint
