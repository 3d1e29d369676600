from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest

import edgekit
from edgekit.arguments import argument, either, in_shell, on_command_line
from edgekit.specs import SizeRange

PACKAGE = Path(edgekit.__file__).parent


@pytest.mark.parametrize(
    ("arguments", "options", "python", "command_line"),
    [
        (("calib_method",), {}, "calib_method", "--calib-method"),
        (("calib", "photos"), {}, "calib='photos'", "--calib photos"),
        (("calib",), {"like": "DIR"}, "calib=DIR", "--calib DIR"),
        (("output", Path("a/b")), {}, "output='a/b'", "--output a/b"),
        (("precision", "fp32"), {}, "precision='fp32'", "--fp32"),
        (("resume", True), {}, "resume=True", "--resume"),
        (("profile", False), {}, "profile=False", "--no-profile"),
        (("shape", (320, 416)), {}, "shape=(320, 416)", "--shape 320x416"),
        (("shape", (SizeRange(1, 4, 16), 3)), {}, "shape=((1, 4, 16), 3)", "--shape 1:4:16x3"),
        (("input", {"x": (1, 3)}), {}, "input={'x': (1, 3)}", "--input x:1x3"),
        (("input", {"": (1, 3)}), {}, "input={'': (1, 3)}", "--input 1x3"),
        (("batch", (1, 4, 16)), {"shell": "1:4:16"}, "batch=(1, 4, 16)", "--batch 1:4:16"),
        (
            ("workspace_mib", 64),
            {"flag": "--workspace", "within": "engine"},
            "engine={'workspace_mib': 64}",
            "--workspace 64",
        ),
        (("dla",), {"within": "engine"}, "engine['dla']", "--dla"),
    ],
)
def test_an_argument_is_named_as_its_reader_writes_it(
    arguments: tuple[Any, ...], options: dict[str, Any], python: str, command_line: str
) -> None:
    assert argument(*arguments, **options) == python
    with on_command_line():
        assert argument(*arguments, **options) == command_line
    assert argument(*arguments, **options) == python


def test_the_wording_is_that_of_the_reader() -> None:
    assert either("edgekit run x", "edgekit.load('x')") == "edgekit.load('x')"
    with on_command_line():
        assert either("edgekit run x", "edgekit.load('x')") == "edgekit run x"


def texts_of_messages(file: Path) -> list[str]:
    """The literal texts of errors, hints and notes in a file, without what `argument`, `either` and `in_shell` get."""
    found: list[str] = []

    def walk(node: ast.AST, inside: bool) -> None:
        if isinstance(node, ast.Call):
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            if name in ("argument", "either", "in_shell", "engine_argument", "train_argument"):
                return
            inside = inside or name == "note" or name.endswith(("Error", "Unavailable", "Mismatch"))
        if inside and isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else "…" for part in node.values]
            found.append("".join(map(str, parts)))
            for part in node.values:
                if not isinstance(part, ast.Constant):
                    walk(part, inside)
            return
        if inside and isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
        for child in ast.iter_child_nodes(node):
            walk(child, inside)

    walk(ast.parse(file.read_text(encoding="utf-8")), inside=False)
    return found


def test_no_message_outside_of_the_command_line_writes_an_option_itself() -> None:
    files = [file for file in PACKAGE.rglob("*.py") if file.relative_to(PACKAGE).parts[0] != "cli"]
    # Shell commands have options of their own, and a file is named after the command that writes it.
    shell = re.compile(r"\b(pip|python3?|docker) |of `edgekit")
    found = {
        file.relative_to(PACKAGE).as_posix(): text
        for file in files
        for text in texts_of_messages(file)
        if re.search(r"(?<![\w-])--[a-z]", text) and not shell.search(text)
    }
    assert found == {}


def test_a_command_without_an_equal_in_python_is_called_a_shells() -> None:
    assert in_shell("edgekit eval A") == "in a shell: edgekit eval A"
    with on_command_line():
        assert in_shell("edgekit eval A") == "edgekit eval A"
