"""Makes a recipe of an ONNX file from what is recognized in it."""

from __future__ import annotations

import glob
import os
import re
from pathlib import Path
from typing import get_args

from edgekit.arguments import either
from edgekit.config import ModelConfig
from edgekit.errors import UsageError
from edgekit.graph.file import output_specs
from edgekit.pipeline.load_model import load_model
from edgekit.pipeline.loaded_model import LoadedModel
from edgekit.pipeline.model_kind import kind_of
from edgekit.progress import Progress
from edgekit.quantize.head_layers import head_layers
from edgekit.recipe.schema import Input, Labels, Model, Quantize, Recipe, Task
from edgekit.specs import specs_at

__all__ = ["recipe_of_onnx"]


def recipe_of_onnx(config: ModelConfig, folder: Path, progress: Progress) -> Recipe:
    """Loads an ONNX file and returns a recipe for it, with its inputs, preprocessing, head and class names.

    Args:
        config: the model; and what the user says of it.
        folder: where the recipe will lie; the path of the ONNX file is relative to it.
        progress: receives what was recognized.

    Raises:
        UsageError: the model is no ONNX file, or one of its inputs has a type that recipes do not have.
        EdgeKitError: the file cannot be loaded; see `edgekit.build`.
    """
    if kind_of(config.model) != "onnx":
        raise UsageError(
            f"{either('FILE.onnx', 'model')}: expected an ONNX file, got {config.model}",
            hint="recipes of modules are written by hand: see docs/recipes.md",
        )
    path = Path(config.model)
    model = load_model(config, progress)
    inputs = []
    for spec in specs_at(model.inputs, model.shapes):
        if spec.dtype not in ("float32", "int64", "uint8"):
            raise UsageError(f"input {spec}: expected float32, int64 or uint8, as recipes have")
        shape = tuple(size for size in spec.shape if isinstance(size, int))
        num_values = 2 if spec.dtype == "int64" else 0
        inputs.append(Input(name=spec.name, shape=shape, dtype=spec.dtype, num_values=num_values))  # type: ignore[arg-type]
    name = re.sub(r"[^a-z0-9._-]+", "-", path.stem.lower()).strip("-._") or "model"
    return Recipe(
        name=name,
        title=f"{path.name}: {model.recognized.partition(':')[0].removeprefix('looks like ') or 'task ' + model.task}",
        task=model.task if model.task in get_args(Task) else "tensor",  # type: ignore[arg-type]
        macs=model.stats.macs,
        model=Model(onnx=os.path.relpath(path, folder)),
        inputs=tuple(inputs),
        outputs=tuple(spec.name for spec in output_specs(model.graph)),
        preprocess=model.preprocess,
        postprocess=model.postprocess,
        labels=Labels(names=model.labels),
        quantize=Quantize(keep_float=() if model.quantized else _head_patterns(model)),
    )


def _head_patterns(model: LoadedModel) -> tuple[str, ...]:
    """Returns patterns of the layers that a build without a recipe keeps in float."""
    return tuple(glob.escape(node.name or "") for node in head_layers(model.graph, model.head_outputs))
