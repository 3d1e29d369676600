"""The drawing of the packages, from the list that tests/test_layers.py enforces."""

from __future__ import annotations

import ast
import runpy
from pathlib import Path

import edgekit

__all__ = ["drawing_of_packages"]

PACKAGE = Path(edgekit.__file__).parent
TEST = Path(__file__).parents[2] / "tests" / "test_layers.py"


def drawing_of_packages() -> str:
    """A tree of the layers, top first, each with the first sentence of its docstring."""
    layers: list[str] = runpy.run_path(str(TEST))["LAYERS"]
    found = [(name, file) for name in layers if (file := _file(name)) is not None]
    shown = {name: f"{name}.py" if file.stem == name else f"{name}/" for name, file in found}
    width = max(map(len, shown.values())) + 2
    return "\n".join(["```text", "edgekit/", *(f"  {shown[n]:<{width}}{_summary(file)}" for n, file in found), "```"])


def _file(name: str) -> Path | None:
    places = (PACKAGE / name / "__init__.py", PACKAGE / f"{name}.py")
    return next((place for place in places if place.is_file()), None)


def _summary(file: Path) -> str:
    doc = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    first = doc.partition("\n\n")[0].replace("\n", " ")
    return first.replace("``", "").replace("`", "").partition(";")[0].removesuffix(".")
