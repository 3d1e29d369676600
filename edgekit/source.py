"""From what the user names (a recipe, an ONNX file, a module of their own) to a float graph and what is known of it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from edgekit.engine import bundle
from edgekit.errors import UsageError, nearest
from edgekit.graph.check import check_runs, compare_with_module
from edgekit.graph.export import graph_from_module
from edgekit.graph.file import input_specs, is_quantized, set_input_shapes
from edgekit.graph.lift import OPSET
from edgekit.graph.load import graph_from_onnx
from edgekit.graph.passes import optimize
from edgekit.models.download import fetch_weights
from edgekit.models.factory import module_from_factory, module_from_recipe
from edgekit.models.weights import load_weights
from edgekit.progress import Progress
from edgekit.recipe import Labels, Postprocess, Preprocess, Quantize, Recipe, Tolerance, load_recipe, recipe_names
from edgekit.specs import TensorSpec

if TYPE_CHECKING:
    from torch import nn

__all__ = ["ModelSource", "Wanted", "model_source"]

UNTRAINED = (
    "the weights are random: latency and size are real, detections mean nothing. "
    "Give trained ones with --weights FILE{published}"
)


@dataclass(frozen=True)
class Wanted:
    """What the user asked of the model itself.

    Attributes:
        model: a recipe's name or file, an ONNX file, ``package.module:factory``, or an ``nn.Module``.
        weights: a file, or the name of a set that the recipe publishes; None is random for a reference model.
        shape: of the picture: ``(H, W)`` or all four sizes.
        inputs: shapes by input name; the name ``""`` is the first input's.
        preprocess: instead of the recipe's.
        opset: to export to.
        seed: for random weights.
    """

    model: Any
    weights: str | None = None
    shape: tuple[int, ...] | None = None
    inputs: Mapping[str, tuple[int, ...]] | None = None
    preprocess: Preprocess | None = None
    opset: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class ModelSource:
    """A float graph, optimized and checked, and all that later stages want to know of its model.

    Attributes:
        name: for the bundle and its reports.
        graph: float, or quantized already where somebody else's ONNX file was.
        task: ``detect`` or ``tensor``.
        origin: for the manifest.
        preprocess: how pictures become inputs; None where the model takes none.
        postprocess: how outputs become detections.
        labels: names of classes.
        quantize: the recipe's policy; None where there is no recipe.
        export_error: largest relative difference between graph and module; None for ONNX files.
    """

    name: str
    graph: ir.Model
    task: str
    origin: bundle.Source
    preprocess: Preprocess | None = None
    postprocess: Postprocess | None = None
    labels: tuple[str, ...] = ()
    quantize: Quantize | None = None
    export_error: float | None = None

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The graph's inputs."""
        return input_specs(self.graph)

    @property
    def quantized(self) -> bool:
        """Whether the graph computes on integers as it came."""
        return is_quantized(self.graph)


def model_source(wanted: Wanted, progress: Progress) -> ModelSource:
    """Loads, exports, optimizes and checks the model.

    Raises:
        UsageError: there is no such model, or an option that does not go with it.
        ModelError: the weights do not fit.
        ExportError: the module cannot be exported.
        GraphError: the ONNX file is not valid, or cannot be run.
        AccuracyError: the graph computes something else than the module.
    """
    model = wanted.model
    if isinstance(model, (str, Path)):
        text = str(model)
        if text.endswith(".onnx"):
            return _from_onnx(Path(text), wanted, progress)
        if ":" in text and not Path(text).exists():
            module = module_from_factory(text, seed=wanted.seed)
            return _from_module(module, text, wanted, progress)
        if text in recipe_names() or text.endswith(".toml"):
            return _from_recipe(load_recipe(text), wanted, progress)
        hint = nearest(text, recipe_names())
        raise UsageError(
            f"unknown model '{text}': expected the name of a recipe, an ONNX file, or package.module:factory",
            hint=f"{hint} `edgekit models` lists all" if hint else "",
        )
    return _from_module(model, type(model).__name__, wanted, progress)


