"""Decoding of detector heads, non-maximum suppression, attention, each with a simple reference; compiled kernels."""
