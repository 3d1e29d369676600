"""Lists the layers of an engine or a graph: shapes, precisions, parameters, arithmetic and bytes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edgekit.engine.bundle.manifest import Manifest, manifest_in, read_engine, rebuild_hint
from edgekit.errors import BackendUnavailable, EngineMismatch, GraphError
from edgekit.extras import install_command
from edgekit.specs import TensorSpec
from edgekit.text import json_value

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgekit.graph.stats import GraphStats

__all__ = [
    "Inspection",
    "LayerRow",
    "graph_and_stats",
    "inspection_from_bundle",
    "inspection_from_stats",
    "module_of",
    "module_path",
]

GRAPH_FILE = "graph.onnx"
LAYERS_FILE = "layers.json"

MOVES = frozenset({"cast", "identity", "shuffle", "squeeze", "unsqueeze"})
"""Layers that a parser adds next to the layer that computes a node, under that node's name."""
PRODUCTS = frozenset({"convolution", "deconvolution", "matrix_multiply"})


class LayerRow(msgspec.Struct, frozen=True, kw_only=True):
    """One layer; a figure that needs the package ``onnx`` is None without it.

    Attributes:
        name: the layer's name.
        operator: operator type.
        output_shape: shape of its first output; -1 for a dynamic dimension without an assumed size.
        precision: numpy's name of the element type that it computes in.
        parameters: number of parameters.
        macs: multiply-accumulates.
        weight_bytes: bytes of the constants that it reads.
        activation_bytes: bytes of the activations that it reads and writes, if it is not fused with another layer.
        intensity: arithmetic operations (two per multiply-accumulate) per byte read or written, as in the roofline
            model (Williams, Waterman and Patterson 2009).
        kernel: window size of a convolution or a pool.
        strides: strides of that window; empty if all are 1.
        reads: names of the activations that it reads: the graph's inputs, and outputs of other layers.
        writes: names of the values that it writes, including the graph's outputs.
        write_bytes: size of each of ``writes``, in the element type in which it is written.
        module: path of the module that it came from, if the graph has it; otherwise ``name`` has the path.
    """

    name: str
    operator: str
    output_shape: tuple[int, ...]
    precision: str
    parameters: int | None = None
    macs: int | None = None
    weight_bytes: int | None = None
    activation_bytes: int | None = None
    intensity: float | None = None
    kernel: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    write_bytes: tuple[int, ...] = ()
    module: str = ""


class Inspection(msgspec.Struct, frozen=True, kw_only=True):
    """The result of `edgekit inspect`, and the JSON that it prints.

    Attributes:
        name: the model's name.
        parameters: number of parameters of all layers.
        macs: multiply-accumulates of one run.
        weight_bytes: bytes of the constants of all layers.
        activation_bytes: bytes of the activations that all layers read and write.
        intensity: operations per byte, over all layers.
        assumed_sizes: the size that each dynamic dimension was counted with: the opt size of its range.
        precision_from: ``engine`` if the precisions were read back from the engine, ``option`` if they were requested
            by an option, else ``graph``.
        inputs: inputs of the engine or the graph.
        outputs: outputs of the engine or the graph.
        layers: in the order of execution.
        manifest: the manifest of an engine; None for a model.
        fusions: names of the layers that each layer of the engine computes together, as its library reports them after
            fusion; empty if it does not.
    """

    name: str
    parameters: int | None
    macs: int | None
    weight_bytes: int | None
    activation_bytes: int | None
    intensity: float | None
    assumed_sizes: dict[str, int]
    precision_from: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    layers: tuple[LayerRow, ...]
    manifest: Manifest | None = None
    fusions: tuple[tuple[str, ...], ...] = ()


class EngineLayer(msgspec.Struct, frozen=True):
    """An entry of ``layers.json``: a layer as the engine's library reports it, and the nodes that it was made from."""

    name: str
    type: str = ""
    precision: str = ""
    outputs: tuple[tuple[int, ...], ...] = ()
    nodes: tuple[str, ...] = ()


