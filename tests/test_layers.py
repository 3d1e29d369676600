from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import edgekit

PACKAGE = Path(edgekit.__file__).parent

# A package imports only packages that are listed before it.
LAYERS = (
    "text extras limits arguments errors progress telemetry interrupts lazy_sympy garbage_collection specs shapes "
    "storage scratch option recipe config device kernels data models graph quantize recognition lower engine runtime "
    "serving measure evaluation report training pipeline cli"
).split()
RANK = {name: rank for rank, name in enumerate(LAYERS)}
SURFACE = {"__init__.py", "__main__.py"}


def layer_of(file: Path) -> str:
    return file.relative_to(PACKAGE).with_suffix("").parts[0]


def source_files() -> list[Path]:
    return [file for file in sorted(PACKAGE.rglob("*.py")) if file.relative_to(PACKAGE).as_posix() not in SURFACE]


def imported_layers(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Packages of EdgeKit that a module imports, anywhere in it, and the line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "edgekit":
            names = [f"edgekit.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            # `import edgekit` for its version is no dependency on a layer.
            if parts[0] == "edgekit" and len(parts) > 1:
                yield parts[1], node.lineno


def violations(file: Path, text: str) -> list[str]:
    own = layer_of(file)
    return [
        f"{file.relative_to(PACKAGE)}:{line}: '{own}' imports '{other}', which stands after it"
        for other, line in imported_layers(ast.parse(text))
        if other != own and RANK[other] > RANK[own]
    ]


def test_every_package_has_its_place_in_the_order() -> None:
    assert {layer_of(file) for file in source_files()} <= set(RANK)


@pytest.mark.parametrize("file", source_files(), ids=lambda file: file.relative_to(PACKAGE).as_posix())
def test_no_package_imports_what_stands_after_it(file: Path) -> None:
    assert violations(file, file.read_text(encoding="utf-8")) == []


def test_imports_are_absolute() -> None:
    relative = [
        f"{file.relative_to(PACKAGE)}:{node.lineno}"
        for file in source_files()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert relative == []


def test_an_import_against_the_order_is_found_even_inside_a_function() -> None:
    text = "def f():\n    from edgekit.runtime.session import Session\n"
    assert violations(PACKAGE / "graph" / "example.py", text) == [
        "graph/example.py:2: 'graph' imports 'runtime', which stands after it"
    ]


@pytest.mark.parametrize("room", ["decode", "suppression"])
def test_a_reference_imports_nothing_of_the_code_that_is_tested_against_it(room: str) -> None:
    tree = ast.parse((PACKAGE / "kernels" / room / "reference.py").read_text(encoding="utf-8"))
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    own = {name for name in imported if name.startswith("edgekit.kernels")}
    assert own <= {"edgekit.kernels.decode.limits"}


def imports_in_functions(tree: ast.AST) -> set[int]:
    """Lines of the imports of EdgeKit's own modules inside functions."""
    return {
        node.lineno
        for function in ast.walk(tree)
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef))
        for node in ast.walk(function)
        if isinstance(node, (ast.Import, ast.ImportFrom)) and list(imported_layers(node))
    }


def without_reason(text: str) -> list[int]:
    """Lines of imports inside functions that no comment explains: on the line, or above their block of imports."""
    lines, bare = text.splitlines(), []
    found = imports_in_functions(ast.parse(text))
    for line in sorted(found):
        first = line
        while not lines[first - 2].strip() or lines[first - 2].lstrip().startswith(("from ", "import ")):
            first -= 1
        above = "\n".join(lines[max(0, first - 4) : first - 1])
        if "#" not in lines[line - 1] and "#" not in above:
            bare.append(line)
    return bare


def test_an_import_inside_a_function_gives_its_reason() -> None:
    # The commands import what they use when they run: edgekit/cli/__init__.py gives the reason for all of them.
    files = [file for file in source_files() if layer_of(file) != "cli"]
    bare = {file.relative_to(PACKAGE).as_posix(): without_reason(file.read_text(encoding="utf-8")) for file in files}
    assert {name: lines for name, lines in bare.items() if lines} == {}
