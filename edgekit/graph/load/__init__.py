"""Reads ONNX files, validates them and upgrades their opset."""
