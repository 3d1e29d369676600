"""Engines are compiled from a bundle's graph on the target machine, without torch and onnx."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from torch import nn

import edgekit
from edgekit.engine.bundle.manifest import read_manifest
from edgekit.errors import BackendUnavailable, EngineMismatch, UsageError
from edgekit.pipeline.compile_bundle import compile_bundle
from edgekit.specs import ShapeRange

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")

ABSENT = f"""
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name in {("torch", "onnx", "onnx_ir", "onnxruntime", "onnxscript", "edgekit.graph", "edgekit.lower")!r}:
            raise ImportError(f"there is no {{name}} on this board")

sys.meta_path.insert(0, Absent())
"""
"""What Python runs when it starts, in the builder's process too."""


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle with a graph and without an engine."""
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return edgekit.build(
        nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3)).eval(),
        precision="int8",
        target="tensorrt",
        input={"": (1, 3, 32, 32)},
        batch=(1, 2, 4),
        graph_only=True,
        output="plan",
    )


def test_a_plan_holds_the_typed_graph_and_no_engine(plan: Path) -> None:
    manifest = read_manifest(plan)
    assert (manifest.engine, manifest.backend_version, manifest.layers) == ("", "", {"int8": 1, "float16": 1})
    assert {file.name for file in plan.iterdir()} == {"graph.onnx", "calibration.json", "manifest.json"}
    assert any("signal-to-noise" in note for note in manifest.notes)
    with pytest.raises(EngineMismatch, match="holds a graph for tensorrt, and no engine yet") as error:
        edgekit.load(plan)
    assert error.value.hint == f"edgekit.compile({str(plan)!r}, target='tensorrt')"


def test_the_engine_is_compiled_where_torch_and_onnx_are_missing(plan: Path, tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    missing.mkdir()
    (missing / "sitecustomize.py").write_text(ABSENT)
    program = (
        "import sys; from edgekit.cli.main import main; "
        f"sys.exit(main(['compile', {str(plan)!r}, '--target', 'tensorrt-rtx', '--sm', '86,89', '-o', 'made']))"
    )
    paths = os.pathsep.join([str(missing), *(path for path in sys.path if path)])
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": paths},
    )
    assert done.returncode == 0, done.stderr
    manifest = read_manifest(tmp_path / "made")
    assert (manifest.backend, manifest.engine) == ("tensorrt-rtx", "engine.plan")
    assert manifest.compute_capabilities == ("8.6", "8.9")
    assert manifest.layers == {"int8": 1, "float16": 1}, "the last layer stays in float"
    assert manifest.shapes == {"input": ShapeRange((1, 3, 32, 32), (2, 3, 32, 32), (4, 3, 32, 32))}
    assert manifest.calibration == read_manifest(plan).calibration
    assert (tmp_path / "made" / "graph.onnx").read_bytes() == (plan / "graph.onnx").read_bytes()


def test_compiled_in_place_it_replaces_the_plan(plan: Path) -> None:
    assert compile_bundle(plan, target="tensorrt-rtx") == plan
    assert read_manifest(plan).engine == "engine.plan"
    assert compile_bundle(plan, engine={"sm": (86,)}) == plan, "and again, for the target that it now has"
    assert read_manifest(plan).rebuild == "edgekit compile plan --target tensorrt-rtx --sm 86"
    with pytest.raises((BackendUnavailable, EngineMismatch)):
        edgekit.load(plan)  # no GPU, or another one


def test_error_on_a_bundle_for_a_processor(plan: Path) -> None:
    bundle = edgekit.build(nn.Linear(4, 4), precision="fp32", target="null", input={"": (1, 4)}, profile=False)
    with pytest.raises(UsageError, match="expected a graph for tensorrt or tensorrt-rtx"):
        compile_bundle(bundle, target="tensorrt-rtx")
    with pytest.raises(UsageError, match="got 'cpu'"):
        compile_bundle(plan, target="cpu")
    with pytest.raises(UsageError, match="unknown target 'tensorrt-rtz'\ndid you mean tensorrt-rtx"):
        compile_bundle(plan, target="tensorrt-rtz")


def test_error_on_a_graph_that_was_changed(plan: Path) -> None:
    with (plan / "graph.onnx").open("ab") as file:
        file.write(b"\0")
    before = sorted(path.name for path in plan.iterdir())
    with pytest.raises(EngineMismatch, match="'graph.onnx' was changed"):
        compile_bundle(plan, target="tensorrt-rtx")
    assert sorted(path.name for path in plan.iterdir()) == before


def test_error_on_a_library_that_is_missing(plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(BackendUnavailable, match="tensorrt"):
        compile_bundle(plan)


def test_a_manifest_from_before_gpus_is_read(plan: Path) -> None:
    raw = json.loads((plan / "manifest.json").read_bytes())
    del raw["compute_capabilities"], raw["shapes"]
    (plan / "manifest.json").write_bytes(msgspec.json.encode(raw))
    assert read_manifest(plan).compute_capabilities == ()
