"""Decoding of detector heads and non-maximum suppression, each with a simple reference; CUDA kernels, compiled."""