def _from_recipe(recipe: Recipe, wanted: Wanted, progress: Progress) -> ModelSource:
    if wanted.inputs:
        raise UsageError(f"--input does not go with the recipe '{recipe.name}'", hint="use --shape 320x320")
    shape = _picture_shape(recipe.input.shape, wanted.shape)
    with progress.stage(f"making {recipe.name}"):
        module = module_from_recipe(recipe, seed=wanted.seed)
    weights = _load(module, recipe, wanted, progress)
    specs = (TensorSpec(recipe.input.name, "float32", shape),)
    graph, error = _exported(module, specs, recipe.outputs, wanted.opset or OPSET, recipe.tolerance, progress)
    return ModelSource(
        name=recipe.name,
        graph=graph,
        task=recipe.task,
        origin=bundle.Source(kind="recipe", name=recipe.name, weights=weights),
        preprocess=wanted.preprocess or recipe.preprocess,
        postprocess=recipe.postprocess,
        labels=_labels(recipe.labels),
        quantize=recipe.quantize,
        export_error=error,
    )


def _labels(labels: Labels) -> tuple[str, ...]:
    return tuple(labels.names)


def _load(module: nn.Module, recipe: Recipe, wanted: Wanted, progress: Progress) -> bundle.WeightsInfo:
    name = wanted.weights
    if name is None:
        published = f" or --weights {next(iter(recipe.weights))}" if recipe.weights else ""
        progress.note(UNTRAINED.format(published=published))
        return bundle.WeightsInfo(source=f"random, seed {wanted.seed}", trained=False)
    if name in recipe.weights:
        path = fetch_weights(recipe.weights[name], progress=progress)
    elif Path(name).exists() or "." in name or "/" in name:
        path = Path(name)
    else:
        hint = nearest(name, recipe.weights)
        raise UsageError(f"unknown weights '{name}': expected a file or a published set of {recipe.name}", hint=hint)
    with progress.stage("reading weights"):
        load_weights(module, path)
    return bundle.WeightsInfo(source=name, sha256=_sha256(path))


def _from_module(module: nn.Module, name: str, wanted: Wanted, progress: Progress) -> ModelSource:
    if wanted.shape is not None:
        raise UsageError("--shape goes with recipes and ONNX files", hint="give --input 1x3x224x224")
    if not wanted.inputs:
        raise UsageError(f"'{name}' needs the shape of its input", hint="give --input 1x3x224x224")
    weights = None
    if wanted.weights is not None:
        with progress.stage("reading weights"):
            load_weights(module, wanted.weights)
        weights = bundle.WeightsInfo(source=wanted.weights, sha256=_sha256(Path(wanted.weights)))
    names = {
        (key or ("input" if i == 0 else f"input{i}")): shape for i, (key, shape) in enumerate(wanted.inputs.items())
    }
    specs = tuple(TensorSpec(key, "float32", shape) for key, shape in names.items())
    graph, error = _exported(module, specs, (), wanted.opset or OPSET, Tolerance(), progress)
    return ModelSource(
        name=name.partition(":")[2].rpartition(".")[2] or name,
        graph=graph,
        task="tensor",
        origin=bundle.Source(kind="module", name=name, weights=weights),
        preprocess=wanted.preprocess or _picture_preprocess(input_specs(graph)),
        export_error=error,
    )


def _exported(
    module: nn.Module,
    specs: Sequence[TensorSpec],
    outputs: Sequence[str],
    opset: int,
    tolerance: Tolerance,
    progress: Progress,
) -> tuple[ir.Model, float]:
    with progress.stage("exporting to ONNX"):
        graph = optimize(graph_from_module(module, specs, outputs, opset=opset))
    with progress.stage("checking the graph against PyTorch"):
        check = compare_with_module(graph, module, specs, tolerance.export)
    return graph, max(output.relative_error for output in check.outputs)


