"""Recognizes the head of a model from its graph, its metadata and its outputs for one image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgekit.quantize.output_parts import concatenated_columns, selected_values, values_behind
from edgekit.recognition.facts import Facts, Metadata, Output, metadata_from_properties
from edgekit.recognition.rules import verdicts
from edgekit.recognition.verdict import Verdict

__all__ = ["Recognition", "facts_of", "recognized"]


@dataclass(frozen=True, kw_only=True)
class Recognition:
    """What a model's outputs are.

    Attributes:
        verdict: the only head that fits; None if there is none, or several fit.
        candidates: the heads between which the facts do not decide.
        metadata: what the file says of itself.
        classifies: the only output has a score for each class of an image.
    """

    verdict: Verdict | None = None
    candidates: tuple[Verdict, ...] = ()
    metadata: Metadata = Metadata()
    classifies: bool = False


def recognized(facts: Facts) -> Recognition:
    """Recognizes the head; where several fit, none is chosen unless only one of them is sure."""
    found = verdicts(facts)
    sure = [verdict for verdict in found if verdict.sure]
    if len(sure) == 1:
        return Recognition(verdict=sure[0], metadata=facts.metadata)
    if found:
        return Recognition(candidates=tuple(sure or found), metadata=facts.metadata)
    return Recognition(metadata=facts.metadata, classifies=_classifies(facts))


def facts_of(
    graph: ir.Model, outputs: Mapping[str, np.ndarray], *, size: tuple[int, int], inputs: Sequence[str]
) -> Facts:
    """Collects the facts.

    Args:
        graph: the model's graph, with inferred shapes.
        outputs: its outputs for one image.
        size: width and height of the input in px.
        inputs: names of the inputs that the file had.
    """
    selected, stepwise = selected_values(graph.graph), values_behind(graph.graph, ("Loop", "Scan"))
    found = []
    for value in graph.graph.outputs:
        name = value.name or ""
        if name not in outputs:
            continue
        axis, parts = concatenated_columns(value)
        found.append(
            Output(
                name=name,
                value=np.asarray(outputs[name], np.float32 if outputs[name].dtype.kind == "f" else None),
                parts=parts,
                axis=axis,
                selected=value in selected,
                stepwise=value in stepwise,
            )
        )
    return Facts(
        size=size,
        outputs=tuple(found),
        metadata=metadata_from_properties(dict(graph.metadata_props)),
        inputs=tuple(inputs),
    )


def _classifies(facts: Facts) -> bool:
    if len(facts.outputs) != 1:
        return False
    shape = facts.outputs[0].shape
    logits = len(shape) >= 2 and all(size == 1 for size in shape[2:]) and shape[1] > 1
    return logits and (facts.metadata.task == "classify" or len(facts.metadata.names) == shape[1])
