"""Exports a recipe, a Darknet cfg file or a module with PyTorch, and checks the graph against the module."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import onnx.defs
import onnx_ir as ir
import torch
from torch import nn

from edgekit.arguments import argument, either
from edgekit.config import ModelConfig
from edgekit.engine.bundle import manifest as bundle
from edgekit.errors import ExportError, UsageError
from edgekit.graph.export.call import ModuleCall, call_of_examples, call_of_names
from edgekit.graph.export.check import compare_with_module
from edgekit.graph.export.given_module import exportable
from edgekit.graph.export.module import graph_from_module
from edgekit.graph.export.original import ModuleOriginal
from edgekit.graph.file import input_specs
from edgekit.graph.index_bounds import index_bounds
from edgekit.graph.load.upgrade_nodes import OPSET
from edgekit.graph.passes import optimize
from edgekit.graph.sizes import MinMaxInputs
from edgekit.models.cfg.recipe import recipe_from_cfg
from edgekit.models.factory import module_from_factory, module_from_recipe
from edgekit.models.weights.download import weights_file
from edgekit.models.weights.read import load_weights
from edgekit.option.objects import ExampleInputs
from edgekit.pipeline.loaded_model import LoadedModel, checked_sizes, fitting, input_preprocess, measured_stats
from edgekit.progress import Progress
from edgekit.recipe.heads import CellHeads, YoloV1
from edgekit.recipe.preprocess import merged
from edgekit.recipe.schema import Preprocess, Recipe, Tolerance
from edgekit.shapes import image_shape_of, open_shape, ranges_of_sizes, ranges_of_specs, with_batch
from edgekit.specs import Shape, ShapeRange, SizeRange, TensorSpec, specs_at
from edgekit.storage import sha256_of
from edgekit.text import shown

__all__ = ["model_from_cfg", "model_from_factory", "model_from_module", "model_from_recipe"]

DTYPES = ("float32", "float64", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")
_MIN_OPSET = 18  # the oldest that PyTorch's exporter writes without a conversion
EXAMPLE_INPUT = {"": (1, 3, 224, 224)}
OWN_RECIPE = "write your own recipe with other shapes, and give its file"
FITTED = "leave it out: images of any size are resized to fit"
UNTRAINED = (
    "the weights are random: latency and size are real, outputs are meaningless. Give trained weights with {where}"
)


def model_from_recipe(recipe: Recipe, config: ModelConfig, progress: Progress) -> LoadedModel:
    if config.input:
        hint = f"use {argument('shape', (320, 320))}" if len(recipe.inputs) == 1 else OWN_RECIPE
        raise UsageError(f"{argument('input')} does not go with the recipe '{recipe.name}'", hint=hint)
    shapes = _recipe_shapes(recipe, config)
    specs = [TensorSpec(spec.name, spec.dtype, open_shape(spec.name, shapes[spec.name])) for spec in recipe.inputs]
    preprocess = recipe.preprocess
    if config.preprocess is not None:
        preprocess = merged(preprocess or Preprocess(), config.preprocess)
    if preprocess is not None:
        preprocess = fitting(preprocess, specs[0])
    with progress.stage(f"making {recipe.name}"):
        module = module_from_recipe(recipe, seed=config.seed)
    weights = _load(module, recipe, config, progress)
    num_values = {spec.name: spec.bound for spec in recipe.inputs if spec.bound}
    with _explain_shape_error(recipe, config):
        made = _exported(module, specs, shapes, recipe.outputs, config.opset, recipe.tolerance, num_values, progress)
    return LoadedModel(
        name=recipe.name,
        graph=made.graph,
        inputs=input_specs(made.graph),
        quantized=False,
        stats=measured_stats(made.graph, made.shapes, one_image=recipe.postprocess is not None),
        task=recipe.task,
        origin=bundle.Source(kind="recipe", name=recipe.name, weights=weights),
        preprocess=preprocess,
        postprocess=recipe.postprocess,
        labels=recipe.labels.names,
        expects=recipe.expects,
        policy=recipe.quantize,
        num_values=made.num_values,
        shapes=made.shapes,
        min_max=made.min_max,
        export_error=made.error,
        original=made.original,
    )


def model_from_cfg(path: Path, config: ModelConfig, progress: Progress) -> LoadedModel:
    """Loads a Darknet cfg file, which becomes a recipe."""
    recipe = recipe_from_cfg(path)
    # The layers depend on the input shape, so that another shape needs another recipe.
    if config.shape is not None:
        recipe = recipe_from_cfg(path, _one_size(recipe, _recipe_shape(recipe, config.shape)))
    source = model_from_recipe(recipe, config, progress)
    origin = bundle.Source(kind="cfg", name=path.name, sha256=sha256_of(path), weights=source.origin.weights)
    return dataclasses.replace(source, origin=origin)


def _recipe_shapes(recipe: Recipe, config: ModelConfig) -> dict[str, Shape]:
    """Returns the shapes of the recipe's inputs; ``--shape`` replaces the shape of a single input."""
    shapes: dict[str, Shape] = {spec.name: spec.shape for spec in recipe.inputs}
    if config.shape is not None:
        if len(shapes) > 1:
            raise UsageError(
                f"{argument('shape')}: expected a model with one input, got {recipe.name}, which has "
                f"{', '.join(shapes)}",
                hint=OWN_RECIPE,
            )
        shapes = {recipe.inputs[0].name: _recipe_shape(recipe, config.shape)}
    return {name: with_batch(shape, config.batch) for name, shape in shapes.items()}


