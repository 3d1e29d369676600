"""Reference: the outputs of the model as its user brought it, which every later stage is compared with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgekit.arguments import argument, either
from edgekit.errors import GraphError
from edgekit.graph.operators import RANDOM
from edgekit.pipeline.inputs import Inputs
from edgekit.pipeline.loaded_model import LoadedModel
from edgekit.progress import Progress
from edgekit.quantize.output_form import OutputForm
from edgekit.quantize.output_parts import forms_of_outputs

__all__ = ["Reference", "reference_outputs"]

Outputs = Sequence[dict[str, np.ndarray]]


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Outputs of the original model.

    Attributes:
        name: what computed them, such as ``ONNX Runtime on model.onnx``; empty if nothing could.
        outputs: outputs by name, for each of ``Inputs.feeds``; empty if nothing could compute them.
        min_max_outputs: the same for ``Inputs.min_max_feeds``.
        forms: what the numbers of each output are.
    """

    name: str
    outputs: Outputs
    min_max_outputs: Sequence[Outputs]
    forms: Mapping[str, OutputForm]


def reference_outputs(model: LoadedModel, inputs: Inputs, progress: Progress) -> Reference:
    """Runs the original model on the inputs that engines are compared on; the caller closes it.

    If it cannot run, or draws random numbers, a note says that nothing could be compared with it.
    """
    original = model.original
    forms = forms_of_outputs(model.graph, model.postprocess)
    nothing = Reference(name="", outputs=(), min_max_outputs=(), forms=forms)
    # The optimized graph has no Dropout that only passes its input on.
    drawing = next((node for node in model.graph.graph.all_nodes() if node.op_type in RANDOM), None)
    if drawing is not None:
        progress.note(
            f"nothing was compared with the original model: node '{drawing.name}' ({drawing.op_type}) draws random "
            "numbers, other ones in each run"
        )
        return nothing
    try:
        with progress.stage(f"running {original.name}"):
            # All at once, because an ONNX file is loaded for each call.
            found = iter(original.run([*inputs.feeds, *(feed for feeds in inputs.min_max_feeds for feed in feeds)]))
            outputs = [next(found) for _ in inputs.feeds]
            min_max = [[next(found) for _ in feeds] for feeds in inputs.min_max_feeds]
    except GraphError as e:
        progress.note(f"nothing was compared with the original model: {e.message}")
        return nothing
    for note in _notes_on_empty(outputs, original.name):
        progress.note(note)
    return Reference(name=original.name, outputs=outputs, min_max_outputs=min_max, forms=forms)


def _notes_on_empty(outputs: Outputs, name: str) -> Iterator[str]:
    """Names the outputs that tell nothing about an engine."""
    fix = either("--input NAME=VALUE", "input={'NAME': VALUE}")
    for output in outputs[0] if outputs else ():
        what = _emptiness([each[output] for each in outputs])
        if what:
            yield (
                f"output '{output}' of {name} {what} for all {len(outputs)} inputs that it was run on: that an engine "
                f"computes it right was not shown. Give real inputs with {argument('calib', like='DIR')}, or fix an "
                f"input such as a length with {fix}"
            )


def _emptiness(arrays: Sequence[np.ndarray]) -> str:
    if not all(isinstance(array, np.ndarray) and array.dtype.kind == "f" for array in arrays):
        return ""
    finite = [array[np.isfinite(array)] for array in arrays]
    if not any(array.size for array in arrays):
        return "is empty"
    if not any(array.size for array in finite):
        return "has no number but NaN and infinities"
    return "" if any(array.any() for array in finite) else "is zero"
