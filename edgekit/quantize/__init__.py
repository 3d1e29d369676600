"""From a float graph to a quantized one: measure ranges once, place Q/DQ pairs as each target wants them."""

from __future__ import annotations

from edgekit.graph.lazy_sympy import load_sympy_on_first_use

load_sympy_on_first_use()
