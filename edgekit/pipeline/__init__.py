"""The stages of a build: load, calibrate, quantize, verify and compile."""

from __future__ import annotations

from edgekit.lazy_sympy import load_sympy_on_first_use

load_sympy_on_first_use()
