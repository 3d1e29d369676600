"""Computes the values inside graphs and engines, to find where two of them part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import msgspec
import numpy as np
import onnx_ir as ir

from edgekit.device.cpu import cpu
from edgekit.engine.backend import BuildOptions, backend
from edgekit.engine.builder import engine_from_graph
from edgekit.engine.bundle.manifest import GRAPH
from edgekit.graph.evaluator import Evaluator
from edgekit.graph.file import is_quantized, save_graph
from edgekit.quantize.layer_noise import Values
from edgekit.scratch import scratch_folder
from edgekit.specs import Precision

__all__ = ["engine_values", "graph_values", "with_outputs"]

Arrays: TypeAlias = "Mapping[str, np.ndarray]"


def graph_values(graph: ir.Model, feeds: Sequence[Arrays]) -> Values:
    """Returns a function that computes values of a graph in ONNX Runtime on the CPU, without optimizations."""

    def values(names: Sequence[str]) -> list[dict[str, np.ndarray]]:
        evaluator = Evaluator(graph, also=names, threads=cpu().compute_threads)
        return [evaluator.run(dict(feed)) for feed in feeds]

    return values


def engine_values(graph: ir.Model, target: str, options: BuildOptions, feeds: Sequence[Arrays]) -> Values:
    """Returns a function that computes values of an engine: it builds one that has them as outputs.

    Args:
        graph: the graph of the engine.
        target: name of the backend, whose engines run on this machine.
        options: the options that the engine is built with.
        feeds: inputs by name.
    """
    if options.precision is Precision.INT8 and not is_quantized(graph):  # a part of a graph in INT8 that stays in float
        options = msgspec.structs.replace(options, precision=Precision.FP32)

    def values(names: Sequence[str]) -> list[dict[str, np.ndarray]]:
        with scratch_folder() as folder:
            save_graph(with_outputs(graph, names), folder / GRAPH)
            result = engine_from_graph(folder / GRAPH, folder, target, options)
            engine = backend(target).load(folder / result.engine, threads=options.threads)
            try:
                types = {spec.name: np.dtype(spec.dtype) for spec in engine.inputs}
                return [
                    {
                        each: np.array(array)
                        for each, array in engine.run(
                            {key: array.astype(types[key]) for key, array in feed.items() if key in types}
                        ).items()
                    }
                    for feed in feeds
                ]
            finally:
                engine.close()

    return values


def with_outputs(graph: ir.Model, names: Sequence[str]) -> ir.Model:
    """Returns a copy of the graph, sharing its weights, with values of the main graph as further outputs."""
    copy = graph.clone(deep_copy=False)
    wanted = set(names)
    for node in copy.graph:
        for value in node.outputs:
            if value.name in wanted and not value.is_graph_output():
                copy.graph.outputs.append(value)
    return copy
