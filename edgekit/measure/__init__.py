"""Measurements: latency, machine state, comparisons between engines."""
