from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import edgekit

PACKAGE = Path(edgekit.__file__).parent

# A package imports only what stands before it here.
LAYERS = (
    "extras errors progress specs shapes storage option recipe config device kernels data models graph quantize lower "
    "engine runtime serving measure evaluation report training pipeline cli"
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
