"""Fuzzes builds with small valid graphs: every target against ONNX Runtime on the original, without optimizations."""
