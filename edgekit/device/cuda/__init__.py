"""CUDA: the driver protocol, its two implementations, and the objects built on it."""
