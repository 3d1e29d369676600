from __future__ import annotations

import functools
import gc
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image

import edgekit
from edgekit.engine.bundle.manifest import FORMAT, Manifest, Source, this_machine
from edgekit.engine.bundle.writing import seal, write_bundle
from edgekit.measure.conditions import Conditions, Snapshot
from edgekit.measure.confidence import percentile_bounds
from edgekit.measure.latency import disturbances, statistics_ms
from edgekit.measure.machine import this_machine as measured_machine
from edgekit.measure.reports import LatencyReport, Memory
from edgekit.measure.steady import steady_state
from edgekit.recipe.heads import YoloHead, YoloV3
from edgekit.recipe.schema import Postprocess, Preprocess
from edgekit.specs import Precision, TensorSpec

STANDIN = Path(__file__).parent / "kernels" / "standin"
HOST_FLAGS = ("-std=c++17", "-O2", "-ffp-contract=off", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror")

MakeBundle = Callable[..., Path]
WriteVideo = Callable[..., Path]
MakeReport = Callable[..., LatencyReport]
WriteClassifier = Callable[..., Path]

CLASSIFIER = """
<ir_version: 8, opset_import: ["" : {opset}]>
classifier (float[{shape}] x) => (float[{batch}, 10] y) {{
    c0 = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (x, w0, b0)
    r0 = Relu (c0)
    c1 = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (r0, w1, b1)
    r1 = Relu (c1)
    c2 = Conv <pads = [1, 1, 1, 1]> (r1, w2, b2)
    r2 = Relu (c2)
    p = GlobalAveragePool (r2)
    f = Flatten (p)
    y = Gemm <transB = 1> (f, w3, b3)
}}
"""

INPUT = TensorSpec("images", "float32", (1, 3, 64, 64))
HEAD = TensorSpec("head", "float32", (1, 21, 2, 2))
DETECTOR = {
    "task": "detect",
    "inputs": (INPUT,),
    "outputs": (HEAD,),
    "preprocess": Preprocess(resize="letterbox"),
    "postprocess": Postprocess(
        head=YoloV3(
            heads=(YoloHead(output="head", stride=32, anchors=((10.0, 14.0), (23.0, 27.0), (37.0, 58.0))),),
        ),
    ),
    "labels": ("cat", "dog"),
}
TENSOR = {
    "task": "tensor",
    "inputs": (TensorSpec("x", "float32", (2, 8)),),
    "outputs": (TensorSpec("y", "float32", (2, 4)),),
}


def pytest_configure(config: pytest.Config) -> None:
    """Gives each of several test processes a core of its own: engines that share cores spin and wait for each other."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    if worker and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})


def pytest_collection_finish() -> None:
    """Keeps thousands of collected tests, and what their modules import, out of each collection of garbage."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def _small_collections() -> None:
    """Keeps what earlier files of tests have imported out of them too: with PyTorch, one takes a tenth of a second."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Gives SIGINT its default effect on this process and on those that it starts.

    A test runner that a shell has started in the background ignores SIGINT, and its children inherit that.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def make_bundle(tmp_path: Path) -> MakeBundle:
    """Writes a bundle of the null backend, which returns zeros: a detector scores 0.25 everywhere."""

    def make(name: str = "engine", *, kind: dict[str, Any] = DETECTOR, **changes: Any) -> Path:
        what = kind | changes
        with write_bundle(tmp_path / name) as folder:
            specs = {"inputs": what["inputs"], "outputs": what["outputs"]}
            (folder / "engine.json").write_bytes(msgspec.json.encode(specs))
            manifest = Manifest(
                format=FORMAT,
                edgekit=edgekit.__version__,
                created="2026-01-01T00:00:00+00:00",
                backend="null",
                backend_version=edgekit.__version__,
                precision=Precision.FP32,
                layers={"float32": 1},
                engine="engine.json",
                machine=this_machine(),
                source=Source(kind="module", name="tests:module"),
                build_command="edgekit build tests:module --target null",
                **({"name": name} | what),
            )
            seal(folder, manifest)
        return tmp_path / name

    return make


@pytest.fixture
def detector(make_bundle: MakeBundle) -> Path:
    """A detector's bundle with a note."""
    return make_bundle("detector", notes=("The weights are random: latency is real, detections are not.",))


@pytest.fixture
def arrays_engine(make_bundle: MakeBundle) -> Path:
    """The bundle of an engine that takes arrays and no images."""
    return make_bundle("arrays", kind=TENSOR)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """An image of 100 x 60 px."""
    pixels = np.random.default_rng(0).integers(0, 256, (60, 100, 3), dtype=np.uint8)
    path = tmp_path / "picture.png"
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def write_video(tmp_path: Path) -> WriteVideo:
    """Writes a video with PyAV: frame ``i`` is gray, of brightness ``10 * i``; with ``sound``, also a tone in AAC."""
    av = pytest.importorskip("av")

    def write(
        name: str = "video.mp4",
        *,
        frames: int = 10,
        rate: int = 10,
        size: tuple[int, int] = (64, 48),
        codec: str = "libx264",
        sound: bool = False,
        rotation: int = 0,
        ticks: list[int] | None = None,
    ) -> Path:
        path = tmp_path / name
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=rate)
            stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
            if rotation:
                stream.set_display_rotation(rotation)
            tone = container.add_stream("aac", rate=44100, layout="mono") if sound else None
            for index in range(frames):
                frame = av.VideoFrame.from_ndarray(np.full((size[1], size[0], 3), 10 * index % 256, np.uint8), "rgb24")
                frame.pts, frame.time_base = (ticks or range(frames))[index], Fraction(1, rate)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
            if tone is not None:
                samples = np.sin(np.arange(44100 * frames // rate) / 16, dtype=np.float32)[None]
                wave = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
                wave.sample_rate, wave.pts, wave.time_base = 44100, 0, Fraction(1, 44100)
                container.mux(tone.encode(wave))
                container.mux(tone.encode(None))
        return path

    return write


@pytest.fixture(scope="session")
def write_classifier() -> WriteClassifier:
    """Writes a small ONNX classifier: three convolutions, of which the first reads 3 channels, and a Gemm."""
    import onnx

    def write(
        path: Path,
        *,
        shape: tuple[int | str, ...] = (1, 3, 32, 32),
        opset: int = 17,
        seed: int = 0,
        **weights: np.ndarray,
    ) -> Path:
        random = np.random.default_rng(seed)
        sizes = [(16, shape[1], 3, 3), (32, 16, 3, 3), (32, 32, 3, 3), (10, 32)]
        arrays: dict[str, np.ndarray] = {}
        for i, size in enumerate(sizes):
            arrays[f"w{i}"] = random.normal(0, 1 / np.sqrt(np.prod(size[1:])), size).astype(np.float32)
            arrays[f"b{i}"] = random.normal(0, 0.1, size[0]).astype(np.float32)
        text = CLASSIFIER.format(opset=opset, shape=", ".join(map(str, shape)), batch=shape[0])
        model = onnx.parser.parse_model(text)
        for name, array in (arrays | weights).items():
            model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
        onnx.checker.check_model(model)
        onnx.save(model, path)
        return path

    return write


@pytest.fixture
def make_report() -> MakeReport:
    """A report of made-up runs around ``base_ms``."""

    def make(precision: str = "int8", *, base_ms: float = 25.0, runs: int = 200, **changes: object) -> LatencyReport:
        random = np.random.default_rng(0)
        samples = {
            "preprocess": (4 + 0.1 * random.random(runs)).tolist(),
            "inference": (base_ms * (1 + 0.01 * random.gamma(2, 1, runs))).tolist(),
            "postprocess": (0.8 + 0.05 * random.random(runs)).tolist(),
        }
        fields = {
            "name": "tiny",
            "task": "detect",
            "precision": precision,
            "layers": {"int8": 11, "float32": 2},
            "backend": "cpu",
            "backend_version": "1.2.3",
            "edgekit": "0.1.0",
            "created": "2026-01-02T03:04:05+00:00",
            "inputs": (TensorSpec("images", "float32", (1, 3, 416, 416)),),
            "input_source": "dog.jpg, 768 x 576 px",
            "runs": runs,
            "warmup": 10,
            "threads": 0,
            "latency_ms": statistics_ms(samples["inference"]),
            "total_ms": statistics_ms([sum(row) for row in zip(*samples.values(), strict=True)]),
            "stages": {stage: statistics_ms(values) for stage, values in samples.items()},
            "samples_ms": samples,
            "throughput_per_s": 1000 / base_ms,
            "engine_bytes": int(base_ms * 1e6),
            "memory": Memory(peak_bytes=300_000_000, engine_bytes=60_000_000),
            "machine": measured_machine(),
            "disturbances": disturbances(samples["inference"]),
            "percentiles": {
                **{stage: percentile_bounds(values) for stage, values in samples.items()},
                "total": percentile_bounds([sum(row) for row in zip(*samples.values(), strict=True)]),
            },
            "steady": steady_state(samples["inference"]),
            "conditions": Conditions(before=Snapshot(time_s=0.0), during=(), after=Snapshot(time_s=9.0)),
        }
        return LatencyReport(**(fields | changes))

    return make


@pytest.fixture(scope="session")
def on_cpu(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Compiles ``standin/NAME.cpp`` to a shared library; more flags may follow."""

    @functools.cache
    def compile(name: str, *flags: str) -> Path:
        if shutil.which("g++") is None:
            pytest.skip("needs g++")
        output = tmp_path_factory.mktemp("standin") / f"{name}.so"
        subprocess.run(["g++", *HOST_FLAGS, *flags, "-o", output, STANDIN / f"{name}.cpp"], check=True)
        return output

    return compile
