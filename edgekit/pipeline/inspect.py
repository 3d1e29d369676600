"""Inspection of a model or an engine: layers, shapes, precisions, parameters, multiply-accumulates and bytes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from edgekit.arguments import argument
from edgekit.errors import UsageError, needs_extra
from edgekit.garbage_collection import few_full_collections
from edgekit.measure.inspection import Inspection, inspection_from_bundle, inspection_from_stats
from edgekit.option.objects import SupportsArray
from edgekit.pipeline.model_kind import kind_of
from edgekit.pipeline.validate import model_config
from edgekit.progress import Silent
from edgekit.specs import Precision, precision_from_name

__all__ = ["inspect"]

Sizes = Sequence["int | Sequence[int]"]


def inspect(
    model: Any,
    *,
    shape: Sizes | None = None,
    input: SupportsArray | Mapping[str, Any] | Sequence[Any] | None = None,
    precision: Literal["int8", "fp16", "fp32"] | None = None,
) -> Inspection:
    """Lists the layers of a model or an engine with their shapes, precisions and sizes.

    Args:
        model: the folder of an engine, which need not run on this machine; or a model, as in `edgekit.build`. A
            reference model gets random weights.
        shape: ``(H, W)`` of the image, or all sizes of the first input; not for an engine.
        input: example inputs of a module or an ONNX file, or shapes by name, as in `edgekit.build`; not for an engine.
        precision: count bytes as in this precision; not for an engine.

    Raises:
        UsageError: the model does not exist, or an option does not go with an engine.
        BackendUnavailable: PyTorch or onnx, which models need, is not installed.
        EdgeKitError: the model cannot be loaded; see `edgekit.build`.
    """
    if not isinstance(model, (str, Path)) or not os.path.isdir(model):
        return _of_model(model, shape, input, precision_from_name(precision) if precision is not None else None)
    if shape is not None or input is not None:
        raise UsageError(
            f"{argument('shape')} and {argument('input')} go with models, not with an engine: its shapes were "
            "fixed when it was built",
            hint="leave them out",
        )
    if precision is not None:
        raise UsageError(
            f"{argument('precision')} goes with models, not with an engine: its precision was fixed when it was built",
            hint="inspect the model that it was built from",
        )
    return inspection_from_bundle(Path(model))


def _of_model(model: Any, shape: Sizes | None, inputs: Any, precision: Precision | None) -> Inspection:
    kind_of(model, or_engine=True)  # an unknown name is reported before a missing package
    # Imported here: an engine is inspected without PyTorch and onnx.
    with needs_extra("inspecting a model", "build"):
        from edgekit.graph.file import output_specs
        from edgekit.graph.sizes import stats_at
        from edgekit.pipeline.load_model import load_model
    with few_full_collections():
        loaded = load_model(model_config(model=model, shape=shape, input=inputs), Silent())
    stats = loaded.stats
    if precision is not None:
        if loaded.quantized:
            raise UsageError(
                f"{argument('precision')}: expected a float model, got {loaded.name}, whose graph is already quantized",
                hint="leave it out",
            )
        opt = {name: found.opt for name, found in loaded.shapes.items()}
        stats = stats_at(loaded.graph, opt, precision=precision)
    found = inspection_from_stats(loaded.name, stats, loaded.inputs, output_specs(loaded.graph))
    return found if precision is None else msgspec.structs.replace(found, precision_from="option")