def module_path(name: str, module: str, operator: str) -> tuple[str, ...]:
    """Returns the path of a layer: the modules that contain it, from the outermost, then its own name.

    Args:
        name: the layer's name: a path with dots, or one with slashes as PyTorch's older exporter writes them
            (``/layer1/layer1.0/conv1/Conv``).
        module: path of its module, if the graph has it.
        operator: the last part for a layer without a name.
    """
    if module:
        return (*module.split("."), name)
    if "/" not in name:
        return tuple(part for part in name.split(".") if part) or (operator,)
    path: list[str] = []
    before = ""
    for part in filter(None, name.split("/")):
        path.append(part.removeprefix(f"{before}."))
        before = part
    return tuple(path) or (operator,)


def module_of(name: str, module: str, operator: str) -> str:
    """Returns the path of the module that a layer came from; see `module_path`."""
    path = module_path(name, module, operator)
    # A name with dots is the path of a module, or of a function in it; otherwise the last part is the node's own name.
    own = bool(module) or "/" in name
    return ".".join(path[:-1] if own else path)


def inspection_from_stats(
    name: str, stats: GraphStats, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
) -> Inspection:
    """Returns the inspection of a graph."""
    return _from_rows(name, _rows(stats, {}), stats, inputs, outputs)


def inspection_from_bundle(path: Path, shapes: Mapping[str, Sequence[int]] | None = None) -> Inspection:
    """Returns the inspection of the engine in the folder ``path``; the engine does not have to run here.

    Layers, parameters and arithmetic are read from the bundle's graph. Precisions are read from the engine if its
    library reports them (``layers.json``), else from the graph's Q/DQ. Without the package ``onnx``, the layers are
    those that the engine's library reports, with shapes and precisions only.

    Args:
        path: the folder of the engine.
        shapes: fixed shapes of inputs with dynamic dimensions, by name; default: the opt shapes.

    Raises:
        UsageError: ``path`` is not a bundle.
        EngineMismatch: the bundle is damaged.
        BackendUnavailable: ``onnx`` is needed, and not installed.
    """
    return read_engine(path, lambda folder: _inspection_in(folder.at, shapes or {}))


def _inspection_in(path: Path, shapes: Mapping[str, Sequence[int]]) -> Inspection:
    manifest = manifest_in(path)
    engine = _engine_layers(path / LAYERS_FILE)
    try:
        wanted = {name: shapes.get(name, shape.opt) for name, shape in manifest.shapes.items()}
        _, stats = graph_and_stats(path / GRAPH_FILE, wanted)
    except GraphError as e:
        raise EngineMismatch(e.message, hint=rebuild_hint(manifest.rebuild)) from e
    except ImportError as e:
        if engine is None:
            raise BackendUnavailable(
                f"inspecting an engine for {manifest.backend} needs packages that are not installed: {e}",
                hint=install_command("build", "onnx", "onnx-ir"),
            ) from e
        stats = None
    precisions = _precision_by_node(engine or ())
    rows = [_row_of_engine(layer) for layer in engine or ()] if stats is None else _rows(stats, precisions)
    found = _from_rows(manifest.name, rows, stats, manifest.inputs, manifest.outputs)
    return msgspec.structs.replace(
        found,
        manifest=manifest,
        precision_from="graph" if engine is None else "engine",
        fusions=_fusions(engine or ()),
    )


def _fusions(engine: Sequence[EngineLayer]) -> tuple[tuple[str, ...], ...]:
    """Returns the nodes of each layer of a built engine.

    An engine that was built without its GPU has the list of its network before fusion, with one node in each layer.
    """
    fused = any(len(set(layer.nodes)) > 1 for layer in engine)
    return tuple(layer.nodes for layer in engine if layer.nodes) if fused else ()


