"""Clipping limits of raw detector outputs, so that box areas stay finite in float32."""

from __future__ import annotations

__all__ = ["MAX_CLASS", "MAX_EXPONENT", "MAX_ROOT"]

MAX_CLASS = 2**24
"""A class number that is a float must be less than this to be exact."""

MAX_EXPONENT = 16.0
"""For YOLOv2 and YOLOv3: a side is at most ``exp`` of this times the anchor, nine million anchors."""

MAX_ROOT = 1000.0
"""For YOLOv1 and ``new_coords``: a side is at most the square of this times the image, or of twice it the anchor."""
