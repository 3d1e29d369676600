"""The commands that install the packages of EdgeKit's extras, for hints.

Hints name the packages themselves, because the package ``edgekit`` on PyPI is another project.
"""

from __future__ import annotations

import ast
import operator
import re
import shlex
from collections.abc import Mapping

__all__ = ["DISTRIBUTION", "EXTRAS", "install_command", "requirements"]

DISTRIBUTION = "edgekit-compiler"

_BUILD = ("ml-dtypes", "onnx", "onnx-ir", "onnxruntime", "onnxscript", "safetensors", "torch")
# The names alone, for a source folder that is not installed and so has no metadata.
EXTRAS = {
    "build": _BUILD,
    "cpu": ("onnxruntime",),
    "openvino": ("openvino",),
    "tensorrt": ("cuda-bindings",),
    "rtx": ("cuda-bindings", "tensorrt-rtx-cu13"),
    "eval": ("pycocotools",),
    "train": (*_BUILD, "scikit-learn"),
}

_COMPARISONS = {
    "==": operator.eq,
    "!=": operator.ne,
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_NODES = {ast.Eq: "==", ast.NotEq: "!=", ast.GtE: ">=", ast.LtE: "<=", ast.Gt: ">", ast.Lt: "<"}


def install_command(extra: str, *packages: str) -> str:
    """Returns the command that installs an extra's missing packages, such as ``pip install 'openvino>=2025.0'``.

    Args:
        extra: a key of `EXTRAS`.
        packages: normalized names of the only packages to install; all of the extra if empty.
    """
    return " ".join(["pip install", *map(shlex.quote, requirements(extra, *packages))])


def requirements(extra: str, *packages: str) -> list[str]:
    """Returns the requirements of an extra that this environment does not meet, such as ``openvino>=2025.0``.

    If it meets all, all are returned: a package is installed, but cannot be imported.

    Args:
        extra: a key of `EXTRAS`.
        packages: normalized names of the only packages to return; all of the extra if empty.
    """
    found = {name: text for name, text in _of_extra(extra).items() if not packages or name in packages}
    return [text for name, text in found.items() if not _is_met(name, text)] or list(found.values())


def _of_extra(extra: str) -> dict[str, str]:
    """Requirements that the extra adds on this machine, by normalized name (PEP 503)."""
    from importlib import metadata

    try:
        lines = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return {name: name for name in EXTRAS[extra]}
    found = {}
    for line in lines:
        text, _, marker = (part.strip() for part in line.partition(";"))
        # A requirement whose marker holds with no extra is a base dependency.
        if marker and _applies(marker, extra) and not _applies(marker, ""):
            found[_name(text)] = text
    return found


def _name(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", requirement, maxsplit=1)[0]).lower()


def _applies(marker: str, extra: str) -> bool:
    """Whether an environment marker holds here (PyPA, "Dependency specifiers"); its grammar is a part of Python's."""
    import os
    import platform
    import sys

    values = {
        "extra": extra,
        "implementation_name": sys.implementation.name,
        "os_name": os.name,
        "platform_machine": platform.machine(),
        "platform_python_implementation": platform.python_implementation(),
        "platform_system": platform.system(),
        "python_full_version": platform.python_version(),
        "python_version": ".".join(platform.python_version_tuple()[:2]),
        "sys_platform": sys.platform,
    }
    return _holds(ast.parse(marker, mode="eval").body, values)


def _holds(node: ast.expr, values: Mapping[str, str]) -> bool:
    if isinstance(node, ast.BoolOp):
        parts = (_holds(part, values) for part in node.values)
        return all(parts) if isinstance(node.op, ast.And) else any(parts)
    if not isinstance(node, ast.Compare):
        raise ValueError(f"expected an environment marker, got {ast.unparse(node)}")
    sides = (node.left, node.comparators[0])
    left, right = (values[side.id] if isinstance(side, ast.Name) else str(ast.literal_eval(side)) for side in sides)
    kind = type(node.ops[0])
    if kind in (ast.In, ast.NotIn):
        return (left in right) is (kind is ast.In)
    compare = _COMPARISONS[_NODES[kind]]
    if any(isinstance(side, ast.Name) and side.id.endswith("version") for side in sides):
        return bool(compare(_numbers(left), _numbers(right)))
    return bool(compare(left, right))


def _is_met(name: str, requirement: str) -> bool:
    """Whether the package is installed in a version that the requirement allows."""
    from importlib import metadata

    try:
        version = _numbers(metadata.version(name))
    except metadata.PackageNotFoundError:
        return False
    limits = re.findall(r"(==|!=|>=|<=|<|>)\s*([\d.]+)", requirement)
    return all(_COMPARISONS[comparison](version, _numbers(limit)) for comparison, limit in limits)


def _numbers(version: str) -> tuple[int, ...]:
    """The release numbers of a version without trailing zeros: ``2.10.0+cpu`` is ``(2, 10)``."""
    release = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(map(int, re.sub(r"(\.0+)+$", "", release[0]).split("."))) if release else ()
