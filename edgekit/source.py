"""From what the user names (a recipe, an ONNX file, a module of their own) to a float graph and what is known of it."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import onnx_ir as ir
import torch
from torch import nn

from edgekit.engine import bundle
from edgekit.errors import ExportError, UsageError
from edgekit.graph.check import check_runs, compare_with_module
from edgekit.graph.export import graph_from_module
from edgekit.graph.file import input_specs, is_quantized, set_input_shapes
from edgekit.graph.lift import OPSET
from edgekit.graph.load import graph_from_onnx
from edgekit.graph.passes import NameNodes, optimize
from edgekit.graph.stats import GraphStats, stats_from_graph
from edgekit.models.cfg.recipe import recipe_from_cfg
from edgekit.models.download import sha256_of, weights_file
from edgekit.models.factory import module_from_factory, module_from_recipe
from edgekit.models.weights import load_weights
from edgekit.order import Order, kind_of, merged
from edgekit.progress import Progress
from edgekit.recipe import Postprocess, Preprocess, Quantize, Recipe, Tolerance, load_recipe
from edgekit.shapes import Shape, batched, input_shapes, picture_shape
from edgekit.specs import TensorSpec

__all__ = ["ModelSource", "model_source"]

DTYPES = ("float32", "float64", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")
EXAMPLE_INPUT = "give it with --input, such as --input 1x3x224x224"
OWN_RECIPE = "write a recipe of your own with other shapes, and give its file"
FITTED = "leave it out: pictures of any size are made to fit"
UNTRAINED = "the weights are random: latency and size are real, answers mean nothing. Give trained ones with {where}"
GUESSED = (
    "input '{name}' is taken for a picture: {color}, from 0 to 1, stretched to fit. If the model was trained on other "
    "numbers, say so with --preprocess, such as mean=… and std=…"
)


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """A graph, optimized and checked, and all that later stages want to know of its model.

    Attributes:
        name: for the bundle and its reports.
        graph: float, unless ``quantized``.
        quantized: somebody else has quantized it already.
        stats: parameters, multiply-accumulates and bytes of the graph as it came.
        task: the recipe's; ``tensor`` where there is none.
        origin: for the manifest.
        preprocess: how pictures become inputs; None where the model takes none.
        postprocess: how outputs become detections.
        labels: names of classes.
        policy: what the recipe says of INT8; None where there is no recipe.
        below: what integers of an input are less than, where it is known.
        export_error: largest relative difference between graph and module; None for ONNX files.
    """

    name: str
    graph: ir.Model
    quantized: bool
    stats: GraphStats
    task: str
    origin: bundle.Source
    preprocess: Preprocess | None = None
    postprocess: Postprocess | None = None
    labels: tuple[str, ...] = ()
    policy: Quantize | None = None
    below: Mapping[str, int] = field(default_factory=dict)
    export_error: float | None = None

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The graph's inputs."""
        return input_specs(self.graph)


def model_source(order: Order, progress: Progress) -> ModelSource:
    """Loads, exports, optimizes and checks the model.

    Raises:
        UsageError: there is no such model, or an option does not go with it.
        RecipeError: a recipe or a Darknet cfg file that is not valid.
        ModelError: the weights do not fit.
        ExportError: the module cannot be exported.
        GraphError: the ONNX file is not valid, or cannot be run.
        AccuracyError: the graph computes something else than the module.
    """
    kind = kind_of(order.model)
    if kind == "recipe":
        return _from_recipe(load_recipe(order.model), order, progress)
    if kind == "cfg":
        return _from_cfg(Path(order.model), order, progress)
    if kind == "onnx":
        return _from_onnx(Path(order.model), order, progress)
    if kind == "factory":
        return _from_module(module_from_factory(str(order.model), seed=order.seed), order, progress)
    return _from_module(order.model, order, progress)


def _from_recipe(recipe: Recipe, order: Order, progress: Progress) -> ModelSource:
    if order.inputs:
        hint = "use --shape, as in 320x320" if len(recipe.inputs) == 1 else OWN_RECIPE
        raise UsageError(f"--input does not go with the recipe '{recipe.name}'", hint=hint)
    specs = batched(_recipe_specs(recipe, order.shape), order)
    preprocess = recipe.preprocess
    if order.preprocess is not None:
        preprocess = merged(preprocess or Preprocess(), order.preprocess)
    if preprocess is not None:
        preprocess = _fitting(preprocess, specs[0])
    with progress.stage(f"making {recipe.name}"):
        module = module_from_recipe(recipe, seed=order.seed)
    weights = _load(module, recipe, order, progress)
    below = {spec.name: spec.below for spec in recipe.inputs if spec.below}
    with _told_of_shape(recipe, order):
        graph, error = _exported(module, specs, recipe.outputs, order.opset, recipe.tolerance, below, progress)
    return ModelSource(
        name=recipe.name,
        graph=graph,
        quantized=False,
        stats=stats_from_graph(graph),
        task=recipe.task,
        origin=bundle.Source(kind="recipe", name=recipe.name, weights=weights),
        preprocess=preprocess,
        postprocess=recipe.postprocess,
        labels=recipe.labels.names,
        policy=recipe.quantize,
        below=below,
        export_error=error,
    )


