"""Compilation: builds the engine from the typed graph, and the FP32 engine that it is compared with."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import onnx_ir as ir

import edgekit
from edgekit.arguments import argument
from edgekit.config import NATIVE_ATTENTION, BuildConfig, TargetConfig, build_command
from edgekit.engine.backend import BuildResult, ChecksOptions, backend, build_options_of
from edgekit.engine.builder import engine_from_graph
from edgekit.engine.bundle.manifest import (
    FORMAT,
    GRAPH,
    CalibrationInfo,
    FileInfo,
    Manifest,
    this_machine,
    timestamp,
)
from edgekit.engine.layers import assert_precision, layer_counts
from edgekit.engine.source_graph import graph_layers
from edgekit.engine.tensorrt.network import float_original
from edgekit.graph.element_types import precision_of
from edgekit.graph.file import input_specs, output_specs, save_graph
from edgekit.graph.operators import INTEGER_PRODUCTS, PRODUCTS
from edgekit.graph.passes import InferShapes
from edgekit.lower.attention_as_operator import AttentionAsOperator
from edgekit.lower.attention_as_plugin import AttentionAsPlugin
from edgekit.lower.replace_attention import ReplaceAttention
from edgekit.lower.require_signed_integers import require_signed_integers
from edgekit.lower.rewriting import lower
from edgekit.lower.tensorrt_operators import use_tensorrt_operators
from edgekit.measure.compare import BuiltEngine
from edgekit.option import given_values
from edgekit.pipeline.calibrate import Calibration
from edgekit.pipeline.loaded_model import LoadedModel
from edgekit.pipeline.precision import NAMED_PARTS, TypedGraph
from edgekit.progress import Progress
from edgekit.specs import Precision
from edgekit.text import some_of

__all__ = ["compile_engine", "compile_reference"]


def compile_reference(scratch: Path, model: LoadedModel, config: BuildConfig, progress: Progress) -> BuiltEngine:
    """Builds the FP32 engine that an engine in another precision is compared with.

    Args:
        scratch: receives the engine.
        model: the loaded model.
        config: the build config of the other engine.
        progress: receives a stage.

    Raises:
        BuildError: the builder failed; see `edgekit.engine.builder.engine_from_graph`.
        GraphError: the backend does not support the graph.
    """
    target = dataclasses.replace(config.target, precision=Precision.FP32, half_io=False)
    return _compiled_graph(scratch, model.graph, model, None, dataclasses.replace(config, target=target), progress)


def compile_engine(
    folder: Path,
    model: LoadedModel,
    typed: TypedGraph,
    calibration: Calibration,
    config: BuildConfig,
    progress: Progress,
) -> BuiltEngine:
    """Builds the engine.

    Args:
        folder: receives the engine and its graph.
        model: the loaded model.
        typed: the graph of the engine.
        calibration: the calibration that the manifest records.
        config: the build config that the manifest records.
        progress: receives a stage.

    Raises:
        BuildError: the builder failed; see `edgekit.engine.builder.engine_from_graph`.
        GraphError: the backend does not support the graph.
    """
    table = calibration.table if config.target.precision is Precision.INT8 else None
    info = None
    if table is not None:
        info = CalibrationInfo(set=table.set, method=table.method, images=table.images, skipped=len(table.skipped))
    graph = _with_attention(_for_gpu(typed.graph, config.target), config.target, progress)
    return _compiled_graph(folder, graph, model, info, config, progress)


def _for_gpu(graph: ir.Model, target: TargetConfig) -> ir.Model:
    """Returns the graph with other operators in place of those that TensorRT does not have, or fails to build.

    Raises:
        GraphError: it has integers that TensorRT does not take.
    """
    if not backend(target.target).on_gpu:
        return graph
    replaced = graph.clone(deep_copy=False)
    found = replaced if use_tensorrt_operators(replaced) else graph
    require_signed_integers(found, float_original())
    return found


def _with_attention(graph: ir.Model, target: TargetConfig, progress: Progress) -> ir.Model:
    """Returns the graph with single operators for attention in it, if they were asked for; only TensorRT takes them."""
    passes: dict[str, Callable[[], ReplaceAttention]] = {
        NATIVE_ATTENTION: AttentionAsOperator,
        "edgekit": AttentionAsPlugin,
        "edgekit-int8": lambda: AttentionAsPlugin(int8=True),
    }
    if target.attention not in passes:
        return graph
    graph = graph.clone(deep_copy=False)
    InferShapes()(graph)
    attention = passes[target.attention]()
    lower(graph, [attention])
    for note in attention.notes() or (f"{argument('attention', target.attention)}: the model has no attention",):
        progress.note(note)
    return graph


def _typed_only(graph: ir.Model, target: TargetConfig) -> BuildResult:
    """Returns what a bundle without an engine records: the layers as the graph types them.

    Raises:
        BuildError: the graph does not have the target's precision.
    """
    layers = graph_layers(graph)
    quantized = [layer.names[0] for layer in layers if layer.dtype == "int8"]
    assert_precision(target.target, target.precision, quantized, layers)
    library = backend(target.target)
    notes: tuple[str, ...] = ()
    if isinstance(library, ChecksOptions):
        notes = library.check_options_elsewhere(target.precision, given_values(target.engine))
    return BuildResult(engine="", files=(), layers=layer_counts(layers), backend_version="", notes=notes)


def _float_parts(layers: Mapping[str, int], graph: ir.Model) -> str:
    """Says how many layers of an engine of a quantized file compute in float; empty if none does.

    Args:
        layers: numbers of the layers by element type, read back from the engine: backends move dequantizers behind
            operators such as MaxPool, or do not.
        graph: the graph of the engine, which names these layers if it has as many of them.
    """
    count = sum(number for dtype, number in layers.items() if dtype not in ("int8", "int16"))
    if not count:
        return ""
    products = [node for node in graph.graph if node.op_type in PRODUCTS | INTEGER_PRODUCTS]
    floats = [node.name or "" for node in products if precision_of(node) != "int8"]
    names = f": {some_of(floats, NAMED_PARTS)}" if len(floats) == count else ""
    return f"{count} of {sum(layers.values())} convolutions and matrix products compute in float{names}"


def _compiled_graph(
    folder: Path,
    graph: ir.Model,
    model: LoadedModel,
    calibration: CalibrationInfo | None,
    config: BuildConfig,
    progress: Progress,
) -> BuiltEngine:
    target = config.target
    save_graph(graph, folder / GRAPH)
    if target.graph_only:
        result = _typed_only(graph, target)
    else:
        options = build_options_of(target, model.shapes, came_quantized=model.quantized)
        with progress.stage(f"building the {str(target.precision).upper()} engine for {target.target}"):
            result = engine_from_graph(folder / GRAPH, folder, target.target, options)
    for note in result.notes:
        progress.note(note)
    if model.quantized and target.precision is Precision.INT8 and (note := _float_parts(result.layers, graph)):
        progress.note(note)
    manifest = Manifest(
        format=FORMAT,
        edgekit=edgekit.__version__,
        created=timestamp(),
        name=model.name,
        task=model.task,
        backend=target.target,
        backend_version=result.backend_version,
        precision=target.precision,
        layers=result.layers,
        engine=result.engine,
        machine=this_machine(),
        compute_capabilities=result.compute_capabilities,
        shapes=dict(model.shapes),
        source=model.origin,
        inputs=input_specs(graph),
        outputs=output_specs(graph),
        preprocess=model.preprocess,
        postprocess=model.postprocess,
        labels=model.labels,
        recognized=model.recognized,
        input_statistics=model.input_statistics,
        expects=model.expects,
        calibration=calibration,
        options={name: value for group in config.groups for name, value in given_values(group).items()},
        engine_options=given_values(target.engine),
        build_command=build_command(config),
        # Measurements need the file sizes; hashes are added when the bundle is sealed.
        files={name: FileInfo((folder / name).stat().st_size, "") for name in result.files},
    )
    return BuiltEngine(folder, manifest)
