"""Gives an ONNX file the head, the preprocessing, the task and the class names that its outputs and metadata tell."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from edgekit.arguments import argument, either
from edgekit.config import ModelConfig
from edgekit.data.calibration.calibration_set import calibration_set
from edgekit.data.images import preprocess
from edgekit.errors import RunError, UsageError
from edgekit.graph.evaluator import Evaluator
from edgekit.graph.file import output_specs
from edgekit.kernels.decode.families import decode
from edgekit.kernels.decode.layout import layout
from edgekit.pipeline.inputs import DEFAULT_SET
from edgekit.pipeline.loaded_model import LoadedModel, fitting
from edgekit.progress import Progress
from edgekit.recipe.heads import Head, task_of_head
from edgekit.recipe.preprocess import merged
from edgekit.recipe.schema import Postprocess, Preprocess
from edgekit.recognition.facts import Facts
from edgekit.recognition.recognize import Recognition, facts_of, recognized
from edgekit.recognition.rules import verdicts
from edgekit.recognition.verdict import FAMILY_TITLES, Verdict
from edgekit.runtime.class_names import class_count
from edgekit.specs import specs_at

__all__ = ["with_recognized_head"]

IOU_THRESHOLDS = {"yolov8": 0.7}
"""Suppression thresholds with which the authors of a family publish its results; others have YOLOv3's."""


def with_recognized_head(
    model: LoadedModel, evaluator: Evaluator, config: ModelConfig, inputs: Sequence[str], progress: Progress
) -> LoadedModel:
    """Returns the model with what its outputs were recognized as; as it was if they are nothing known.

    Args:
        model: a model from an ONNX file.
        evaluator: runs its graph.
        config: has the head that the user gave, if any.
        inputs: names of the inputs that the file had.
        progress: receives the verdict with its evidence.

    Raises:
        UsageError: the model does not have the head that the user gave.
    """
    if config.head_option and config.head is None:
        raise UsageError(f"{argument('head_option')} goes with {argument('head')}", hint=f"known: {_families()}")
    if config.head is None and config.no_head:
        return model
    if model.preprocess is None:
        if config.head is not None:
            raise UsageError(
                f"{argument('head', config.head)}: expected a model with one image input, got the inputs "
                f"{'; '.join(map(str, model.inputs))}"
            )
        return model
    facts = _facts(model, evaluator, inputs)
    if config.head is not None:
        verdict = _given(facts, config.head, config.head_option or {})
        return _with_verdict(model, verdict, facts, config, progress)
    found = recognized(facts)
    if found.verdict is not None:
        return _with_verdict(model, found.verdict, facts, config, progress)
    if found.candidates:
        _say_unsure(found, progress)
    if found.classifies:
        return _as_classifier(model, facts, config, progress, "its metadata says so")
    if config.labels is not None and class_count(model.task, None, output_specs(model.graph)) is not None:
        return _as_classifier(model, facts, config, progress, f"{argument('labels')} names them")
    return model


def _as_classifier(
    model: LoadedModel, facts: Facts, config: ModelConfig, progress: Progress, reason: str
) -> LoadedModel:
    notes = [f"looks like a classifier of {facts.outputs[0].shape[1]} classes: {reason}"]
    how = model.preprocess
    if facts.metadata.task == "classify" and how is not None:
        # Ultralytics' metadata: its classifiers see the center of an image.
        how = fitting(merged(how, {"resize": "crop", **(config.preprocess or {})}), model.inputs[0])
        notes.append(f"images are preprocessed as Ultralytics' are: {_described(how)}")
    labels = facts.metadata.names or model.labels
    told = _told(notes, progress)
    return dataclasses.replace(model, task="classify", labels=labels, preprocess=how, recognized=told)


def _told(notes: Sequence[str], progress: Progress) -> str:
    """Notes what was recognized, and returns it as the manifest keeps it: a note a line."""
    for note in notes:
        progress.note(note)
    return "\n".join(notes)


def _facts(model: LoadedModel, evaluator: Evaluator, inputs: Sequence[str]) -> Facts:
    """Runs the model on one image; Ultralytics' letterbox serves to find any family."""
    spec = specs_at(model.inputs, model.shapes)[0]
    assert model.preprocess is not None
    how = msgspec.structs.replace(model.preprocess, resize="letterbox", pad=114)
    image = next(iter(calibration_set(DEFAULT_SET, limit=1))).value
    assert isinstance(image, np.ndarray)  # the shipped set has images
    batch, placement = preprocess(image, how, spec.shape, spec.dtype)
    size = spec.shape[0]
    feeds = {spec.name: np.repeat(batch, size if isinstance(size, int) else 1, axis=0)}
    return facts_of(model.graph, evaluator.run(feeds), size=placement.input_size, inputs=inputs)