def _from_cfg(path: Path, order: Order, progress: Progress) -> ModelSource:
    """A Darknet cfg file is a recipe in another form; a picture of another shape makes another network of it."""
    recipe = recipe_from_cfg(path)
    if order.shape is not None:
        height, width = _recipe_shape(recipe, order.shape)[2:]
        recipe = recipe_from_cfg(path, (height, width))
    source = _from_recipe(recipe, order, progress)
    origin = bundle.Source(kind="cfg", name=path.name, sha256=sha256_of(path), weights=source.origin.weights)
    return dataclasses.replace(source, origin=origin)


def _recipe_specs(recipe: Recipe, wanted: Shape | None) -> list[TensorSpec]:
    """The recipe's inputs, the first of them, if it is asked for, in another shape."""
    specs = [TensorSpec(spec.name, spec.dtype, spec.shape) for spec in recipe.inputs]
    if wanted is None:
        return specs
    if len(specs) > 1:
        names = ", ".join(spec.name for spec in specs)
        raise UsageError(
            f"--shape: expected a model with one input, got {recipe.name}, which has {names}",
            hint=OWN_RECIPE,
        )
    return [msgspec.structs.replace(specs[0], shape=_recipe_shape(recipe, wanted))]


def _recipe_shape(recipe: Recipe, wanted: Shape) -> Shape:
    own = recipe.inputs[0].shape
    shape = picture_shape(own, wanted)
    if len(own) == 4 and shape[1] != own[1]:
        raise UsageError(f"--shape: {recipe.name} expects {own[1]} channels, got {shape[1]}", hint="give --shape HxW")
    if recipe.postprocess is not None and recipe.postprocess.kind == "yolov1" and shape[2:4] != own[2:4]:
        raise UsageError(
            f"--shape: {recipe.name} expects {own[2]}x{own[3]}, which its full layers are made for, got "
            f"{shape[2]}x{shape[3]}",
            hint=FITTED,
        )
    step = math.lcm(*(head.stride for head in recipe.postprocess.heads)) if recipe.postprocess else 1
    if any(side % step for side in shape[2:4]):
        height, width = (max(step, round(side / step) * step) for side in shape[2:4])
        raise UsageError(
            f"--shape: {recipe.name} expects a height and a width that are multiples of {step}, "
            f"got {shape[2]}x{shape[3]}",
            hint=f"the nearest is --shape {height}x{width}",
        )
    return shape


@contextlib.contextmanager
def _told_of_shape(recipe: Recipe, order: Order) -> Iterator[None]:
    """A recipe's own shape can be exported; where another cannot, that is why, as with full layers."""
    try:
        yield
    except ExportError as e:
        if order.shape is None:
            raise
        own = recipe.inputs[0].shape
        raise UsageError(
            f"--shape: {recipe.name}, made for {own}, cannot take {_recipe_shape(recipe, order.shape)}: {e.message}",
            hint=FITTED if recipe.preprocess is not None else OWN_RECIPE,
        ) from e


def _load(module: nn.Module, recipe: Recipe, order: Order, progress: Progress) -> bundle.WeightsInfo:
    name = order.weights
    if name is None:
        published = f" or --weights {next(iter(recipe.weights))}" if recipe.weights else ""
        progress.note(UNTRAINED.format(where=f"--weights FILE{published}"))
        return bundle.WeightsInfo(source=f"random, seed {order.seed}", trained=False)
    path = weights_file(name, recipe, progress=progress)
    with progress.stage("reading weights"):
        load_weights(module, path)
    return bundle.WeightsInfo(source=name, sha256=sha256_of(path))


def _from_module(module: object, order: Order, progress: Progress) -> ModelSource:
    name = order.model if isinstance(order.model, str) else type(module).__name__
    if not isinstance(module, nn.Module):
        raise UsageError(
            f"model: expected a torch.nn.Module, or text that names a model, got {name}",
            hint="save other kinds of models as an ONNX file and give its path",
        )
    if order.shape is not None:
        raise UsageError("--shape goes with recipes and ONNX files, not with a module", hint=EXAMPLE_INPUT)
    if not order.inputs:
        raise UsageError(f"'{name}': expected the shape of each input, got none", hint=EXAMPLE_INPUT)
    weights = None
    if order.weights is not None:
        with progress.stage("reading weights"):
            load_weights(module, order.weights)
        weights = bundle.WeightsInfo(source=order.weights, sha256=sha256_of(Path(order.weights)))
    specs = batched(_module_specs(module, order.inputs), order)
    graph, error = _exported(module, specs, (), order.opset, Tolerance(), {}, progress)
    return ModelSource(
        name=name.rpartition(":")[2].rpartition(".")[2],
        graph=graph,
        quantized=False,
        stats=stats_from_graph(graph),
        task="tensor",
        origin=bundle.Source(kind="module", name=name, weights=weights),
        preprocess=_preprocess(order, input_specs(graph), progress),
        export_error=error,
    )


