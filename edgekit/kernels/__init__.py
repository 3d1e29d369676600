"""Decoding of detector heads, non-maximum suppression, attention, each with a simple reference; compiled kernels.

`attention`, `nms` and `batched_nms` take arrays on the GPU of any library; see `edgekit.kernels.functional`, which is
loaded on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgekit.kernels.functional import attention, batched_nms, nms

__all__ = ["attention", "batched_nms", "nms"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("edgekit.kernels.functional"), name)


def __dir__() -> list[str]:
    return __all__
