"""Graphs: export of modules, loading of ONNX files, passes, checks and statistics; a graph is an `onnx_ir.Model`."""
