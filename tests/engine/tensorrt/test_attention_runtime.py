"""Plugins that EdgeKit runs itself: engines of a TensorRT without a GPU, and NVIDIA's own bindings."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import fake_tensorrt
import numpy as np
import pytest
from fake_cuda import FakeDriver

import edgekit
from edgekit.engine.backend import BuildOptions
from edgekit.engine.tensorrt import attention_plugin
from edgekit.engine.tensorrt.attention_runtime import PLUGINS_FILE, register_runtime_attention
from edgekit.engine.tensorrt.backend import NEEDS_EDGEKIT, TensorRt
from edgekit.engine.tensorrt.runtime import load_engine
from edgekit.errors import EngineMismatch, RunError
from edgekit.kernels.sdpa.device import AttentionShape, workspace_bytes
from edgekit.kernels.sdpa.node import PLUGINS
from edgekit.kernels.sdpa.reference import attention
from edgekit.specs import Precision
from tests.engine.tensorrt.test_attention_plugin import by_launcher, by_tensorrt, case, folder, graph_with
from tests.kernels.attention_in_numpy import numpy_kernels

__all__ = ["folder"]  # a fixture

PARSER = Path(__file__).parents[1] / "modules" / "parsed_plugin.py"
Q, K = [2, 4, 70, 32], [2, 2, 130, 32]
LENGTHS = np.array([130, 77], np.int32)


def plan_with(folder: Path, name: str, fields: dict[str, float], more: dict[str, Any], *, marked: bool = True) -> Path:
    given = {"name": name, "fields": {"scale": 0.125, "head_size": 32} | fields}
    plan = {"inputs": {"q": Q, "k": K, "v": K}, "dtype": "HALF", "plugin": given, "dtypes": {}}
    for one, array in more.items():
        plan["inputs"][one] = list(array.shape)  # type: ignore[index]
        plan["dtypes"][one] = "INT32" if array.dtype == np.int32 else "HALF"  # type: ignore[index]
    (folder / "engine.plan").write_text(json.dumps(plan))
    if marked:
        (folder / PLUGINS_FILE).write_text("[]")
    return folder / "engine.plan"


def feeds_for(more: dict[str, Any]) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        n: rng.standard_normal(s, np.float32).astype(np.float16) for n, s in zip("qkv", (Q, K, K), strict=True)
    } | more


MASK = np.random.default_rng(1).standard_normal((1, 4, 70, 130), np.float32).astype(np.float16)


@pytest.mark.parametrize("int8", [0, 1])
@pytest.mark.parametrize(
    ("name", "fields", "more", "options"),
    [
        ("EdgeKitAttention", {}, {}, {}),
        ("EdgeKitAttention", {"causal": 1, "bottom_right": 1}, {}, {"causal_offset": 60}),
        ("EdgeKitPaddedAttention", {"causal": 1}, {"key_lengths": LENGTHS}, {"causal_offset": 0}),
        ("EdgeKitMaskedAttention", {"repeated": 1}, {"mask": MASK}, {}),
    ],
)
def test_an_engine_with_the_plugin_gives_the_references_numbers(
    tmp_path: Path, name: str, fields: dict[str, float], more: dict[str, Any], options: dict[str, Any], int8: int
) -> None:
    driver = FakeDriver(kernels=numpy_kernels)
    plan, feeds = plan_with(tmp_path, name, fields | {"int8": int8}, more), feeds_for(more)
    engine = load_engine(fake_tensorrt.library(driver), plan, name="tensorrt", cuda=driver)
    right = attention(**feeds, scale=0.125, **options)
    for _ in range(3):  # the first run, then the captured graph
        got = engine.run(feeds)["q_out"].astype(np.float64)
        assert np.linalg.norm(got - right) <= (2e-2 if int8 else 2e-3) * np.linalg.norm(right)
    assert engine.use_graphs and engine.notes == []
    engine.close()
    del engine
    gc.collect()
    assert not driver.leaks()


def test_a_plan_without_the_file_is_not_loaded(tmp_path: Path) -> None:
    driver = FakeDriver(kernels=numpy_kernels)
    plan = plan_with(tmp_path, "EdgeKitAttention", {}, {}, marked=False)
    with pytest.raises(EngineMismatch, match="could not find the plugin's creator"):
        load_engine(fake_tensorrt.library(driver), plan, name="tensorrt", cuda=driver)


def test_what_the_kernels_refuse_is_in_the_error_of_the_run(tmp_path: Path) -> None:
    driver = FakeDriver(kernels=numpy_kernels)
    plan = plan_with(tmp_path, "EdgeKitAttention", {"scale": -1.0}, {})
    engine = load_engine(fake_tensorrt.library(driver), plan, name="tensorrt", cuda=driver)
    with pytest.raises(RunError, match="edgekit::EdgeKitAttention: scale: expected a positive number, got -1"):
        engine.run(feeds_for({}))
    engine.close()


def test_plugins_are_registered_once_and_others_of_the_name_are_an_error() -> None:
    driver = FakeDriver()
    library = fake_tensorrt.library(driver)
    for _ in range(2):
        register_runtime_attention(library, driver)
    assert len(library.get_plugin_registry().creators) == 3
    with pytest.raises(RunError, match="TensorRT already has a plugin 'edgekit::EdgeKitAttention' in this process"):
        register_runtime_attention(library, FakeDriver())


def test_the_workspace_is_enough_for_a_single_query_of_a_dynamic_length() -> None:
    driver = FakeDriver()
    library = fake_tensorrt.library(driver)
    register_runtime_attention(library, driver)
    creator = library.get_plugin_registry().creators["EdgeKitAttention", "1", "edgekit"]
    fields = [fake_tensorrt.PluginField("scale", np.array([0.1], np.float32), fake_tensorrt.PluginFieldType.FLOAT32)]
    fields.append(fake_tensorrt.PluginField("head_size", np.array([64], np.int32), fake_tensorrt.PluginFieldType.INT32))
    plugin = creator.create_plugin("", fake_tensorrt.PluginFieldCollection(fields), None)
    half = fake_tensorrt.DataType.HALF
    q = fake_tensorrt.TensorDesc((), half, (1, 8, 1, 64), (4, 8, 100, 64))
    k = fake_tensorrt.TensorDesc((), half, (1, 8, 1, 64), (4, 8, 3000, 64))
    single = AttentionShape(batch=4, heads=8, key_heads=8, query_length=1, key_length=3000, head_size=64)
    assert plugin.get_workspace_size([q, k, k], [q]) == workspace_bytes(single) > 0


@pytest.mark.parametrize(("int8", "kind"), [(0, "half"), (1, "int8"), (None, "half")])
def test_the_type_of_a_graphs_plugins_is_read_from_its_file(tmp_path: Path, int8: int | None, kind: str) -> None:
    attributes = {} if int8 is None else {"int8": int8}
    assert attention_plugin.attention_plugins(graph_with(tmp_path, "EdgeKitAttention", **attributes)) == kind


@pytest.mark.parametrize("int8", [0, 1])
def test_a_version_without_ahead_of_time_plugins_needs_edgekit_to_run(
    tmp_path: Path, int8: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = FakeDriver()
    monkeypatch.setattr(attention_plugin, "driver", lambda: driver)
    library = fake_tensorrt.library(driver)
    assert attention_plugin.register_attention(library, graph_with(tmp_path, "EdgeKitAttention", int8=int8))
    assert len(library.get_plugin_registry().creators) == 3


def test_a_gpu_that_does_not_run_the_ptx_gets_the_plugin_that_edgekit_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turing = FakeDriver(compute_capability=(7, 5))
    library = fake_tensorrt.library(turing)
    monkeypatch.setattr(attention_plugin, "driver", lambda: turing)
    monkeypatch.setattr(attention_plugin, "_ahead_of_time", lambda library: pytest.fail("its PTX is for 8.0"))
    assert attention_plugin.register_attention(library, graph_with(tmp_path, "EdgeKitAttention"))
    assert len(library.get_plugin_registry().creators) == 3


def test_a_graph_without_plugins_registers_none(tmp_path: Path) -> None:
    library = fake_tensorrt.library(FakeDriver())
    assert not attention_plugin.register_attention(library, graph_with(tmp_path, "Softmax"))
    assert not library.get_plugin_registry().creators


BINDINGS = {
    "plain": case("EdgeKitAttention", [2, 4, 70, 64], [2, 4, 130, 64]),
    "bfloat16": case("EdgeKitAttention", [1, 2, 300, 128], [1, 2, 130, 128], kind="BF16"),
    "causal": case("EdgeKitAttention", [1, 4, 70, 32], [1, 2, 130, 32], causal=1, bottom_right=1),
    "key lengths": case("EdgeKitPaddedAttention", [2, 4, 70, 96], [2, 4, 130, 96], [2], int8=1),
    "mask": case("EdgeKitMaskedAttention", [2, 4, 49, 80], [2, 4, 49, 80], [2, 1, 1, 49], repeated=6, int8=1),
}


@pytest.mark.parametrize("version", ["10.3", "10.13", "11.4"])
def test_nvidias_bindings_take_the_plugins(folder: Path, version: str) -> None:
    found = by_tensorrt(folder, version, list(BINDINGS.values()), "runtime")
    assert found["created"] == [f"edgekit::{name}" for name in PLUGINS]
    for name, launched in zip(BINDINGS, found["launched"], strict=True):
        right = by_launcher(BINDINGS[name])
        assert [(kernel, grid) for kernel, grid in launched] == [(one["name"], one["grid"]) for one in right], name


PARSED = """
<ir_version: 10, opset_import: ["" : 20, "trt.plugins" : 1]>
g (float16[2, 4, 70, 32] q, float16[2, 2, 130, 32] k, float16[1, 4, 70, 130] m) => (float16[2, 4, 70, 32] y) {
  [layer] y = trt.plugins.EdgeKitMaskedAttention<plugin_namespace = "edgekit", aot = 1, scale = 0.125, head_size = 32,
    causal = 1, bottom_right = 0, repeated = 1, int8 = 1>(q, k, k, m)
}
"""


def test_nvidias_parser_finds_the_plugin_and_gives_it_the_nodes_attributes(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    onnx = pytest.importorskip("onnx")
    onnx.save(onnx.parser.parse_model(PARSED), tmp_path / "graph.onnx")
    environment = os.environ | {"PYTHONPATH": str(Path(edgekit.__file__).parents[1])}
    command = [sys.executable, str(PARSER), str(tmp_path / "graph.onnx")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    settings = {"scale": 0.125, "head_size": 32, "causal": 1, "bottom_right": 0, "repeated": 1, "int8": 1}
    assert json.loads(done.stdout.splitlines()[-1]) == ["EdgeKitMaskedAttention", "layer", settings]


def test_an_engine_that_needs_edgekit_is_marked_and_a_note_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = fake_tensorrt.library(FakeDriver(), name="tensorrt")
    target = TensorRt()
    monkeypatch.setattr(target, "_library", lambda: library)
    monkeypatch.setattr(target, "_gpu", lambda: None)
    for needs_edgekit in (False, True):
        built = (b"plan", (), [], needs_edgekit)
        monkeypatch.setattr(target, "_built", lambda *given, built=built: built)
        result = target.build(tmp_path / "graph.onnx", tmp_path, BuildOptions(precision=Precision.FP16))
        assert (PLUGINS_FILE in result.files) == (tmp_path / PLUGINS_FILE).exists() == needs_edgekit
        assert [note.partition(": ")[2] for note in result.notes] == [NEEDS_EDGEKIT][: int(needs_edgekit)]
    assert json.loads((tmp_path / PLUGINS_FILE).read_text()) == [f"edgekit::{name}" for name in PLUGINS]
