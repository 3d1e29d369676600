"""Formats durations, for the sentences of reports and their tables alike."""

from __future__ import annotations

__all__ = ["milliseconds", "milliseconds_change"]


def milliseconds(value_ms: float) -> str:
    """Formats a duration with three significant digits, without a unit: ``0.123``, ``1.23``, ``12.3``, ``1234``."""
    decimals = 3 if value_ms < 1 else 2 if value_ms < 10 else 1 if value_ms < 100 else 0
    return f"{value_ms:.{decimals}f}"


def milliseconds_change(change_ms: float) -> str:
    """Formats a difference with its sign: ``+1.23 ms``, ``-12.3 ms``."""
    return f"{'-' if change_ms < 0 else '+'}{milliseconds(abs(change_ms))} ms"
