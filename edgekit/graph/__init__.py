"""Graphs: export from a module, loading of foreign ONNX, passes, checks and counts; a graph is an `onnx_ir.Model`."""
