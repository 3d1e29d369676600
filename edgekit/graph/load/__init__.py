"""ONNX files read, checked and upgraded to a current opset."""
