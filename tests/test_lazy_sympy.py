from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import edgekit

ROOT = Path(edgekit.__file__).parents[1]
SHOWN = "\nprint(*sorted({'sympy', 'onnx_ir._symbolic_shapes'} & set(sys.modules)))"


def printed_by(code: str) -> list[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}"], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize("package", ["graph", "quantize", "lower", "pipeline"])
def test_onnx_ir_is_imported_without_sympy(package: str) -> None:
    assert printed_by(f"import edgekit.{package}, onnx_ir{SHOWN}") == []


def test_the_first_arithmetic_loads_it() -> None:
    code = "import edgekit.graph, onnx_ir\nprint(onnx_ir.SymbolicDim('n') + 1 == 'n + 1')"
    assert printed_by(code + SHOWN) == ["True", "onnx_ir._symbolic_shapes", "sympy"]


def test_it_is_one_sympy_for_all() -> None:
    """PyTorch's submodules import submodules of sympy, and compare classes."""
    code = """
import edgekit.graph, onnx_ir
from sympy.logic.boolalg import Boolean
import sympy, torch.fx.experimental.symbolic_shapes
dimension = onnx_ir.SymbolicDim(2 * sympy.Symbol("n"))
print(isinstance((dimension + 1)._expr, sympy.Expr), sympy.logic.boolalg.Boolean is Boolean, dimension.value)
"""
    assert printed_by(code) == ["True", "True", "2*n"]


def test_where_sympy_is_loaded_already_it_is_that_one() -> None:
    code = "import sympy, edgekit.graph, onnx_ir\nprint(onnx_ir._core.sympy is sympy)"
    assert printed_by(code) == ["True"]


def test_what_is_looked_for_and_not_imported_is_imported_later_without_sympy() -> None:
    code = "import importlib.util, edgekit.graph\nprint(importlib.util.find_spec('onnx_ir').name)\nimport onnx_ir"
    assert printed_by(code + SHOWN) == ["onnx_ir"]


def test_resources_are_read_through_the_loader_of_before() -> None:
    code = """
import edgekit.graph, onnx_ir
loader = onnx_ir.__spec__.loader
print(type(loader).__name__, onnx_ir.__loader__ is loader)
"""
    assert printed_by(code) == ["SourceFileLoader", "True"]


def test_where_onnx_ir_is_missing_it_is_still_missing() -> None:
    code = """
import edgekit.graph
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name == "onnx_ir":
            raise ModuleNotFoundError("there is none", name=name)
sys.meta_path.insert(1, Absent())
try:
    import onnx_ir
except ModuleNotFoundError as e:
    print(e.name)
"""
    assert printed_by(code + SHOWN) == ["onnx_ir"]
