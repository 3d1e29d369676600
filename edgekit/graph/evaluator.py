"""Runs a graph in ONNX Runtime: the reference that checks compare with, and the eyes of calibration."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
import onnxruntime

from edgekit.device.memory import return_freed_memory
from edgekit.errors import GraphError
from edgekit.graph.external_weights import external_weights

__all__ = ["Evaluator"]


class Evaluator:
    """A graph in ONNX Runtime on the CPU, by default as it stands, graph optimizations off.

    Weights are handed to ONNX Runtime where they lie, so that a graph of 250 MB does not take 750 MB more.

    Args:
        graph: is not changed.
        also: names of intermediate values to give out beside the graph's outputs.
        threads: threads to compute with; 0 leaves it to ONNX Runtime.
        optimized: let ONNX Runtime fuse and reorder, for speed; the names of what is given out stay.

    Raises:
        GraphError: ONNX Runtime does not take the graph; names the node or operator where it says which.
    """

    def __init__(self, graph: ir.Model, *, also: Sequence[str] = (), threads: int = 0, optimized: bool = False) -> None:
        return_freed_memory()  # all of sessions before this one
        options = onnxruntime.SessionOptions()
        level = onnxruntime.GraphOptimizationLevel
        options.graph_optimization_level = level.ORT_ENABLE_ALL if optimized else level.ORT_DISABLE_ALL
        options.intra_op_num_threads = threads
        options.log_severity_level = 4
        model, self._weights = _model_and_weights(graph, also)
        try:
            values = [
                onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(array, dtype)
                for array, dtype in self._weights.values()
            ]
            options.add_external_initializers(list(self._weights), values)
            self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as e:
            raise GraphError(f"ONNX Runtime {onnxruntime.__version__} does not take the graph: {_plain(e)}") from e
        return_freed_memory()  # the weights in the layout that it has not chosen
        self.outputs = tuple(output.name for output in self._session.get_outputs())

    def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name for inputs by name.

        Raises:
            GraphError: a node failed; names it.
        """
        try:
            results = self._session.run(list(self.outputs), feeds)
        except Exception as e:
            raise GraphError(f"the graph fails in ONNX Runtime {onnxruntime.__version__}: {_plain(e)}") from e
        return dict(zip(self.outputs, results, strict=True))


def _model_and_weights(graph: ir.Model, also: Sequence[str]) -> tuple[bytes, dict[str, tuple[np.ndarray, int]]]:
    """The graph's file, in which ``also`` are outputs too, and each weight with ONNX's number of its type."""
    outputs = list(graph.graph.outputs)
    wanted = {value for node in graph.graph for value in node.outputs if value.name in set(also)}
    with external_weights(graph) as held:
        graph.graph.outputs.extend(value for value in wanted if not value.is_graph_output())
        try:
            model = ir.to_proto(graph).SerializeToString()
        finally:
            # Slices may be deleted, but only `pop` tells a value that it is no output any more.
            while len(graph.graph.outputs) > len(outputs):
                graph.graph.outputs.pop()
    weights = {name: (np.ascontiguousarray(tensor.numpy()), int(tensor.dtype.value)) for name, tensor in held.items()}
    return model, weights


def _plain(error: Exception) -> str:
    """ONNX Runtime's message without its error codes and the places in its own sources."""
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", str(error).strip())
    text = re.sub(r"\S+\.(cc|h):\d+ (?=\S)", "", text)
    return text.splitlines()[0] if text else type(error).__name__
