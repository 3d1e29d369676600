"""PyTorch modules exported to ONNX graphs."""