def _module_specs(module: nn.Module, inputs: Mapping[str, Shape]) -> tuple[TensorSpec, ...]:
    """The inputs in the order in which the module takes them, where their names are those of its arguments.

    A name may end in an element type, ``ids:int64``, or be nothing else.
    """
    specs = []
    for key, shape in inputs.items():
        name, _, last = key.rpartition(":")
        specs.append(
            TensorSpec(name or "input", last, shape) if last in DTYPES else TensorSpec(key or "input", "float32", shape)
        )
    arguments = list(inspect.signature(module.forward).parameters)
    if all(spec.name in arguments for spec in specs):
        specs.sort(key=lambda spec: arguments.index(spec.name))
    return tuple(specs)


def _exported(
    module: nn.Module,
    specs: Sequence[TensorSpec],
    outputs: Sequence[str],
    opset: int | None,
    tolerance: Tolerance,
    below: Mapping[str, int],
    progress: Progress,
) -> tuple[ir.Model, float]:
    opset = opset or OPSET
    with progress.stage("exporting to ONNX"):
        graph = optimize(graph_from_module(module, specs, outputs, opset=opset))
    if graph.opset_imports[""] != opset:
        raise UsageError(
            f"--opset: expected a version that PyTorch {torch.__version__} exports to, got {opset}",
            hint=f"leave it out: EdgeKit exports to {OPSET}",
        )
    with progress.stage("checking the graph against PyTorch"):
        check = compare_with_module(graph, module, specs, tolerance.export, below=below)
    return graph, max((output.relative_error for output in check.outputs), default=0.0)


def _from_onnx(path: Path, order: Order, progress: Progress) -> ModelSource:
    if order.weights is not None:
        raise UsageError(f"--weights does not go with {path.name}: an ONNX file has its own")
    if order.opset is not None:
        raise UsageError(f"--opset does not go with {path.name}: it is for modules that are exported")
    with progress.stage(f"reading {path.name}"):
        graph = graph_from_onnx(path)
        opened = _fix_shapes(graph, order)
        quantized = is_quantized(graph)
        if quantized:
            NameNodes()(graph)
        else:
            optimize(graph)
        check_runs(graph)
    if opened:
        progress.note(f"the engine takes inputs of one size: {', '.join(map(str, opened))}")
    return ModelSource(
        name=path.stem,
        graph=graph,
        quantized=quantized,
        stats=stats_from_graph(graph),
        task="tensor",
        origin=bundle.Source(kind="onnx", name=path.name, sha256=sha256_of(path)),
        preprocess=_preprocess(order, input_specs(graph), progress),
    )


def _fix_shapes(graph: ir.Model, order: Order) -> list[TensorSpec]:
    """Gives every dimension a number; returns the inputs, as they are now, of which some dimension had none.

    A batch that is to be chosen at run time stays open.
    """
    specs = input_specs(graph)
    shapes = input_shapes(specs, order)
    opened = {spec.name for spec in specs if shapes[spec.name] != spec.shape}
    if opened or order.inputs or order.shape:
        set_input_shapes(graph, shapes)
    return [spec for spec in input_specs(graph) if spec.name in opened]


def _preprocess(order: Order, specs: Sequence[TensorSpec], progress: Progress) -> Preprocess | None:
    """A guess, where there is one input of the shape of a picture, and in it what the user says."""
    guess = _guessed(specs[0]) if len(specs) == 1 else None
    if order.preprocess is not None:
        if len(specs) != 1:
            names = ", ".join(spec.name for spec in specs)
            raise UsageError(f"--preprocess: expected a model with one input, a picture, got the inputs {names}")
        return _fitting(merged(guess or Preprocess(), order.preprocess), specs[0])
    if guess is not None:
        color = "grey" if guess.color == "gray" else guess.color.upper()
        progress.note(GUESSED.format(name=specs[0].name, color=color))
    return guess


def _guessed(spec: TensorSpec) -> Preprocess | None:
    """What a float input of four dimensions, one of them of 1 or 3 channels, is most likely to want."""
    rgb, gray = Preprocess(), Preprocess(color="gray", mean=(0.0,), std=(1.0,))
    for guess in (rgb, gray):
        with contextlib.suppress(UsageError):
            return _fitting(guess, spec)
    return None


def _fitting(preprocess: Preprocess, spec: TensorSpec) -> Preprocess:
    """``preprocess``, with the layout that the input has: its place for the channels can be seen in its shape."""
    places = {"nchw": (0, preprocess.channels, 0, 0), "nhwc": (0, 0, 0, preprocess.channels)}
    if spec.dtype == "float32" and len(spec.shape) == 4:
        for layout in sorted(places, key=lambda layout: layout != preprocess.layout):
            if all(wanted in (0, size) for wanted, size in zip(places[layout], spec.shape, strict=True)):
                return msgspec.structs.replace(preprocess, layout=layout)
    raise UsageError(
        f"preprocessing of pictures with color={preprocess.color}: expected a float32 input of 4 dimensions, of which "
        f"that of the channels is {preprocess.channels}, got {spec}",
        hint="--preprocess color=gray --preprocess mean=0 --preprocess std=1 is for inputs of one channel"
        if preprocess.channels == 3
        else "",
    )
