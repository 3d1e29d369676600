"""Attention plugins against NVIDIA's own bindings: what TensorRT would launch is what EdgeKit's launcher launches."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import edgekit
from edgekit.engine.tensorrt.attention_plugin import attention_plugins
from edgekit.engine.tensorrt.network import parse_graph
from edgekit.errors import UsageError
from edgekit.kernels import compiled
from edgekit.kernels.sdpa.entry import ptx_with_parameters
from edgekit.kernels.sdpa.node import PLUGINS
from tests.engine.tensorrt.test_contract import VERSIONS, compile_empty, unpacked
from tests.fakes.fake_cuda import FakeDriver, Pointer
from tests.kernels.attention_on_host import attention_on_host

PROGRAM = Path(__file__).parents[1] / "modules" / "attention_plugin.py"
TYPES = {"HALF": np.dtype("float16"), "BF16": np.dtype(ml_dtypes.bfloat16)}

Case = dict[str, Any]


def case(plugin: str, q: list[int], k: list[int], *more: list[int], kind: str = "HALF", **attributes: float) -> Case:
    default = {"scale": 0.125, "head_size": q[3], "causal": 0, "bottom_right": 0}
    if plugin == "EdgeKitMaskedAttention":
        default["repeated"] = 0
    return {"plugin": plugin, "type": kind, "shapes": [q, k, k, *more], "attributes": default | attributes}


CASES = {
    "plain": case("EdgeKitAttention", [2, 4, 70, 64], [2, 4, 130, 64]),
    "bfloat16": case("EdgeKitAttention", [1, 2, 300, 128], [1, 2, 130, 128], kind="BF16"),
    "causal": case("EdgeKitAttention", [1, 4, 70, 32], [1, 2, 130, 32], causal=1),
    "causal, bottom right": case("EdgeKitAttention", [1, 4, 70, 32], [1, 2, 130, 32], causal=1, bottom_right=1),
    "key lengths": case("EdgeKitPaddedAttention", [2, 4, 70, 96], [2, 4, 130, 96], [2]),
    "mask": case("EdgeKitMaskedAttention", [2, 4, 49, 32], [2, 4, 49, 32], [2, 4, 49, 49]),
    "mask of a head": case("EdgeKitMaskedAttention", [2, 4, 49, 32], [2, 4, 49, 32], [1, 4, 49, 49], repeated=1),
    "mask of the keys": case("EdgeKitMaskedAttention", [2, 4, 49, 80], [2, 4, 49, 80], [2, 1, 1, 49], repeated=6),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bindings")


def by_tensorrt(folder: Path, version: str, cases: list[Case], kind: str) -> dict[str, Any]:
    if not shutil.which("cc"):
        pytest.skip("there is no C compiler")
    place: Path | None = folder / version
    if not (folder / version / "tensorrt_bindings").exists():
        place = unpacked(folder / version, VERSIONS[version])
    if place is None:
        pytest.skip(f"the bindings of TensorRT {version} cannot be had for this Python")
    libraries = folder / f"libraries-{version}"
    libraries.mkdir(exist_ok=True)
    compile_empty(libraries, version.split(".")[0])
    paths = {"PYTHONPATH": f"{place}:{Path(edgekit.__file__).parents[1]}", "LD_LIBRARY_PATH": str(libraries)}
    command = [sys.executable, str(PROGRAM), kind, json.dumps(cases)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | paths)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def by_launcher(case: Case) -> list[dict[str, Any]]:
    """What `Attention.launch` gives the driver for the same sizes: name, grid, and arguments in the kernel's order."""
    launched: list[dict[str, Any]] = []

    def record(kernel: str, grid: tuple[int, int, int], arguments: list[Any]) -> None:
        launched.append({"name": kernel, "grid": list(grid), "arguments": arguments})

    kind, attributes = TYPES[case["type"]], case["attributes"]
    arrays = {name: np.zeros(shape, kind) for name, shape in zip("qkv", case["shapes"], strict=False)}
    for name, shape in zip(PLUGINS[case["plugin"]], case["shapes"][3:], strict=True):
        arrays[name] = np.zeros(shape, np.int32 if name == "key_lengths" else kind)
    queries, keys = case["shapes"][0][2], case["shapes"][1][2]
    offset = (keys - queries if attributes["bottom_right"] else 0) if attributes["causal"] else None
    options = {"scale": attributes["scale"], "causal_offset": offset, "int8": bool(attributes.get("int8"))}
    attention_on_host(FakeDriver(kernels=record), arrays, heads_first=True, **options)
    return launched


@pytest.mark.parametrize("version", ["10.13", "11.4"])
def test_a_plugin_launches_what_the_launcher_launches(folder: Path, version: str) -> None:
    found = by_tensorrt(folder, version, list(CASES.values()), "ahead of time")
    assert found["created"] == [f"edgekit::{name}" for name in PLUGINS]
    binary = next(binary for binary in compiled.read_index("attention").binaries if binary.is_ptx)
    for name, kernel in zip(CASES, found["kernels"], strict=True):
        (right,) = by_launcher(CASES[name])
        assert (kernel["name"], kernel["grid"]) == (right["name"], right["grid"]), name
        assert kernel["shared"] == binary.shared_bytes[kernel["name"]]
        assert kernel["block"] == int(re.search(r"\.reqntid (\d+)", kernel["ptx"])[1])  # type: ignore[index]
        assert given_to_the_kernel(kernel, right["arguments"]) == right["arguments"], name


