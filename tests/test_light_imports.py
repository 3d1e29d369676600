from __future__ import annotations

import ast
import json
import math
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import edgekit
from edgekit.engine.table import BACKENDS

PACKAGE = Path(edgekit.__file__).parent
BUILD_ONLY = ("torch", "onnx", "onnx_ir", "onnxscript", "safetensors")
VENDORS = ("onnxruntime", "openvino", "tensorrt", "tensorrt_rtx", "cv2")
HEAVY = {*BUILD_ONLY, *VENDORS, "numpy", "PIL"}

# The packages on a board: the base dependencies, without the extras.
ON_THE_BOARD = ("cli", "data", "device", "engine", "evaluation", "kernels", "report", "runtime")

# Where a compilation for TensorRT on a board enters. Its scheme is asked for where graphs are quantized.
COMPILES = (
    "edgekit.cli.compile",
    "edgekit.pipeline.compile_bundle",
    "edgekit.engine.child",
    "edgekit.engine.tensorrt.backend",
)
SCHEME = "edgekit.engine.tensorrt.scheme"

# Compiled by tools/build_kernels; nothing that is installed imports it.
TRITON_SOURCE = "triton_kernels.py"

BLOCK = f"""
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {(*BUILD_ONLY, *VENDORS)!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
"""


def python(code: str, *arguments: str) -> str:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(PACKAGE.parent), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def loaded_by(code: str) -> set[str]:
    """Top-level packages in ``sys.modules`` after ``code``."""
    out = python(f"{code}\nimport json, sys\nprint(json.dumps(sorted({{n.partition('.')[0] for n in sys.modules}})))")
    return set(json.loads(out.splitlines()[-1]))


def help_of(*arguments: str) -> str:
    return f"from edgekit.cli.main import main\nassert main([{', '.join(map(repr, arguments))}]) == 0"


def file_of(module: str) -> Path | None:
    """The file of one of EdgeKit's modules; None for another name, such as that of a function in one."""
    place = PACKAGE.parent.joinpath(*module.split("."))
    return next((file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()), None)


