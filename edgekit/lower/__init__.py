"""Rewrites a typed graph into the form that one backend's kernels run fastest."""

from __future__ import annotations

from edgekit.lazy_sympy import load_sympy_on_first_use

load_sympy_on_first_use()
