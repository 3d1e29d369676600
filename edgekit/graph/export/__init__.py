"""Exports PyTorch modules to ONNX graphs."""