def given_to_the_kernel(kernel: dict[str, Any], right: list[Any]) -> list[Any]:
    """The arguments in the kernel's order: what TensorRT passes, and the constants in the PTX.

    TensorRT passes the addresses of inputs, integers, and the address of the output, in this order.
    """
    (entry,) = re.findall(r"\.visible \.entry \w+\((.*?)\)", kernel["ptx"], re.DOTALL)
    parameters = [(kind, int(number)) for kind, number in re.findall(r"\.param \.(u32|u64|f32).*?_param_(\d+)", entry)]
    kinds = "".join("p" if kind == "u64" else "i" for kind, _ in parameters)
    assert re.fullmatch(r"p{3,4}i+p", kinds)
    integers = iter(kernel["integers"])
    passed = {number: next(integers) for kind, number in parameters if kind == "u32"}
    assert next(integers, None) is None
    pointers = {number for kind, number in parameters if kind == "u64"}
    assert pointers == {
        number for number, value in enumerate(right) if isinstance(value, Pointer) and value.memory.size
    }
    scale = int(np.float32(next(value for value in right if isinstance(value, float))).view(np.uint32))
    # A constant of the PTX is tested where the launcher has something else than 0; ptxas tests that all are there.
    constants = [int(bits, 16) for bits in re.findall(r"mov\.b32 \t%\w+, (0x[0-9a-f]+);", kernel["ptx"])]
    assert scale in constants
    return [passed.get(number, value) for number, value in enumerate(right)]


def graph_with(folder: Path, operator: str, **attributes: int) -> Path:
    onnx = pytest.importorskip("onnx")
    floats = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in ("EdgeKitAttention", "y")
    ]
    node = onnx.helper.make_node(operator, ["EdgeKitAttention"], ["y"], name="EdgeKitAttention", **attributes)
    path = folder / "graph.onnx"
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([node], "EdgeKitAttention", floats[:1], floats[1:])), path)
    return path


@pytest.mark.parametrize(("operator", "found"), [*((name, "half") for name in PLUGINS), ("Softmax", "")])
def test_a_graph_with_a_plugin_is_told_from_others_by_its_operators(tmp_path: Path, operator: str, found: str) -> None:
    assert attention_plugins(graph_with(tmp_path, operator)) == found


def test_tensorrt_rtx_refuses_a_graph_with_plugins(tmp_path: Path) -> None:
    library = SimpleNamespace(__name__="tensorrt_rtx")
    with pytest.raises(UsageError, match="TensorRT-RTX takes no plugins"):
        parse_graph(library, None, None, graph_with(tmp_path, "EdgeKitMaskedAttention"))  # type: ignore[arg-type]


PTX = """.version 8.0
.target sm_80
.address_size 64
.visible .entry first(
\t.param .u64 .ptr .global .align 1 first_param_0
)
{
\tret;
}
.visible .entry second(
\t.param .u64 .ptr .global .align 1 second_param_0,
\t.param .u32 second_param_1,
\t.param .f32 second_param_2
)
{
\t.reg .b32 \t%r<3>;
\t.reg .b64 \t%rd<2>;
\tld.param.b64 \t%rd1, [second_param_0];
\tld.param.b32 \t%r1, [second_param_1];
\tld.param.b32 \t%r2, [second_param_2];
\tst.global.b32 \t[%rd1], %r1;
\tst.global.b32 \t[%rd1+4], %r2;
\tret;
}
"""


def test_parameters_of_ptx_are_reordered_and_made_constants() -> None:
    text = ptx_with_parameters(PTX + "\0", "second", [1, 0], {2: 0x3F800000})
    assert "first" not in text and "\0" not in text
    assert re.search(r"second\(\s*\.param \.u32 second_param_1,\s*\.param \.u64 [\w. ]+second_param_0\s*\)", text)
    assert "mov.b32 \t%r2, 0x3f800000;" in text and "second_param_2" not in text


@pytest.mark.parametrize(
    ("kernel", "order", "message"),
    [
        ("third", [0], "expected one kernel 'third' in the PTX, got 0"),
        ("second", [0], "parameter 1 of 'second': expected a place or a constant"),
    ],
)
def test_ptx_that_would_read_a_missing_parameter_is_refused(kernel: str, order: list[int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ptx_with_parameters(PTX, kernel, order, {2: 0})


@pytest.mark.parametrize("name", ["float16_64", "bfloat16_80"])
def test_the_rewritten_kernels_assemble_without_spills(tmp_path: Path, name: str) -> None:
    if shutil.which("ptxas") is None:
        pytest.skip("needs ptxas")
    binary = next(binary for binary in compiled.read_index("attention").binaries if binary.is_ptx)
    ptx = compiled.image("attention", binary, name).decode()
    constants = dict.fromkeys((4, 5, 6, 7, 13, 14, 15, 28, 29, 30, 31, 32), 0) | {8: 0x3E000000}
    order = [0, 1, 2, 9, 10, 11, 12, *range(16, 28), 3]
    (tmp_path / "kernel.ptx").write_text(ptx_with_parameters(ptx, f"attention_forward_{name}", order, constants))
    command = ["ptxas", "-v", "--gpu-name=sm_87", "-o", tmp_path / "kernel.cubin", tmp_path / "kernel.ptx"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and " 0 bytes spill stores" in done.stderr, done.stderr