def _from_onnx(path: Path, wanted: Wanted, progress: Progress) -> ModelSource:
    if wanted.weights is not None:
        raise UsageError("--weights does not go with an ONNX file, which has its own")
    with progress.stage(f"reading {path.name}"):
        graph = graph_from_onnx(path)
        _fix_shapes(graph, path, wanted, progress)
        if not is_quantized(graph):
            optimize(graph)
        check_runs(graph)
    return ModelSource(
        name=path.stem,
        graph=graph,
        task="tensor",
        origin=bundle.Source(kind="onnx", name=path.name, sha256=_sha256(path)),
        preprocess=wanted.preprocess or _picture_preprocess(input_specs(graph)),
    )


def _fix_shapes(graph: ir.Model, path: Path, wanted: Wanted, progress: Progress) -> None:
    """Every dimension gets a number: the one asked for, or 1 for a batch."""
    specs = input_specs(graph)
    given = dict(wanted.inputs or {})
    if "" in given:
        given[specs[0].name] = given.pop("")
    if wanted.shape is not None:
        given[specs[0].name] = _picture_shape(_with_batch(specs[0]), wanted.shape)
    shapes = {spec.name: given.pop(spec.name, _with_batch(spec)) for spec in specs}
    if given:
        raise UsageError(
            f"{path.name} has no input '{next(iter(given))}'", hint=nearest(next(iter(given)), [s.name for s in specs])
        )
    for spec in specs:
        unknown = [size for size in shapes[spec.name] if isinstance(size, str)]
        if unknown:
            example = "x".join(str(size) if isinstance(size, int) else "N" for size in shapes[spec.name])
            raise UsageError(
                f"input '{spec}' leaves {', '.join(unknown)} open, expected a size for each dimension but the first",
                hint=f"give --input {spec.name}:{example} with numbers",
            )
    if any(isinstance(size, str) for spec in specs for size in spec.shape):
        set_input_shapes(graph, {name: [int(size) for size in shape] for name, shape in shapes.items()})
        progress.note(
            "the open dimensions of its inputs are built as "
            + ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in shapes.items())
        )
    elif wanted.inputs or wanted.shape:
        set_input_shapes(graph, {name: [int(size) for size in shape] for name, shape in shapes.items()})


def _with_batch(spec: TensorSpec) -> tuple[int | str, ...]:
    return tuple(1 if axis == 0 and isinstance(size, str) else size for axis, size in enumerate(spec.shape))


def _picture_shape(own: Sequence[int | str], wanted: tuple[int, ...] | None) -> Any:
    """``wanted`` put into ``own``: both sides of the picture, or everything."""
    if wanted is None:
        return tuple(own)
    if len(wanted) == len(own):
        return tuple(wanted)
    if len(own) != 4 or len(wanted) != 2:
        raise UsageError(f"--shape: expected HxW or {len(own)} sizes, got {'x'.join(map(str, wanted))}")
    picture = list(own)
    first = 1 if own[3] in (1, 3) and own[1] not in (1, 3) else 2
    picture[first : first + 2] = wanted
    return tuple(picture)


def _picture_preprocess(specs: Sequence[TensorSpec]) -> Preprocess | None:
    """For a model of one float input of the shape of a picture: RGB or grey, 0 to 1, stretched to fit."""
    if len(specs) != 1 or specs[0].dtype != "float32" or len(specs[0].shape) != 4:
        return None
    shape = specs[0].shape
    for axis, layout in ((1, "nchw"), (3, "nhwc")):
        if shape[axis] in (1, 3):
            channels = int(shape[axis])
            return Preprocess(
                color="rgb" if channels == 3 else "gray",
                layout="nchw" if layout == "nchw" else "nhwc",
                mean=(0.0,) * channels,
                std=(1.0,) * channels,
            )
    return None


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
