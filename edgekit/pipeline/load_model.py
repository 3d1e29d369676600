"""Loads a model (a recipe, a Darknet cfg file, an ONNX file or a module) as an optimized and checked graph."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx_ir as ir

from edgekit.arguments import argument, either
from edgekit.config import ModelConfig
from edgekit.device.cpu import cpu
from edgekit.engine.bundle import manifest as bundle
from edgekit.engine.source_graph import weight_files
from edgekit.errors import GraphError, UsageError, needs_extra
from edgekit.graph.evaluator import Evaluator
from edgekit.graph.file import fix_inputs, input_specs, is_quantized, output_specs, set_input_shapes
from edgekit.graph.index_bounds import index_bounds
from edgekit.graph.load.onnx_file import graph_from_onnx
from edgekit.graph.original import OnnxOriginal
from edgekit.graph.passes import (
    ExplicitSamePads,
    FoldConstants,
    NameNodes,
    is_widened,
    optimize,
    types_note,
)
from edgekit.graph.passes.dequantize_weights import weights_note
from edgekit.graph.passes.explicit_same_pads import require_explicit_pads
from edgekit.option.objects import ExampleInputs
from edgekit.pipeline.float_form import use_float_form
from edgekit.pipeline.loaded_model import LoadedModel, checked_sizes, fitting, input_preprocess, measured_stats
from edgekit.pipeline.model_kind import kind_of
from edgekit.pipeline.recognize_head import with_recognized_head
from edgekit.progress import Progress, Silent
from edgekit.quantize.bodies import inputs_that_choose
from edgekit.recipe.preprocess import merged
from edgekit.recipe.schema import Preprocess, Recipe, load_recipe
from edgekit.recognition.facts import metadata_from_properties
from edgekit.shapes import input_shapes, open_shape, ranges_of_sizes, ranges_of_specs
from edgekit.specs import Precision, Shape, ShapeRange, TensorSpec, specs_text
from edgekit.storage import sha256_of

__all__ = ["load_model"]


def load_model(
    config: ModelConfig, progress: Progress, target: str | None = None, precision: Precision | None = None
) -> LoadedModel:
    """Loads, exports, optimizes and checks the model.

    Args:
        config: the model.
        progress: receives stages and notes.
        target: the backend that it is built for: one without the integers of a quantized ONNX file gets it in floats;
            None leaves it as it is.
        precision: of the engine.

    Raises:
        UsageError: the model does not exist, or an option does not go with it.
        RecipeError: the recipe or the Darknet cfg file is not valid.
        ModelError: the weights do not fit.
        ExportError: the module cannot be exported.
        GraphError: the ONNX file is not valid, or cannot be run.
        AccuracyError: the outputs of the graph differ from those of the module.
    """
    kind = kind_of(config.model)
    _require_onnx_for_heads(kind, config)
    if kind == "onnx":
        return _from_onnx(Path(config.model), config, progress, target, precision)
    if kind == "recipe" and (recipe := load_recipe(config.model)).model.onnx:
        return _from_recipe_of_onnx(recipe, config, progress, target, precision)
    # Imported here: an ONNX file needs no PyTorch, which takes seconds and 240 MB to import.
    with needs_extra("exporting a model", "build"):
        from edgekit.pipeline import load_module
    if kind == "recipe":
        return load_module.model_from_recipe(load_recipe(config.model), config, progress)
    if kind == "cfg":
        return load_module.model_from_cfg(Path(config.model), config, progress)
    if kind == "factory":
        return load_module.model_from_factory(config, progress)
    return load_module.model_from_module(config.model, config, progress)


def _require_onnx_for_heads(kind: str, config: ModelConfig) -> None:
    given = {"head": config.head, "head_option": config.head_option, "no_head": config.no_head}
    named = [argument(name, value) for name, value in given.items() if value]
    if named and kind != "onnx":
        raise UsageError(
            f"{named[0]}: expected an ONNX file, got {config.model}",
            hint="the head of a recipe or a cfg file is in that file",
        )
    if config.head is not None and config.no_head:
        raise UsageError(f"{named[0]} and {named[-1]} exclude each other", hint="give one of them")


def _from_onnx(
    path: Path, config: ModelConfig, progress: Progress, target: str | None, precision: Precision | None
) -> LoadedModel:
    if config.weights is not None:
        raise UsageError(f"{argument('weights')} does not go with {path.name}: an ONNX file contains its weights")
    if config.opset is not None:
        raise UsageError(f"{argument('opset')} does not go with {path.name}: only modules are exported")
    with progress.stage(f"reading {path.name}"):
        graph = graph_from_onnx(path)
        weights = weight_files(graph)
        in_float = use_float_form(graph, path.name, target, precision) if target is not None else None
        names = [spec.name for spec in input_specs(graph)]
        given = _given_inputs(graph, config)
        values = fix_inputs(graph, {n: v for n, v in given.items() if isinstance(v, (int, float))})
        chosen, shapes = _fix_shapes(graph, config, given)
        values |= fix_inputs(graph, _sizes_of_targets(graph))
        ExplicitSamePads()(graph)
        require_explicit_pads(graph)
        quantized = is_quantized(graph)
        if quantized:
            # Brevitas clips its integer weights in the file; OpenVINO takes only weights that are constants.
            FoldConstants()(graph)
            NameNodes()(graph)
        else:
            optimize(graph)
        min_max = checked_sizes(graph, shapes, progress)
        evaluator = _evaluator(graph)
    if chosen:
        sizes = "inputs of one size" if not shapes else "inputs of these sizes"
        progress.note(f"the engine takes {sizes}: {specs_text(chosen, shapes)}")
    for note in filter(None, (types_note(graph), weights_note(graph), in_float.note if in_float else "")):
        progress.note(note)
    model = LoadedModel(
        name=path.stem,
        graph=graph,
        inputs=input_specs(graph),
        quantized=quantized,
        stats=measured_stats(graph, shapes),
        task="tensor",
        origin=bundle.Source(kind="onnx", name=path.name, sha256=sha256_of(path)),
        preprocess=input_preprocess(config, input_specs(graph), Silent()),
        num_values=index_bounds(graph),
        shapes=shapes,
        min_max=min_max,
        original=OnnxOriginal(
            path,
            weights=weights,
            widen=is_widened(graph),
            values=values,
            in_float=in_float.of_file if in_float else None,
        ),
        evaluator=evaluator,
    )
    found = with_recognized_head(model, evaluator, config, names, progress)
    if found.preprocess == model.preprocess:
        input_preprocess(config, found.inputs, progress)  # notes what was guessed
    return found


def _evaluator(graph: ir.Model) -> Evaluator:
    """Loads the graph in ONNX Runtime, which names an operator that it does not have; checks run it later."""
    try:
        return Evaluator(graph, threads=cpu().compute_threads, packed=False)  # it runs a few times, or not at all
    except GraphError as e:
        inputs = inputs_that_choose(graph)
        if e.hint:
            raise
        if not inputs:
            raise GraphError(
                e.message,
                hint="every model runs in ONNX Runtime on the processor first: export it with operators that ONNX "
                "Runtime has, or cut the graph before that node: "
                "onnx.utils.extract_model(FILE, NEW_FILE, INPUT_NAMES, OUTPUT_NAMES)",
            ) from e
        # A branch for other sizes of the inputs: with those that were given it is no valid graph.
        fix = either(f"--input {inputs[0]}=VALUE", f"input={{'{inputs[0]}': VALUE}}")
        raise GraphError(
            e.message,
            hint=f"if a branch does not take inputs of these sizes, fix the input that chooses the branch ({fix}), or "
            "leave sizes open that differ between branches",
        ) from e


def _from_recipe_of_onnx(
    recipe: Recipe, config: ModelConfig, progress: Progress, target: str | None, precision: Precision | None
) -> LoadedModel:
    """Loads the ONNX file of a recipe, which says what its outputs mean."""
    if config.input or config.head:
        given = argument("input") if config.input else argument("head")
        raise UsageError(f"{given} does not go with the recipe '{recipe.name}': change the recipe")
    shapes: dict[str, Shape] = {spec.name: spec.shape for spec in recipe.inputs}
    if config.shape is not None and len(shapes) == 1:
        shapes = {}  # `config.shape` is that of the only input
    model = _from_onnx(
        Path(recipe.model.onnx),
        dataclasses.replace(config, input=shapes, no_head=True, preprocess=None),
        Silent(),
        target,
        precision,
    )
    names = [output.name for output in output_specs(model.graph)]
    if missing := [name for name in recipe.outputs if name not in names]:
        raise UsageError(
            f"recipe '{recipe.name}': expected outputs of {recipe.model.onnx}, which are {', '.join(names)}, got "
            f"{', '.join(missing)}"
        )
    preprocess = recipe.preprocess
    if config.preprocess is not None:
        preprocess = merged(preprocess or Preprocess(), config.preprocess)
    return dataclasses.replace(
        model,
        name=recipe.name,
        task=recipe.task,
        origin=msgspec.structs.replace(model.origin, name=Path(recipe.model.onnx).name),
        preprocess=None if preprocess is None else fitting(preprocess, model.inputs[0]),
        postprocess=recipe.postprocess,
        labels=recipe.labels.names,
        expects=recipe.expects,
        policy=recipe.quantize,
        num_values={**model.num_values, **{spec.name: spec.bound for spec in recipe.inputs if spec.bound}},
    )


def _sizes_of_targets(graph: ir.Model) -> dict[str, np.ndarray]:
    """Returns width and height of the image for an input that asks for them, as those of RT-DETR and D-FINE do.

    They scale the boxes, which are then in px of the input, as those of other detectors.
    """
    specs = {spec.name: spec for spec in input_specs(graph)}
    sizes = specs.pop("orig_target_sizes", None)
    if sizes is None or sizes.shape[1:] != (2,) or len(specs) != 1:
        return {}
    shape = next(iter(specs.values())).shape
    if len(shape) != 4 or not all(isinstance(side, int) for side in shape[2:]):
        return {}
    return {sizes.name: np.array([shape[3], shape[2]], np.int64)}


def _given_inputs(graph: ir.Model, config: ModelConfig) -> Mapping[str, Shape | int | float]:
    """Returns the user's shapes and values by input name; examples have to have the element types of the inputs."""
    if not isinstance(config.input, ExampleInputs):
        return config.input
    specs, tree = {spec.name: spec for spec in input_specs(graph)}, config.input.tree
    if isinstance(tree, tuple) and len(tree) > len(specs):
        raise UsageError(f"{argument('input')}: expected tensors for {', '.join(specs)}, got {len(tree)}")
    examples = tree if isinstance(tree, dict) else dict(zip(specs, _as_tuple(tree), strict=False))
    for name, example in examples.items():
        if isinstance(example, (tuple, dict)):
            raise UsageError(f"{argument('input')}: expected a tensor for the input '{name}', got several")
        if name in specs and isinstance(example, TensorSpec) and example.dtype != specs[name].dtype:
            raise UsageError(
                f"{argument('input')}: expected {specs[name]}, got a tensor of {example.dtype}",
                hint="the element types of an ONNX file are fixed",
            )
    return {
        name: tuple(map(int, example.shape)) if isinstance(example, TensorSpec) else example
        for name, example in examples.items()
    }


