"""The model as its user brought it, which everything that EdgeKit makes of it is compared with.

A module runs in PyTorch (`edgekit.graph.export.original`), an ONNX file in ONNX Runtime without optimizations, or, if
that cannot run it, in ONNX's reference evaluator. A file in half or double precision is computed in float32, with its
numbers as they are.
"""
from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime

from edgekit.device.cpu import cpu, return_freed_memory
from edgekit.errors import GraphError
from edgekit.graph.evaluator import Evaluator, error_of_runtime

__all__ = ["OnnxOriginal", "Original"]

Feed = Mapping[str, np.ndarray]


class Original(Protocol):
    """A model as its user brought it.

    Attributes:
        name: what computes its outputs, for messages and reports.
    """

    @property
    def name(self) -> str: ...

    def run(self, feeds: Iterable[Feed]) -> list[dict[str, np.ndarray]]:
        """Computes the outputs for each feed, by name.

        Raises:
            GraphError: it cannot run.
        """
        ...

    def inside(self, feed: Feed) -> dict[str, np.ndarray]:
        """Computes the values inside of it for one feed, by name: outputs of nodes, or of submodules."""
        ...

    def close(self) -> None:
        """Frees the model; it cannot run any more."""
        ...


class OnnxOriginal:
    """An ONNX file.

    Args:
        path: the file, which must not change before it is run.
        values: arrays of the inputs that are not in the feeds, by name.
    """

    def __init__(self, path: Path, values: Feed | None = None) -> None:
        self.name = f"ONNX Runtime on {path.name}"
        self._path, self._values = Path(path).resolve(), dict(values or {})
        self._run: Any = None

    def run(self, feeds: Iterable[Feed]) -> list[dict[str, np.ndarray]]:
        if self._run is None:
            self._run = self._loaded()
        return [self._run({**feed, **self._values}) for feed in feeds]

    def inside(self, feed: Feed) -> dict[str, np.ndarray]:
        graph = ir.load(self._path)
        names = [value.name for node in graph.graph for value in node.outputs if value.name]
        return Evaluator(graph, also=names, threads=cpu().compute_threads).run({**feed, **self._values})

    def close(self) -> None:
        self._run = None
        return_freed_memory()

    def _loaded(self) -> Any:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = cpu().compute_threads
        options.log_severity_level = 4
        try:
            session = onnxruntime.InferenceSession(str(self._path), options, providers=["CPUExecutionProvider"])
        except Exception as e:
            return self._in_reference_evaluator(e)
        names = [output.name for output in session.get_outputs()]

        def run(feed: Feed) -> dict[str, np.ndarray]:
            try:
                return dict(zip(names, session.run(names, dict(feed)), strict=True))
            except Exception as e:
                raise GraphError(f"ONNX Runtime cannot run {self._path.name}: {error_of_runtime(e)}") from e

        return run

    def _in_reference_evaluator(self, error: Exception) -> Any:
        from onnx.reference import ReferenceEvaluator

        name = self._path.name
        try:
            evaluator = ReferenceEvaluator(onnx.load(self._path))
        except Exception as e:
            raise GraphError(
                f"neither ONNX Runtime nor ONNX's reference evaluator can load {name}: {error_of_runtime(error)}"
            ) from e
        self.name = f"ONNX's reference evaluator on {name}"

        def run(feed: Feed) -> dict[str, np.ndarray]:
            try:
                return dict(zip(evaluator.output_names, evaluator.run(None, dict(feed)), strict=True))
            except Exception as e:
                raise GraphError(f"ONNX's reference evaluator cannot run {name}: {error_of_runtime(e)}") from e

        return run