def imported_by(tree: ast.AST) -> Iterator[str]:
    """Yields the imports of a module, also inside functions; some may be names in modules."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            yield from imported_by(node)


def reached_from(modules: tuple[str, ...], but: str) -> set[str]:
    """Returns the EdgeKit modules that these modules import, directly or indirectly, and themselves."""
    found: set[str] = set()
    ahead = set(modules)
    while ahead:
        module = ahead.pop()
        file = file_of(module) if module != but else None
        if file is not None and module not in found:
            found.add(module)
            ahead |= {module.rpartition(".")[0], *imported_by(ast.parse(file.read_text(encoding="utf-8")))} - {""}
    return found


def test_import_edgekit_loads_nothing_heavy() -> None:
    assert loaded_by("import edgekit") & (HEAVY | {"rich", "msgspec", "click"}) == set()


def test_import_edgekit_loads_next_to_nothing() -> None:
    # Ctrl-C while it is imported ends the command with a traceback of Python, and nothing can be done about it.
    assert loaded_by("import edgekit, __future__") - loaded_by("import __future__") == {"edgekit"}
    loaded = json.loads(
        python("import sys, json, edgekit\nprint(json.dumps([n for n in sys.modules if 'edgekit' in n]))")
    )
    assert sorted(loaded) == ["edgekit", "edgekit.telemetry"]


def test_help_loads_nothing_heavy() -> None:
    assert loaded_by(help_of("--help")) & (HEAVY | {"rich", "msgspec"}) == set()


@pytest.mark.parametrize(
    "command",
    [
        *(
            "anchors",
            "build",
            "compare",
            "compile",
            "demo",
            "doctor",
            "eval",
            "export",
            "inspect",
            "models",
            "profile",
            "run",
        ),
        "train",
    ],
)
def test_help_of_a_command_loads_nothing_heavy(command: str) -> None:
    assert loaded_by(help_of(command, "--help")) & (HEAVY | {"rich", "msgspec"}) == set()


def test_a_list_of_models_needs_no_numpy() -> None:
    assert loaded_by(help_of("models")) & HEAVY == set()


def test_storage_needs_no_numpy() -> None:
    assert loaded_by("import edgekit.storage") & HEAVY == set()


def test_an_error_message_needs_no_numpy() -> None:
    code = "from edgekit.cli.main import main\nassert main(['bild']) == 2"
    assert loaded_by(code) & HEAVY == set()


def test_help_takes_less_than_0_3_seconds() -> None:
    seconds = []
    for _ in range(7):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "edgekit", "--help"], stdout=subprocess.DEVNULL, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    # Of the processor, and the fastest: what others do on this machine only ever makes it slower.
    assert min(seconds) < 0.3


def test_everything_that_a_board_needs_imports_with_the_base_dependencies_alone() -> None:
    modules = [
        ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        for folder in ON_THE_BOARD
        for file in sorted((PACKAGE / folder).rglob("*.py"))
        if file.name != TRITON_SOURCE
    ]
    assert "edgekit.runtime.session" in modules
    python(f"{BLOCK}\nimport importlib\nfor name in sys.argv[1:]:\n    importlib.import_module(name)", *modules)


def test_a_compilation_for_tensorrt_reaches_nothing_that_reads_graphs() -> None:
    reached = reached_from(COMPILES, but=SCHEME)
    assert {"edgekit.engine.layers", "edgekit.engine.tensorrt.layers", "edgekit.engine.builder"} <= reached
    assert [module for module in sorted(reached) if module.startswith(("edgekit.graph", "edgekit.lower"))] == []


def test_what_a_board_imports_is_followed_into_functions() -> None:
    reached = reached_from(("edgekit.engine.onnxruntime.backend",), but=SCHEME)
    assert "edgekit.lower.fuse_integer_matmul" in reached


def test_layers_of_an_engine_are_told_without_numpy() -> None:
    assert loaded_by("import edgekit.engine.layers") & HEAVY == set()


@pytest.mark.parametrize("name", BACKENDS)
def test_a_backend_is_made_without_what_reads_graphs(name: str) -> None:
    code = (
        f"from edgekit.engine.backend import backend\nbackend({name!r})\n"
        "import sys\nassert not {'edgekit.graph', 'edgekit.lower'} & set(sys.modules)"
    )
    assert loaded_by(code) & {*BUILD_ONLY, *VENDORS} == set()


def test_an_engine_loads_and_runs_with_the_base_dependencies_alone(detector: Path, picture: Path) -> None:
    code = (
        f"{BLOCK}\nimport edgekit\n"
        "with edgekit.load(sys.argv[1]) as session:\n"
        "    print(len(session.detect(sys.argv[2], score_threshold=0.2)))\n"
    )
    assert int(python(code, str(detector), str(picture))) > 0


def test_a_backend_that_is_not_installed_says_how_to_install_it() -> None:
    code = (
        f"{BLOCK}\nfrom edgekit.engine.backend import backend\n"
        "try:\n    backend('cpu').require()\nexcept Exception as e:\n    print(type(e).__name__, e)\n"
    )
    out = python(code)
    assert out.startswith("BackendUnavailable")
    assert "pip install" in out


@pytest.mark.parametrize(
    ("function", "words"), [("train", ["train", "lenet", "--data", "digits"]), ("debug", ["debug", "lenet"])]
)
def test_a_function_without_its_packages_says_how_to_install_them(function: str, words: list[str]) -> None:
    for call in (f"edgekit.{function}('lenet')", f"main({words})"):
        code = (
            f"{BLOCK}\nimport edgekit\nfrom edgekit.cli.main import main\n"
            f"try:\n    print({call})\nexcept edgekit.BackendUnavailable as e:\n    print(3, e)\n"
        )
        assert python(code).startswith("3")


@pytest.fixture
def onnx_file(tmp_path: Path) -> Path:
    import onnx
    from onnx import TensorProto, helper

    weights = [
        helper.make_tensor(name, TensorProto.FLOAT, shape, [0.01] * math.prod(shape))
        for name, shape in (("v", (16, 3, 3, 3)), ("w", (16, 16, 3, 3)))
    ]
    nodes = [helper.make_node("Conv", ["x", "v"], ["c"]), helper.make_node("Relu", ["c"], ["r"])]
    nodes += [helper.make_node("Conv", ["r", "w"], ["d"]), helper.make_node("GlobalAveragePool", ["d"], ["p"])]
    nodes += [helper.make_node("Flatten", ["p"], ["y"])]
    value = helper.make_tensor_value_info
    # A dynamic batch size and an old opset, so that shapes are computed and the opset is upgraded.
    inputs, outputs = [value("x", TensorProto.FLOAT, ["n", 3, 16, 16])], [value("y", TensorProto.FLOAT, ["n", 16])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


@pytest.mark.parametrize("arguments", [("inspect",), ("build", "--target", "cpu", "--no-profile", "--output", "out")])
def test_an_onnx_file_needs_neither_torch_nor_sympy(
    arguments: tuple[str, ...], onnx_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(onnx_file.parent)
    monkeypatch.setenv("EDGEKIT_CACHE", str(onnx_file.parent / "cache"))
    loaded = loaded_by(help_of(arguments[0], str(onnx_file), *arguments[1:]))
    assert {"onnx", "onnx_ir", "onnxruntime"} <= loaded
    assert loaded & {"torch", "sympy"} == set()