def _recipe_shape(recipe: Recipe, wanted: Shape) -> Shape:
    own = recipe.inputs[0].shape
    shape = image_shape_of(own, wanted)
    if len(own) == 4 and shape[1] != own[1]:
        raise UsageError(
            f"{argument('shape')}: {recipe.name} expects {own[1]} channels, got {shape[1]}",
            hint=f"give {argument('shape', like=either('HxW', '(H, W)'))}",
        )
    if recipe.postprocess is None:
        return shape
    sides = _one_size(recipe, shape)
    if isinstance(recipe.postprocess.head, YoloV1) and sides != own[2:4]:
        raise UsageError(
            f"{argument('shape')}: {recipe.name} expects {own[2]}x{own[3]}, because it has fully connected layers, got "
            f"{sides[0]}x{sides[1]}",
            hint=FITTED,
        )
    head = recipe.postprocess.head
    step = math.lcm(*(each.stride for each in head.heads)) if isinstance(head, CellHeads) else 1
    if any(side % step for side in sides):
        height, width = (max(step, round(side / step) * step) for side in sides)
        raise UsageError(
            f"{argument('shape')}: {recipe.name} expects a height and a width that are multiples of {step}, "
            f"got {sides[0]}x{sides[1]}",
            hint=f"the nearest is {argument('shape', (height, width))}",
        )
    return shape


def _one_size(recipe: Recipe, shape: Shape) -> tuple[int, int]:
    """Returns height and width; raises `UsageError` if one is a range."""
    height, width = shape[2:4]
    if isinstance(height, int) and isinstance(width, int):
        return height, width
    opt = tuple(side.opt if isinstance(side, SizeRange) else side for side in (height, width))
    raise UsageError(
        f"{argument('shape')}: {recipe.name} expects one height and one width, because its boxes are decoded for "
        "a fixed size, "
        f"got {height}x{width}",
        hint=f"build an engine for each size, as with {argument('shape', opt)}; only the batch size may be a range",
    )


