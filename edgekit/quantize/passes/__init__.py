"""Passes over a quantization plan and its graph."""