def _given(facts: Facts, family: str, options: Mapping[str, Any]) -> Verdict:
    """Returns the head that the user gave, with the parameters that the outputs tell.

    Raises:
        UsageError: the options are not those of the family, or the outputs do not have its shapes.
    """
    alike = [verdict for verdict in verdicts(facts) if verdict.family == family]
    fields: dict[str, Any] = {"family": family}
    # Between heads of one family, the given options decide.
    alike.sort(key=lambda each: sum(getattr(each.head, key, value) != value for key, value in options.items()))
    if alike:
        fields |= msgspec.to_builtins(alike[0].head)
    elif len(facts.outputs) == 1 and family not in ("efficient-nms", "boxes-scores-labels"):
        fields |= {"boxes" if family == "detr" else "output": facts.outputs[0].name}
    fields |= options
    where = argument("head", family)
    try:
        head = msgspec.convert(fields, Head, strict=False)
    except msgspec.ValidationError as e:
        raise UsageError(
            f"{where}: {e}",
            hint=f"give the parameters with {argument('head_option')}; outputs: {_shapes(facts)}",
        ) from e
    try:
        decode({each.name: each.value for each in facts.outputs}, head, input_size=facts.size, score_threshold=0.9)
    except RunError as e:
        raise UsageError(f"{where}: {e.message}", hint=f"outputs: {_shapes(facts)}") from e
    known = alike[0] if alike else Verdict(head=head, evidence=())
    return dataclasses.replace(known, head=head, evidence=(f"given as {where}",), sure=True)


def _with_verdict(
    model: LoadedModel, verdict: Verdict, facts: Facts, config: ModelConfig, progress: Progress
) -> LoadedModel:
    names = facts.metadata.names
    task = task_of_head(verdict.head)
    classes = layout(verdict.head, {output.name: output.shape for output in facts.outputs}).classes
    labels = names if classes in (None, len(names)) else ()
    how = _preprocess(model, verdict, config)
    number = classes or len(names)
    count = f", {number} class{'' if number == 1 else 'es'}" if number else ""
    text = f"looks like {FAMILY_TITLES[verdict.family]}, task {task}{count}: {', '.join(verdict.evidence)}"
    notes = [text]
    if how != model.preprocess:
        notes.append(
            f"images are preprocessed as {verdict.preprocess_of} are: {_described(how)}; replace it with "
            f"{argument('preprocess')}"
        )
    iou_threshold = IOU_THRESHOLDS.get(verdict.family, 0.45)
    return dataclasses.replace(
        model,
        task=task,
        labels=labels,
        preprocess=how,
        postprocess=Postprocess(head=verdict.head, iou_threshold=iou_threshold),
        recognized=_told(notes, progress),
    )


def _preprocess(model: LoadedModel, verdict: Verdict, config: ModelConfig) -> Preprocess:
    """Returns the family's preprocessing with the fields that the user gave."""
    assert model.preprocess is not None
    known = dict(verdict.preprocess)
    if model.preprocess.channels == 1:
        known = {name: value for name, value in known.items() if name not in ("color", "mean", "std")}
    return fitting(merged(model.preprocess, {**known, **(config.preprocess or {})}), model.inputs[0])


def _say_unsure(found: Recognition, progress: Progress) -> None:
    families = list(dict.fromkeys(verdict.family for verdict in found.candidates))
    each = "; ".join(f"{FAMILY_TITLES[verdict.family]} ({', '.join(verdict.evidence)})" for verdict in found.candidates)
    chosen = " or ".join(argument("head", family) for family in families)
    none = either("--no-head", "no_head=True")
    progress.note(
        f"the outputs may be those of {each}: they stay arrays. Choose with {chosen}, or silence this with {none}"
    )


def _described(how: Preprocess) -> str:
    default = msgspec.structs.asdict(Preprocess())
    fields = msgspec.structs.asdict(how)
    names = ["resize", *(name for name in fields if name != "resize" and fields[name] != default[name])]
    return ", ".join(f"{name}={_value(fields[name])}" for name in names)


def _value(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(f"{number:g}" for number in value)
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def _shapes(facts: Facts) -> str:
    return ", ".join(f"{output.name} {output.shape}" for output in facts.outputs)


def _families() -> str:
    return ", ".join(FAMILY_TITLES)
