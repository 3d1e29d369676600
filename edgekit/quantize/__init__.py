"""Quantizes a float graph: calibrates ranges once, then inserts the Q/DQ pairs that each target needs."""

from __future__ import annotations

from edgekit.lazy_sympy import load_sympy_on_first_use

load_sympy_on_first_use()
