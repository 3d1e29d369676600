"""Finds the names of a library that code uses, from the source of the code.

Parameters named ``library`` are the library's module; objects of the library's types are annotated ``trt.X``.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass
class Uses:
    """The names that are used, and where.

    Attributes:
        names: ``library.A`` and ``library.A.B``, as ``A`` or ``A.B``.
        members: ``A.b`` for ``x.b`` where x is annotated as A.
        calls: ``A.b`` with the number of positional arguments and the names of the others.
        attributes: attributes of objects of unknown type, by name.
        methods: the same with arguments, as in `calls`.
        asked: names that are checked with ``hasattr`` or ``getattr`` before use.
    """

    names: dict[str, str] = field(default_factory=dict)
    members: dict[str, str] = field(default_factory=dict)
    calls: dict[tuple[str, int, tuple[str, ...]], str] = field(default_factory=dict)
    attributes: dict[str, str] = field(default_factory=dict)
    methods: dict[tuple[str, int, tuple[str, ...]], str] = field(default_factory=dict)
    asked: dict[str, str] = field(default_factory=dict)


def uses_of(files: list[Path]) -> Uses:
    """Collects the names that the files use."""
    uses = Uses()
    for file in files:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        _collect(uses, tree, file.name)
        imported = {
            alias.asname or alias.name.partition(".")[0]
            for node in ast.walk(tree)
            if isinstance(node, (ast.Import, ast.ImportFrom))
            for alias in node.names
        }
        for function in (node for node in ast.walk(tree) if isinstance(node, FUNCTIONS)):
            _collect_typed(uses, function, file.name)
            _collect_untyped(uses, function, file.name, imported)
    return uses


def _collect(uses: Uses, tree: ast.AST, file: str) -> None:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            where = f"{file}:{node.lineno}"
            chain = ast.unparse(node).split(".")
            if chain[0] == "library" and all(part.isidentifier() for part in chain):
                uses.names.setdefault(".".join(chain[1:]), where)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in {"getattr", "hasattr"}:
            name = node.args[1]
            if isinstance(name, ast.Constant):
                uses.asked.setdefault(name.value, f"{file}:{node.lineno}")


def _collect_typed(uses: Uses, function: ast.FunctionDef | ast.AsyncFunctionDef, file: str) -> None:
    types = dict(_annotated(function))
    for node in ast.walk(function):
        where = f"{file}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Call):
            target = ast.unparse(node.func).split(".")
            keywords = tuple(keyword.arg or "**" for keyword in node.keywords)
            if target[0] in types and len(target) == 2:
                uses.calls.setdefault((f"{types[target[0]]}.{target[1]}", len(node.args), keywords), where)
            elif target[0] == "library" and len(target) == 2:
                uses.calls.setdefault((f"{target[1]}.__init__", len(node.args), keywords), where)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in types:
            uses.members.setdefault(f"{types[node.value.id]}.{node.attr}", where)


def _collect_untyped(
    uses: Uses, function: ast.FunctionDef | ast.AsyncFunctionDef, file: str, imported: set[str]
) -> None:
    """Collects attributes and calls of objects without annotation, which may be the library's."""
    others = imported | {name for name, kind in _annotations(function) if kind != "Any" and not kind.startswith("trt.")}
    for node in ast.walk(function):
        if isinstance(node, ast.Attribute) and _root(node) not in others:
            uses.attributes.setdefault(node.attr, f"{file}:{node.lineno}")
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and _root(node.func) not in others:
            keywords = tuple(keyword.arg or "**" for keyword in node.keywords)
            if not any(isinstance(argument, ast.Starred) for argument in node.args):
                uses.methods.setdefault((node.func.attr, len(node.args), keywords), f"{file}:{node.lineno}")


def _root(node: ast.expr) -> str:
    """Returns ``x`` of ``x.y.z``; empty if that is not a name."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def _annotated(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[tuple[str, str]]:
    """Returns the library class of each annotated parameter and variable, by name."""
    for name, annotation in _annotations(function):
        text = annotation.removesuffix(" | None")
        if text.startswith("trt.") and text[4:].isidentifier():
            yield name, text[4:]


def _annotations(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[tuple[str, str]]:
    for node in ast.walk(function):
        if isinstance(node, ast.arg) and node.annotation:
            yield node.arg, ast.unparse(node.annotation)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id, ast.unparse(node.annotation)