@contextlib.contextmanager
def _explain_shape_error(recipe: Recipe, config: ModelConfig) -> Iterator[None]:
    """Converts an export error to `UsageError` if ``--shape`` is given."""
    # A recipe can be exported in its own shape, so another shape is the cause, as with fully connected layers.
    try:
        yield
    except ExportError as e:
        if config.shape is None:
            raise
        shapes = (recipe.inputs[0].shape, _recipe_shape(recipe, config.shape))
        own, wanted = ("x".join(map(str, shape)) for shape in shapes)
        raise UsageError(
            f"{argument('shape')}: {recipe.name} expects {own}, got {wanted}, which cannot be exported: {e.message}",
            hint=FITTED if recipe.preprocess is not None else OWN_RECIPE,
        ) from e


def _load(module: nn.Module, recipe: Recipe, config: ModelConfig, progress: Progress) -> bundle.WeightsInfo:
    name = config.weights
    if name is None:
        published = f" or {argument('weights', next(iter(recipe.weights)))}" if recipe.weights else ""
        progress.note(UNTRAINED.format(where=f"{argument('weights', like='FILE')}{published}"))
        return bundle.WeightsInfo(source=f"random, seed {config.seed}", trained=False)
    path = weights_file(name, recipe, progress=progress)
    with progress.stage("reading weights"):
        found = load_weights(module, path)
    if found.note:
        progress.note(found.note)
    return bundle.WeightsInfo(source=name, sha256=sha256_of(path))


def model_from_factory(config: ModelConfig, progress: Progress) -> LoadedModel:
    """Calls a factory, ``package.module:function``, and exports the module that it returns."""
    return model_from_module(module_from_factory(str(config.model), seed=config.seed), config, progress)


def model_from_module(module: object, config: ModelConfig, progress: Progress) -> LoadedModel:
    if not isinstance(module, nn.Module):
        raise _no_module(module)
    module = exportable(module)
    name = config.model if isinstance(config.model, str) else type(module).__name__
    if config.shape is not None:
        raise UsageError(
            f"{argument('shape')} goes with recipes and ONNX files, not with a module", hint=_example_input()
        )
    if not config.input:
        raise UsageError(f"'{name}': expected example inputs or their shapes, got none", hint=_example_input())
    weights = None
    if config.weights is not None:
        with progress.stage("reading weights"):
            found = load_weights(module, config.weights)
        if found.note:
            progress.note(found.note)
        weights = bundle.WeightsInfo(source=config.weights, sha256=sha256_of(Path(config.weights)))
    inputs = _module_inputs(module, config)
    made = _exported(module, inputs.specs, inputs.shapes, (), config.opset, Tolerance(), {}, progress, inputs.call)
    return LoadedModel(
        name=name.rpartition(":")[2].rpartition(".")[2],
        graph=made.graph,
        inputs=input_specs(made.graph),
        quantized=False,
        stats=measured_stats(made.graph, made.shapes),
        task="tensor",
        origin=bundle.Source(kind="module", name=name, weights=weights),
        preprocess=input_preprocess(config, input_specs(made.graph), progress),
        num_values=made.num_values,
        shapes=made.shapes,
        min_max=made.min_max,
        export_error=made.error,
        original=made.original,
    )


def _no_module(given: object) -> UsageError:
    hint = "save a model of another kind as an ONNX file and give its path"
    if isinstance(given, type) and issubclass(given, nn.Module):
        hint = f"create a module of the class: {given.__name__}(...)"
    elif isinstance(given, torch.export.ExportedProgram):
        hint = "give its module, program.module()"
    return UsageError(f"model: expected a torch.nn.Module, or text that names a model, got {shown(given)}", hint=hint)


def _example_input() -> str:
    return f"give it with {argument('input')}, such as {argument('input', EXAMPLE_INPUT)}"


class _ModuleInputs(NamedTuple):
    """The inputs of a module: specs in the order of the call's names, and shapes by name."""

    specs: list[TensorSpec]
    shapes: dict[str, Shape]
    call: ModuleCall


