"""The backend ``cpu``: ONNX Runtime."""
