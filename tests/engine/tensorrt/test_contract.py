"""Every name, member and argument of TensorRT's that EdgeKit uses is in each version that it claims to work with.

The bindings are NVIDIA's own, from PyPI; the library behind them, which needs a GPU and is not there, is replaced by
one with empty functions of the same names.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from edgekit.engine.tensorrt import backend as tensorrt

VERSIONS = {
    "10.3": "tensorrt-cu12-bindings==10.3.0",  # JetPack 6.1 and 6.2
    "10.13": "tensorrt-cu13-bindings==10.13.3.9",  # JetPack 7.0 and 7.1
    "10.16": "tensorrt-cu13-bindings==10.16.1.11",  # JetPack 7.2
    "11.4": "tensorrt-cu13-bindings==11.4.0.106",  # JetPack 7.2.2
}
STUBS = "tensorrt-stubs==10.13.0.35.1"

# Members that some versions lack, with the name that is checked before use: a version has both or neither.
ASKED_FIRST = {
    "LayerType.ATTENTION_OUTPUT": "IAttentionOutputLayer",
    "attention": "IAttentionOutputLayer",
    "decomposable": "IAttentionOutputLayer",
    "deserialize": "create_runtime_cache",
    "dynamic_shapes_kernel_specialization_strategy": "DynamicShapesKernelSpecializationStrategy",
    "get_engine_stat": "EngineStat",
    "num_compute_capabilities": "ComputeCapability",
    "set_compute_capability": "ComputeCapability",
    "set_runtime_cache": "create_runtime_cache",
}

# The same for arguments.
ARGUMENTS_ASKED_FIRST = {"runtime_config": "create_runtime_config"}

# Interfaces that users implement: plugins and streams, with members such as `read`, `write` or `enqueue`.
NOT_FOR_US = ("IPlugin", "IStream", "IGpu", "IOutputAllocator")

# EdgeKit's own attributes with a name that some version has too.
OURS = {"precision"}

LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")
SYMBOLS = (
    "createInferBuilder_INTERNAL createInferRefitter_INTERNAL createInferRuntime_INTERNAL createNvOnnxParser_INTERNAL "
    "createNvOnnxParserRefitter_INTERNAL getBuilderPluginRegistry getNvOnnxParserVersion getPluginRegistry "
    "initLibNvInferPlugins"
).split()

# Plugins are classes and functions that the library calls: test_attention_plugin.py and test_attention_runtime.py run
# them on NVIDIA's bindings.
PLUGINS = {"attention_plugin.py", "attention_runtime.py"}
FILES = sorted(file for file in Path(tensorrt.__file__).parent.glob("*.py") if file.name not in PLUGINS)
PROGRAM = Path(__file__).parents[1] / "modules/library_interface.py"

Interface = dict[str, dict[str, list[list[str]]]]


@pytest.fixture(scope="session")
def uses() -> Any:
    from library_uses import uses_of

    return uses_of(FILES)


@pytest.fixture(scope="session")
def interfaces(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Interface]:
    """Returns the interface of each version, without those that pip cannot install for this Python."""
    if not shutil.which("cc"):
        pytest.skip("there is no C compiler")
    folder = tmp_path_factory.mktemp("bindings")
    found = {version: bindings(folder, version, wheel) for version, wheel in VERSIONS.items()}
    return {version: offered for version, offered in found.items() if offered} | installed()


def installed() -> dict[str, Interface]:
    try:
        import tensorrt_rtx
    except ImportError:
        return {}
    return {f"RTX {tensorrt_rtx.__version__}": interface("tensorrt_rtx", {})}


def bindings(folder: Path, version: str, wheel: str) -> Interface | None:
    place = unpacked(folder / version, wheel)
    if place is None:
        return None
    libraries = folder / f"libraries-{version.split('.')[0]}"
    if not libraries.exists():
        libraries.mkdir()
        compile_empty(libraries, version.split(".")[0])
    return interface("tensorrt_bindings", {"PYTHONPATH": str(place), "LD_LIBRARY_PATH": str(libraries)})


def unpacked(place: Path, wheel: str) -> Path | None:
    """The wheel's files; None if pip cannot get it."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--retries=1"]
    if subprocess.run([*command, "--timeout=10", "--dest", place, wheel], capture_output=True).returncode:
        return None
    (file,) = place.glob("*.whl")
    with zipfile.ZipFile(file) as archive:
        archive.extractall(place)
    return place