def _as_tuple(tree: Any) -> tuple[Any, ...]:
    return tree if isinstance(tree, tuple) else (tree,)


def _fix_shapes(
    graph: ir.Model, config: ModelConfig, given_inputs: Mapping[str, Shape | int | float]
) -> tuple[list[TensorSpec], dict[str, ShapeRange]]:
    """Sets the input shapes of the graph; only dimensions with a range stay dynamic.

    Returns:
        The inputs whose shapes changed, with their new shapes; and the ranges of all dynamic inputs.
    """
    specs = input_specs(graph)
    given = {name: shape for name, shape in given_inputs.items() if isinstance(shape, tuple)}
    shape = config.shape
    if shape is None and not given and len(specs) == 1 and all(isinstance(side, str) for side in specs[0].shape[2:]):
        # The size that the model was trained with, as its exporter wrote it down.
        shape = metadata_from_properties(dict(graph.metadata_props)).size
    shapes = input_shapes(specs, given, image_shape=shape, batch=config.batch)
    inputs = [
        msgspec.structs.replace(spec, shape=open_shape(spec.name, shapes[spec.name], spec.shape)) for spec in specs
    ]
    if any(after != before for after, before in zip(inputs, specs, strict=True)):
        set_input_shapes(graph, {spec.name: spec.shape for spec in inputs})
    chosen = [after for after, before in zip(inputs, specs, strict=True) if after != before]
    return chosen, ranges_of_specs(inputs, ranges_of_sizes(inputs, shapes))