def _engine_layers(file: Path) -> tuple[EngineLayer, ...] | None:
    if not file.is_file():
        return None
    try:
        found: tuple[EngineLayer, ...] = json_value(file.read_bytes(), type=tuple[EngineLayer, ...])
    except (OSError, msgspec.MsgspecError) as e:
        raise EngineMismatch(f"{file} is damaged: {e}", hint="build the engine again") from e
    return found


def graph_and_stats(file: Path, shapes: Mapping[str, Sequence[int]]) -> tuple[ir.Model, GraphStats]:
    """Reads the graph of a bundle, and computes its statistics for these shapes of the inputs with dynamic dimensions.

    Raises:
        GraphError: the file is not a graph.
        ImportError: ``onnx_ir`` is not installed, as on boards.
    """
    # Boards have no onnx: an engine with a list of its layers is inspected without it.
    import onnx_ir
    from google.protobuf.message import DecodeError

    from edgekit.graph.sizes import stats_at

    try:
        graph = onnx_ir.load(file)
    except (OSError, DecodeError, ValueError) as e:
        raise GraphError(f"cannot read {file}: expected the graph of the engine: {e}") from e
    return graph, stats_at(graph, shapes)


def _rows(stats: GraphStats, precisions: Mapping[str, str]) -> list[LayerRow]:
    return [
        LayerRow(
            name=layer.name,
            operator=layer.operator,
            output_shape=layer.output_shape,
            precision=precisions.get(layer.name) or layer.precision,
            parameters=layer.parameters,
            macs=layer.macs,
            weight_bytes=layer.weight_bytes,
            activation_bytes=layer.activation_bytes,
            intensity=_intensity(layer.macs, layer.weight_bytes + layer.activation_bytes),
            kernel=layer.kernel,
            strides=layer.strides,
            reads=layer.reads,
            writes=layer.writes,
            write_bytes=layer.write_bytes,
            module=layer.module,
        )
        for layer in stats.layers
    ]


def _row_of_engine(layer: EngineLayer) -> LayerRow:
    return LayerRow(
        name=layer.name,
        operator=layer.type,
        output_shape=layer.outputs[0] if layer.outputs else (),
        precision=layer.precision,
    )


def _from_rows(
    name: str,
    rows: list[LayerRow],
    stats: GraphStats | None,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
) -> Inspection:
    if stats is None:
        parameters = macs = weight_bytes = activation_bytes = intensity = None
    else:
        parameters, macs, activation_bytes = stats.parameters, stats.macs, stats.activation_bytes
        weight_bytes = sum(layer.weight_bytes for layer in stats.layers)
        intensity = _intensity(macs, weight_bytes + activation_bytes)
    return Inspection(
        name=name,
        parameters=parameters,
        macs=macs,
        weight_bytes=weight_bytes,
        activation_bytes=activation_bytes,
        intensity=intensity,
        assumed_sizes={} if stats is None else stats.assumed_sizes,
        precision_from="graph",
        inputs=inputs,
        outputs=outputs,
        layers=tuple(rows),
    )


def _intensity(macs: int, length_bytes: int) -> float | None:
    return 2 * macs / length_bytes if macs and length_bytes else None


def _precision_by_node(engine: Iterable[EngineLayer]) -> dict[str, str]:
    """Returns the engine's precision of each graph node that the engine reports.

    Layers of a network that still has its Q and DQ have their final types only if they are products: the Q/DQ around
    the other layers are fused later.
    """
    layers = sorted((layer for layer in engine if layer.precision), key=lambda layer: layer.type in MOVES)
    if any(layer.type in ("quantize", "dequantize") for layer in layers):
        layers = [layer for layer in layers if layer.type in PRODUCTS]
    found: dict[str, str] = {}
    for layer in layers:
        for node in (layer.name, *layer.nodes):
            found.setdefault(node, layer.precision)
    return found