def compile_empty(folder: Path, major: str) -> None:
    """Libraries with functions that do nothing."""
    source = "".join(f"void *{symbol}(void) {{ return 0; }}\n" for symbol in SYMBOLS)
    for name in LIBRARIES:
        file = f"lib{name}.so.{major}"
        command = ["cc", "-shared", "-fPIC", f"-Wl,-soname,{file}", "-o", folder / file, "-x", "c", "-"]
        subprocess.run(command, input=source, text=True, check=True)


def interface(module: str, environment: dict[str, str]) -> Interface:
    command = [sys.executable, PROGRAM, module]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    classes: Interface = json.loads(done.stdout)["classes"]
    return classes


def members_of(offered: Interface) -> set[str]:
    """The names of all members of all classes."""
    return {member for kind in for_us(offered) for member in kind}


def for_us(offered: Interface) -> list[dict[str, list[list[str]]]]:
    return [members for kind, members in offered.items() if not kind.startswith(NOT_FOR_US)]


def has(offered: Interface, name: str) -> bool:
    kind, _, member = name.partition(".")
    return kind in offered and (not member or member.partition(".")[0] in offered[kind])


def lacking(interfaces: dict[str, Interface], used: dict[str, str]) -> list[str]:
    return [
        f"{name} ({where}) is not in {version}"
        for name, where in sorted(used.items())
        for version, offered in interfaces.items()
        if not has(offered, name)
    ]


def takes(parameters: list[str], positional: int, keywords: tuple[str, ...]) -> bool:
    """Whether a method with these parameters, including self, can be called with these arguments."""
    names = [name.rstrip("=") for name in parameters[1:]]
    required = {name for name in parameters[1:] if not name.endswith("=")}
    given = {*names[:positional], *keywords}
    return positional <= len(names) and set(keywords) <= set(names) and required <= given


@pytest.mark.parametrize("version", VERSIONS)
def test_a_version_is_compared_with_what_is_used(version: str, interfaces: dict[str, Interface]) -> None:
    if version not in interfaces:
        pytest.skip(f"pip cannot get {VERSIONS[version]} for this Python")
    assert has(interfaces[version], "Builder.build_serialized_network")


def test_names_of_the_library_are_in_every_version_or_checked_first(
    uses: Any, interfaces: dict[str, Interface]
) -> None:
    used = {name: where for name, where in uses.names.items() if not name.startswith("__")}
    assert {"Builder", "OnnxParser", "Runtime", "BuilderFlag.TF32", "LayerType.DEQUANTIZE"} <= used.keys()
    everywhere = {
        name: where
        for name, where in used.items()
        if name.partition(".")[0] not in uses.asked and name not in ASKED_FIRST
    }
    assert lacking(interfaces, everywhere) == []
    # If the first part, which is checked, exists, all of it does.
    for name in used.keys() - everywhere.keys() - ASKED_FIRST.keys():
        having = [offered for offered in interfaces.values() if has(offered, name.partition(".")[0])]
        assert having and all(has(offered, name) for offered in having), f"{name} ({used[name]})"


def test_members_of_its_classes_are_in_every_version(uses: Any, interfaces: dict[str, Interface]) -> None:
    assert {"IBuilderConfig.set_flag", "INetworkDefinition.get_layer", "ITensor.dtype"} <= uses.members.keys()
    assert lacking(interfaces, uses.members) == []


def test_calls_fit_the_functions_of_every_version(uses: Any, interfaces: dict[str, Interface]) -> None:
    assert ("Builder.build_serialized_network", 2, ()) in uses.calls
    wrong = []
    for (name, positional, keywords), where in uses.calls.items():
        kind, _, member = name.partition(".")
        for version, offered in interfaces.items():
            overloads = offered.get(kind, {}).get(member, [])
            if overloads and not any(takes(parameters, positional, keywords) for parameters in overloads):
                wrong.append(f"{name} ({where}) in {version} takes {overloads}")
    assert wrong == []


