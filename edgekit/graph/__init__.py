"""Graphs: export from a module, loading of foreign ONNX, passes, checks and counts; a graph is an `onnx_ir.Model`."""

from __future__ import annotations

from edgekit.lazy_sympy import load_sympy_on_first_use

# It takes longer to load than all else that the builder's process imports.
load_sympy_on_first_use()
