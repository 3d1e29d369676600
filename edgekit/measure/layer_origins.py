"""Finds the nodes and the module that each layer of an engine came from, and layers that only convert."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from edgekit.engine.layer_timer import TimedLayer
from edgekit.measure.inspection import graph_and_stats, module_of
from edgekit.measure.layer_times import Overhead
from edgekit.specs import TensorSpec

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgekit.graph.stats import LayerStats

__all__ = ["LayerOrigin", "layer_origins", "overhead_of"]

# Operators as executed, of ONNX Runtime, OpenVINO and TensorRT, in lower case.
QUANTIZERS = frozenset({"quantizelinear", "dequantizelinear", "quantize", "dequantize", "fakequantize"})
REFORMATTERS = frozenset({"reorderinput", "reorderoutput", "reorder", "reformat"})
TRANSPOSERS = frozenset({"transpose", "shuffle"})


class LayerOrigin(NamedTuple):
    """Where a layer came from.

    Attributes:
        nodes: names of the nodes that it computes.
        operators: their operator types.
        converts: they only change the element type.
        module: path of its module.
        macs: MACs of each node that it computes, by name.
        weights: bytes of constants, likewise.
        helps: the backend names no nodes for it; they are those of the layer that reads it, which counts them.
    """

    nodes: tuple[str, ...] = ()
    operators: tuple[str, ...] = ()
    converts: bool = False
    module: str = ""
    macs: Mapping[str, int] = {}
    weights: Mapping[str, int] = {}
    helps: bool = False


def layer_origins(graph: Path | None, inputs: Sequence[TensorSpec], layers: Sequence[TimedLayer]) -> list[LayerOrigin]:
    """Returns where each layer came from; empty without the graph or ``onnx_ir``.

    Args:
        graph: file of the graph that the engine was built from; None without one.
        inputs: the inputs with dynamic sizes, in the shapes to count MACs for.
        layers: the layers as the backend reports them.
    """
    if graph is None or not graph.is_file():
        return []
    try:
        model, stats = graph_and_stats(graph, {spec.name: [int(size) for size in spec.shape] for spec in inputs})
        # Boards have no onnx_ir; their layers have times and names alone.
        from edgekit.graph.element_types import carries_type
        from edgekit.graph.partition import Executed, nodes_by_layer
    except ImportError:
        return []
    readers = _readers(layers)
    executed = [
        Executed(layer.nodes, layer.reads, layer.writes, after) for layer, after in zip(layers, readers, strict=True)
    ]
    parts = nodes_by_layer(model.graph, executed)
    counted = {layer.name: layer for layer in stats.layers}
    helps = _take_over(readers, parts)
    return [
        LayerOrigin(
            nodes=tuple(node.name or "" for node in part),
            operators=tuple(node.op_type for node in part),
            converts=bool(part) and all(map(carries_type, part)),
            module=_module(part, counted),
            macs={node.name or "": counted[node.name or ""].macs for node in part if node.name in counted},
            weights={node.name or "": counted[node.name or ""].weight_bytes for node in part if node.name in counted},
            helps=helping,
        )
        for part, helping in zip(parts, helps, strict=True)
    ]


def _readers(layers: Sequence[TimedLayer]) -> list[tuple[int, ...]]:
    """Returns the indices of each layer's readers; none for conversions of types and layouts, which have no nodes."""
    places = {layer.name: index for index, layer in enumerate(layers)}
    return [
        ()
        if layer.operator.lower() in QUANTIZERS | REFORMATTERS | TRANSPOSERS
        else tuple(places[name] for name in layer.readers if places.get(name, -1) > index)
        for index, layer in enumerate(layers)
    ]


def _take_over(readers: Sequence[Sequence[int]], parts: list[tuple[ir.Node, ...]]) -> list[bool]:
    """Gives a layer without nodes those of the layer that reads it, in place; returns which layers have such nodes.

    ONNX Runtime divides a MatMul into a Reshape and a Gemm, for example, of which only the Gemm has the node's name.
    """
    helps = [False] * len(parts)
    for index in reversed(range(len(parts))):
        if not parts[index] and readers[index]:
            parts[index] = parts[readers[index][0]]
            helps[index] = bool(parts[index])
    return helps


def _module(part: Sequence[ir.Node], counted: Mapping[str, LayerStats]) -> str:
    """Returns the module of the node with most arithmetic; for Q, DQ and casts, that of the value that they convert."""
    from edgekit.graph.element_types import computed_of  # as above

    nodes = [node for node in part if node.name in counted]
    if not nodes and part and part[0].inputs and part[0].inputs[0] is not None:
        producer = computed_of(part[0].inputs[0]).producer()
        nodes = [producer] if producer is not None and producer.name in counted else []
    if not nodes:
        return ""
    main = max((counted[node.name or ""] for node in nodes), key=lambda layer: (layer.macs, layer.weight_bytes))
    return module_of(main.name, main.module, main.operator)


def overhead_of(layer: TimedLayer, origin: LayerOrigin, *, known: bool) -> Overhead:
    """Returns what a layer converts if it computes nothing; ``known`` says that its origin was looked for."""
    operator = layer.operator.lower()
    if origin.converts or (operator in QUANTIZERS and not origin.nodes):
        return "quantize"
    if operator in REFORMATTERS:
        return "reformat"
    # Without the graph, a transposition may be the model's own.
    transposes = operator in TRANSPOSERS and known
    return "transpose" if transposes and not _moves_by_itself(origin.operators) else ""


def _moves_by_itself(operators: Sequence[str]) -> bool:
    """Whether the graph itself changes the order or the shape of the values there."""
    return bool({"Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "DepthToSpace"}.intersection(operators))
