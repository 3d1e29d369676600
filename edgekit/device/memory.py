"""Returns freed memory to the system."""

from __future__ import annotations

import ctypes

__all__ = ["return_freed_memory"]


def return_freed_memory() -> None:
    """Returns the freed memory of this process to the system, with glibc's ``malloc_trim``; no-op without glibc.

    glibc returns large blocks by itself, but raises the threshold up to 32 MB as large blocks are freed. Without this,
    the process keeps half a gigabyte after a session that has run YOLOv3 once.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(ctypes.c_size_t(0))
