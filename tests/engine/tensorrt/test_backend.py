"""Differences of ``tensorrt`` from ``tensorrt-rtx``.

TensorRT itself builds on a GPU alone. TensorRT-RTX with those names hidden that TensorRT has not takes its place: the
code that asks for names is the same, and so is the library's interface (see test_tensorrt_contract.py).
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from edgekit.arguments import on_command_line
from edgekit.device.cuda.driver import DeviceProperties
from edgekit.engine.backend import BuildOptions
from edgekit.engine.tensorrt import backend as backends
from edgekit.engine.tensorrt.backend import TensorRt, TensorRtRtx
from edgekit.engine.tensorrt.builder_config import config_from_options, dla_note
from edgekit.engine.tensorrt.log import process_log
from edgekit.engine.tensorrt.network import parse_graph
from edgekit.errors import BackendUnavailable, EngineMismatch, UsageError
from edgekit.specs import Precision

DESKTOP = DeviceProperties(
    name="NVIDIA RTX A2000",
    compute_capability=(8, 6),
    memory_bytes=12 * 2**30,
    free_bytes=10 * 2**30,
    integrated=False,
    driver_version="12.6",
)
ORIN = DeviceProperties(
    name="Orin",
    compute_capability=(8, 7),
    memory_bytes=8 * 2**30,
    free_bytes=6 * 2**30,
    integrated=True,
    driver_version="12.6",
)
FP32 = BuildOptions(precision=Precision.FP32, engine={"timing_cache": ""})


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Simulates a GPU in this machine, or none."""

    def put(gpu: DeviceProperties | None) -> None:
        def properties(index: int = 0) -> DeviceProperties:
            if gpu is None:
                raise BackendUnavailable("no driver", hint="install one")
            return gpu

        monkeypatch.setattr(backends, "device_properties", properties)

    return put


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Replaces TensorRT; tests may remove names from it."""
    rtx = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    stand_in = ModuleType("tensorrt")
    stand_in.__dict__.update({name: value for name, value in vars(rtx).items() if name != "ComputeCapability"})
    stand_in.__version__ = rtx.__version__  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorrt", stand_in)
    return stand_in


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, None)


def graph_in(folder: Path) -> Path:
    from small_graphs import conv_graph, save

    return save(conv_graph(), folder)


def configured(library: Any, options: BuildOptions, memory_bytes: int = 0) -> Any:
    builder = library.Builder(process_log(library))
    with warnings.catch_warnings():
        # TensorRT-RTX warns that its timing cache functions, which TensorRT needs, are deprecated.
        warnings.simplefilter("ignore", DeprecationWarning)
        cache = options.engine.get("timing_cache", "")
        return config_from_options(library, builder, options, memory_bytes, cache), builder


def test_an_engine_is_for_the_gpu_that_it_was_built_on(tmp_path: Path, library: Any, here: Any) -> None:
    here(DESKTOP)
    result = TensorRt().build(graph_in(tmp_path), tmp_path, FP32)
    assert result.compute_capabilities == ("8.6",)
    assert result.layers == {"float32": 2}
    assert result.notes == ()
    assert [layer["name"] for layer in json.loads((tmp_path / "layers.json").read_text())] == ["body", "active", "head"]


def test_a_hardware_compatible_engine_is_for_later_gpus_too(
    tmp_path: Path, library: Any, here: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    here(DESKTOP)
    options = BuildOptions(precision=Precision.FP32, engine={"hardware_compatible": True, "timing_cache": ""})
    assert TensorRt().build(graph_in(tmp_path), tmp_path, options).compute_capabilities == ("8.0+",)
    assert "setHardwareCompatibilityLevel()" in capfd.readouterr().err  # RTX takes the call, and says it has no use


def test_a_library_that_finds_no_gpu_reports_its_own_message(tmp_path: Path, library: Any, here: Any) -> None:
    here(DESKTOP)

    def builder(log: Any) -> None:
        log.log(library.ILogger.ERROR, "CUDA initialization failure with error: 35")
        raise TypeError("pybind11::init(): factory function returned nullptr")

    library.Builder = builder
    with pytest.raises(BackendUnavailable, match="CUDA initialization failure with error: 35"):
        TensorRt().build(graph_in(tmp_path), tmp_path, FP32)


def test_compute_capabilities_are_rejected_if_the_builder_uses_the_local_gpu(
    tmp_path: Path, library: Any, here: Any
) -> None:
    here(DESKTOP)
    options = BuildOptions(precision=Precision.FP32, engine={"sm": (86,)})
    with pytest.raises(UsageError, match=r"engine\['sm'\] goes with tensorrt-rtx"):
        TensorRt().build(graph_in(tmp_path), tmp_path, options)


@pytest.mark.parametrize(("gpu", "limit"), [(DESKTOP, 10 * 2**30), (ORIN, 3 * 2**30)])
def test_kernels_are_timed_in_free_memory_and_a_jetson_keeps_half(
    gpu: DeviceProperties, limit: int, library: Any
) -> None:
    config, _ = configured(library, FP32, TensorRt()._memory_bytes(gpu))
    assert config.get_memory_pool_limit(library.MemoryPoolType.WORKSPACE) == limit


def test_the_users_workspace_limit_takes_precedence(library: Any) -> None:
    config, _ = configured(library, BuildOptions(precision=Precision.FP32, engine={"workspace_mib": 64}), 2**30)
    assert config.get_memory_pool_limit(library.MemoryPoolType.WORKSPACE) == 2**26


def test_float32_is_computed_in_float32(library: Any) -> None:
    config, builder = configured(library, FP32)
    assert builder.create_builder_config().get_flag(library.BuilderFlag.TF32)
    assert not config.get_flag(library.BuilderFlag.TF32)


def test_a_timing_cache_is_kept_and_read_again(tmp_path: Path, library: Any, here: Any) -> None:
    here(DESKTOP)
    cache = tmp_path / "caches" / "rtx.cache"
    options = BuildOptions(precision=Precision.FP32, engine={"timing_cache": str(cache)})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        TensorRt().build(graph_in(tmp_path), tmp_path, options)
        first = cache.read_bytes()
        assert len(first) > 0
        config, _ = configured(library, options)
        assert config.get_flag(library.BuilderFlag.EDITABLE_TIMING_CACHE)
        assert config.get_timing_cache() is not None
        TensorRt().build(graph_in(tmp_path), tmp_path, options)
    assert [file.name for file in cache.parent.iterdir()] == ["rtx.cache"]


def test_a_timing_cache_that_cannot_be_written_is_a_note(tmp_path: Path, library: Any, here: Any) -> None:
    here(DESKTOP)
    (tmp_path / "file").touch()
    options = BuildOptions(precision=Precision.FP32, engine={"timing_cache": str(tmp_path / "file" / "cache")})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        result = TensorRt().build(graph_in(tmp_path), tmp_path, options)
    assert [note for note in result.notes if "timing cache could not be written" in note]


def test_tensorrt_rtx_which_times_nothing_keeps_no_cache(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    options = BuildOptions(precision=Precision.FP32, engine={"timing_cache": str(tmp_path / "cache")})
    TensorRtRtx().build(graph_in(tmp_path), tmp_path, options)
    assert not (tmp_path / "cache").exists()


def test_error_on_a_dla_that_the_board_does_not_have(library: Any) -> None:
    with pytest.raises(UsageError, match="engine={'dla': 0}: .* it has none"):
        configured(library, BuildOptions(precision=Precision.FP16, engine={"dla": 0}))


class BoardWithDla:
    """Two deep-learning accelerators, on a builder that has none."""

    num_DLA_cores = 2

    def __init__(self, builder: Any) -> None:
        self.builder = builder
        self.told: dict[str, Any] = {}

    def create_builder_config(self) -> Any:
        config, told = self.builder.create_builder_config(), self.told

        class Config:
            """Records the settings: without a DLA, the library ignores the DLA core."""

            def __getattr__(self, name: str) -> Any:
                return getattr(config, name)

            def __setattr__(self, name: str, value: Any) -> None:
                told[name] = value
                setattr(config, name, value)

        return Config()


def test_a_dla_is_counted_from_0(library: Any) -> None:
    board: Any = BoardWithDla(library.Builder(process_log(library)))
    with pytest.raises(UsageError, match="engine={'dla': 2}: .* it has 2"):
        config_from_options(library, board, BuildOptions(precision=Precision.FP16, engine={"dla": 2}), 0)


def test_a_dla_is_checked_before_the_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TensorRt, "version", lambda self: "10.3.0")
    TensorRt().check_options(Precision.FP16, {"dla": 0})
    TensorRt().check_options(Precision.INT8, {})
    with pytest.raises(UsageError, match=r"engine={'dla': 0}: expected TensorRT from 11\.4\.1 for INT8, got 10\.3\.0"):
        TensorRt().check_options(Precision.INT8, {"dla": 0})


def test_layers_that_a_dla_does_not_support_run_on_the_gpu(library: Any) -> None:
    board: Any = BoardWithDla(library.Builder(process_log(library)))
    config = config_from_options(library, board, BuildOptions(precision=Precision.FP16, engine={"dla": 1}), 0)
    assert board.told["default_device_type"] == library.DeviceType.DLA
    assert board.told["DLA_core"] == 1
    assert config.get_flag(library.BuilderFlag.GPU_FALLBACK)


def test_the_number_of_dla_layers_is_a_note(tmp_path: Path, library: Any) -> None:
    builder = library.Builder(log := process_log(library))
    network = parse_graph(library, builder, log, graph_in(tmp_path), for_dla=True)
    note = dla_note(builder.create_builder_config(), network.network)
    assert note.startswith("the DLA can run 0 of 3 layers")


@pytest.mark.parametrize(
    ("options", "flags"),
    [
        ({"refittable": True}, {"REFIT"}),
        ({"strip_weights": True}, {"STRIP_PLAN", "REFIT_IDENTICAL"}),
        ({"strip_weights": True, "refittable": True}, {"STRIP_PLAN", "REFIT"}),
        ({"version_compatible": True}, {"VERSION_COMPATIBLE"}),
    ],
)
def test_options_become_flags_of_the_builder(options: dict[str, Any], flags: set[str], library: Any) -> None:
    config, _ = configured(library, BuildOptions(precision=Precision.FP32, engine=options))
    considered = {"REFIT", "REFIT_IDENTICAL", "STRIP_PLAN", "VERSION_COMPATIBLE", "EXCLUDE_LEAN_RUNTIME"}
    assert {name for name in considered if config.get_flag(getattr(library.BuilderFlag, name))} == flags


@pytest.mark.parametrize("backend", [TensorRt, TensorRtRtx])
def test_a_library_that_is_not_installed_is_named_with_the_command(backend: type[TensorRt], absent: None) -> None:
    with pytest.raises(BackendUnavailable) as caught:
        backend().require()
    assert f"'{backend.module}'" in caught.value.message
    assert "pip install" in caught.value.hint


def test_type_stubs_alone_are_no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", ModuleType("tensorrt"))
    with pytest.raises(BackendUnavailable, match="no builder in it"):
        TensorRt().require()


def test_a_package_that_fails_while_it_is_imported_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tensorrt.py").write_text("raise RuntimeError('libnvinfer.so.10: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(BackendUnavailable, match=r"needs the Python package 'tensorrt': libnvinfer\.so\.10"):
        TensorRt().require()


def test_the_hint_on_a_board_names_its_own_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "base_prefix", "elsewhere")
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/nv_tegra_release").write_text("# R36 (release), REVISION: 4.3, GCID: 1, BOARD: generic\n")
    assert TensorRt()._how_to_install(tmp_path).startswith("sudo apt-get install python3-libnvinfer, and python3 -m")
    (tmp_path / "usr/lib/python3.10/dist-packages/tensorrt").mkdir(parents=True)
    assert "which this environment does not see: python3 -m venv --system-site-packages" in TensorRt()._how_to_install(
        tmp_path
    )


def test_tensorrt_needs_a_gpu_to_build_and_tensorrt_rtx_none(library: Any, here: Any) -> None:
    here(None)
    with pytest.raises(BackendUnavailable, match="no driver"):
        TensorRt().require()
    TensorRtRtx().require()


@pytest.mark.parametrize("built", [(), ("8.6",), ("7.5", "8.6", "12.0"), ("8.0+",)])
def test_an_engine_for_this_gpu_may_run_here(built: tuple[str, ...], library: Any, here: Any) -> None:
    here(DESKTOP)
    assert _refusal(built) == ""


@pytest.mark.parametrize("built", [("8.7",), ("8.0", "8.9"), ("12.0+",)])
def test_an_engine_for_another_gpu_names_this_gpu_and_the_build_command(
    built: tuple[str, ...], library: Any, here: Any
) -> None:
    here(DESKTOP)
    words = [built[0], "NVIDIA RTX A2000 here has 8.6", "edgekit.compile('BUNDLE', target='tensorrt')"]
    refusal = _refusal(built)
    assert [word for word in words if word not in refusal] == []
    with on_command_line():
        assert "edgekit compile BUNDLE --target tensorrt" in _refusal(built)


def _refusal(built: tuple[str, ...]) -> str:
    """Returns why an engine for those GPUs cannot run here; empty if it can."""
    try:
        TensorRt().require_device(built)
    except EngineMismatch as e:
        return str(e)
    return ""


@pytest.mark.parametrize("backend", [TensorRt, TensorRtRtx])
def test_both_want_graphs_quantized_in_the_same_way(backend: type[TensorRt]) -> None:
    scheme = backend().scheme()
    assert (scheme.activation_dtype, scheme.rest, scheme.per_channel_weights) == ("int8", Precision.FP16, True)