def test_calls_of_possible_library_functions_fit_a_function_of_that_name(
    uses: Any, interfaces: dict[str, Interface]
) -> None:
    wrong = []
    for (name, positional, keywords), where in uses.methods.items():
        asked = {ARGUMENTS_ASKED_FIRST[keyword] for keyword in keywords if keyword in ARGUMENTS_ASKED_FIRST}
        assert asked <= uses.asked.keys()
        for version, offered in interfaces.items():
            if name in OURS or not asked <= members_of(offered):
                continue
            overloads = [parameters for kind in for_us(offered) for parameters in kind.get(name, [])]
            if overloads and not any(takes(parameters, positional, keywords) for parameters in overloads):
                wrong.append(f"{name} ({where}) in {version} takes {overloads}")
    assert "\n".join(wrong) == ""


def test_names_that_some_versions_lack_are_checked_before_use(uses: Any, interfaces: dict[str, Interface]) -> None:
    members = {version: members_of(offered) for version, offered in interfaces.items()}
    anywhere, everywhere = set().union(*members.values()), set.intersection(*members.values())
    of_names = {part for name in uses.names for part in name.split(".")}
    used = {name for name in uses.attributes if not name.startswith("_")} - of_names - OURS
    some = (used & anywhere) - everywhere - uses.asked.keys()
    listed = {name for name in ASKED_FIRST if "." not in name}
    assert {name: uses.attributes[name] for name in some} == {name: uses.attributes[name] for name in listed}
    for name, asked in ASKED_FIRST.items():
        assert asked in uses.asked, f"nobody asks for {asked} before {name} is used"
        having = [version for version, offered in interfaces.items() if {asked} & (offered.keys() | members[version])]
        assert having, f"no version has {asked}"
        assert [v for v in having if not (has(interfaces[v], name) if "." in name else name in members[v])] == []


def test_names_that_are_checked_exist_in_some_version(uses: Any, interfaces: dict[str, Interface]) -> None:
    known = {name for offered in interfaces.values() for kind in offered for name in (kind, *offered[kind])}
    assert {name: where for name, where in uses.asked.items() if name not in known | {"__members__"}} == {}


def test_a_name_that_no_version_has_is_found(interfaces: dict[str, Interface]) -> None:
    missing = lacking(interfaces, {"BuilderFlag.FP17": "here", "Builder.build_engine_quickly": "there"})
    assert len(missing) == 2 * len(interfaces)
    # Removed in 11; TensorRT-RTX never had it.
    assert {version for version in interfaces if has(interfaces[version], "BuilderFlag.FP16")} <= {*VERSIONS} - {"11.4"}


@pytest.mark.slow
def test_types_are_those_of_the_stubs(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    stubs = unpacked(tmp_path / "stubs", STUBS)
    if stubs is None:
        pytest.skip(f"pip cannot get {STUBS}")
    mend(stubs / "tensorrt_bindings/tensorrt.pyi")
    (stubs / "tensorrt_libs.pyi").touch()
    command = [sys.executable, "-m", "mypy", "--cache-dir", tmp_path / "cache", *FILES]
    root = FILES[0].parents[3]
    done = subprocess.run(command, cwd=root, env=os.environ | {"MYPYPATH": str(stubs)}, capture_output=True, text=True)
    ours = [line for line in done.stdout.splitlines() if line.startswith("edgekit/engine/tensorrt/")]
    assert "errors prevented further checking" not in done.stdout, done.stdout[-2000:]
    # The bindings take and return any sequence of integers as a shape; the stubs declare a single class.
    assert [line for line in ours if '"Dims"' not in line and ": note: " not in line] == []


def mend(stub: Path) -> None:
    """The published stubs are not valid Python: the generator made two mistakes."""
    text = stub.read_text(encoding="utf-8")
    text = text.replace(", in: list[", ", in_: list[").replace("channel_axis: int)", "channel_axis: int = 0)")
    stub.write_text(text, encoding="utf-8")
