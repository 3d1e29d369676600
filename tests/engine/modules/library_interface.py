"""``python library_interface.py MODULE``: prints the module's interface as JSON, with arguments from docstrings."""

from __future__ import annotations

import importlib
import inspect
import json
import re
import sys
from typing import Any


def signatures(thing: Any, name: str) -> list[list[str]]:
    """Returns the parameters of each pybind11 overload, as ``name`` or ``name=``; empty if it is not a function."""
    lines = re.findall(rf"^(?:\d+\. )?{re.escape(name)}\((.*)\) ->", inspect.getdoc(thing) or "", re.MULTILINE)
    return [parameters(line) for line in lines if not line.startswith("*args")]


def parameters(line: str) -> list[str]:
    """``self: a.b, flags: int = 0`` -> ``self``, ``flags=``; commas within brackets do not separate."""
    parts, depth = [""], 0
    for letter in line:
        depth += (letter in "[(<") - (letter in "])>")
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    found = [re.match(r"\s*(\w+)[^=]*(=?)", part) for part in parts]
    return [match[1] + match[2] for match in found if match]


def interface(library: Any) -> dict[str, dict[str, list[list[str]]]]:
    """Returns the classes, their members, and the parameters of these."""
    return {
        name: {member: signatures(getattr(kind, member), member) for member in dir(kind)}
        for name, kind in vars(library).items()
        if isinstance(kind, type)
    }


if __name__ == "__main__":
    module = importlib.import_module(sys.argv[1])
    json.dump({"version": module.__version__, "classes": interface(module)}, sys.stdout)