def _module_inputs(module: nn.Module, config: ModelConfig) -> _ModuleInputs:
    """Returns the inputs of a module from the user's examples, or from shapes by name.

    A name of a shape may end in an element type, as in ``ids:int64``, or be only an element type.
    """
    if isinstance(config.input, ExampleInputs):
        call, examples = call_of_examples(module, config.input.tree)
        dtypes = {name: spec.dtype for name, spec in examples.items()}
        shapes: dict[str, Shape] = {name: tuple(map(int, spec.shape)) for name, spec in examples.items()}
    else:
        shapes, dtypes = _given_shapes(config.input)
        call = call_of_names(module, list(shapes))
    for name, dtype in dtypes.items():
        if dtype not in DTYPES:
            raise UsageError(
                f"{argument('input')}: expected an element type of {', '.join(DTYPES)} for '{name}', got {dtype}",
                hint="convert it in the module",
            )
    shapes = {name: with_batch(shape, config.batch) for name, shape in shapes.items()}
    # Inputs with different ranges in the first dimension do not share one batch.
    batched = len({shape[0] for shape in shapes.values() if shape and isinstance(shape[0], SizeRange)}) < 2
    specs = [TensorSpec(name, dtypes[name], open_shape(name, shapes[name], batched=batched)) for name in call.names]
    return _ModuleInputs(specs, shapes, call)


def _given_shapes(given: Mapping[str, Shape | int | float]) -> tuple[dict[str, Shape], dict[str, str]]:
    shapes: dict[str, Shape] = {}
    dtypes: dict[str, str] = {}
    for key, shape in given.items():
        if not isinstance(shape, tuple):
            raise UsageError(
                f"{argument('input')}: expected the shape of '{key}', got the value {shape}: values go with ONNX files",
                hint="fix the value in the module",
            )
        name, _, last = key.rpartition(":")
        name, dtype = (name, last) if last in DTYPES else (key, "float32")
        shapes[name or "input"], dtypes[name or "input"] = shape, dtype
    return shapes, dtypes


class _Export(NamedTuple):
    """An exported graph whose outputs match its module; see `LoadedModel`."""

    graph: ir.Model
    error: float
    shapes: dict[str, ShapeRange]
    min_max: MinMaxInputs
    num_values: Mapping[str, int]
    original: ModuleOriginal


def _exported(
    module: nn.Module,
    specs: Sequence[TensorSpec],
    sizes: Mapping[str, Shape],
    outputs: Sequence[str],
    opset: int | None,
    tolerance: Tolerance,
    num_values: Mapping[str, int],
    progress: Progress,
    call: ModuleCall | None = None,
) -> _Export:
    opset = OPSET if opset is None else opset
    if not _MIN_OPSET <= opset <= onnx.defs.onnx_opset_version():
        raise UsageError(
            f"{argument('opset')}: expected {_MIN_OPSET} to {onnx.defs.onnx_opset_version()}, got {opset}",
            hint=f"leave it out: EdgeKit exports to {OPSET}",
        )
    with progress.stage("exporting to ONNX"):
        ranges = ranges_of_sizes(specs, sizes)
        graph = optimize(graph_from_module(module, specs, outputs, opset=opset, ranges=ranges, call=call))
    if graph.opset_imports[""] != opset:
        raise UsageError(
            f"{argument('opset')}: expected a version that PyTorch {torch.__version__} exports to, got {opset}",
            hint=f"leave it out: EdgeKit exports to {OPSET}",
        )
    # The export gives one name to dimensions that the module needs to be equal, so they must have one range.
    specs = input_specs(graph)
    shapes = ranges_of_specs(specs, ranges_of_sizes(specs, sizes))
    min_max = checked_sizes(graph, shapes, progress)
    num_values = {**index_bounds(graph), **num_values}
    with progress.stage("checking the graph against PyTorch"):
        opt = specs_at(specs, shapes)
        check = compare_with_module(graph, module, opt, tolerance.export, (0,), num_values, min_max.sizes, call)
    error = max((output.relative_error for output in check.outputs), default=0.0)
    names = [value.name or "" for value in graph.graph.outputs]
    original = ModuleOriginal(module, [spec.name for spec in specs], names, call)
    return _Export(graph, error, shapes, min_max, num_values, original)
