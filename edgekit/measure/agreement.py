"""How far the outputs of an engine agree with those of its reference: noise, detections and classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import msgspec
import numpy as np

from edgekit.data.images import Placement
from edgekit.engine.bundle.manifest import Manifest
from edgekit.quantize.compare import OutputNoise
from edgekit.runtime.detections import Detections
from edgekit.runtime.tasks.classify import logits_from_outputs
from edgekit.runtime.tasks.detector import boxes_from_outputs
from edgekit.specs import EXACT_DB

__all__ = [
    "SAME_OBJECT",
    "Accuracy",
    "Agreement",
    "ComparedPicture",
    "agreement_of_outputs",
    "compared_pictures",
    "overlaps_of_boxes",
]

SAME_OBJECT = 0.5
"""Least intersection over union of two boxes of one object, as in PASCAL VOC."""

Arrays = Mapping[str, np.ndarray]


class Agreement(msgspec.Struct, frozen=True, kw_only=True):
    """How often the results of an engine are those of its reference.

    Attributes:
        kind: ``detections``: boxes of one class that overlap by an IoU of 0.5 or more; ``top1``: the best class.
        inputs: number of inputs that both engines ran.
        reference: number of results of the reference.
        same: results of the reference that the engine has too.
        extra: results of the engine that the reference does not have.
        mean_iou: mean overlap of the boxes that both have; None without any.
    """

    kind: Literal["detections", "top1"]
    inputs: int
    reference: int
    same: int
    extra: int = 0
    mean_iou: float | None = None


class Accuracy(msgspec.Struct, frozen=True, kw_only=True):
    """How far the outputs of an engine agree with those of the original model, on some of the calibration inputs.

    Attributes:
        reference: what computed the outputs of the original model.
        noise: signal to noise of each output, divided into parts, such as boxes and scores.
        agreement: of detections or classes; None for other tasks.
    """

    reference: str = ""
    noise: tuple[OutputNoise, ...] = ()
    agreement: Agreement | None = None

    @property
    def sqnr_db(self) -> dict[str, float]:
        """The lowest ratio of the parts of each output, by name."""
        found: dict[str, float] = {}
        for each in self.noise:
            if each.sqnr_db is not None:
                found[each.output] = min(each.sqnr_db, found.get(each.output, EXACT_DB))
        return found


class ComparedPicture(NamedTuple):
    """An input picture, and what both engines detect in it; boxes in px of the picture.

    Attributes:
        pixels: the picture as the engine gets it, uint8 RGB, shape ``(H, W, 3)``.
        reference: detections of the reference.
        got: detections of the engine.
    """

    pixels: np.ndarray
    reference: Detections
    got: Detections


def agreement_of_outputs(reference: Sequence[Arrays], got: Sequence[Arrays], manifest: Manifest) -> Agreement | None:
    """Compares the detections or classes of outputs for the same inputs; None for other tasks.

    Args:
        reference: outputs of the reference, for each input.
        got: outputs of the engine.
        manifest: the engine's; has its task and head.
    """
    if manifest.postprocess is not None and manifest.preprocess is not None:
        pairs = list(zip(_detections(reference, manifest), _detections(got, manifest), strict=True))
        matched = [_matched(a, b) for a, b in pairs]
        overlaps = [overlap for each in matched for overlap in each]
        return Agreement(
            kind="detections",
            inputs=len(pairs),
            reference=sum(len(a) for a, _ in pairs),
            same=len(overlaps),
            extra=sum(len(b) for _, b in pairs) - len(overlaps),
            mean_iou=float(np.mean(overlaps)) if overlaps else None,
        )
    if manifest.task == "classify":
        best = [
            np.concatenate([logits_from_outputs(each, manifest).argmax(axis=1) for each in side])
            for side in (reference, got)
        ]
        return Agreement(kind="top1", inputs=len(best[0]), reference=len(best[0]), same=int((best[0] == best[1]).sum()))
    return None


def _detections(outputs: Sequence[Arrays], manifest: Manifest) -> list[Detections]:
    """Returns the detections in the first input of each batch, in px of the input."""
    size = _input_size(manifest)
    place = Placement((1.0, 1.0), (0.0, 0.0), size, size)
    first = [{name: np.asarray(array[:1], np.float32) for name, array in each.items()} for each in outputs]
    return [boxes_from_outputs(each, manifest, place) for each in first]


def _input_size(manifest: Manifest) -> tuple[int, int]:
    """Returns the largest width and height of the image input, which only clip boxes."""
    assert manifest.preprocess is not None
    shape = manifest.inputs[0].shape
    sides = shape[2:4] if manifest.preprocess.layout == "nchw" else shape[1:3]
    height, width = (side if isinstance(side, int) else 2**16 for side in sides)
    return width, height


def _matched(reference: Detections, got: Detections) -> list[float]:
    """Returns the overlaps of boxes of one object: each box of the engine, best first, takes the nearest one left."""
    overlaps = overlaps_of_boxes(got.boxes, reference.boxes)
    overlaps[got.classes[:, None] != reference.classes[None]] = 0.0
    found = []
    for row in range(len(overlaps)):
        column = int(overlaps[row].argmax()) if overlaps.shape[1] else -1
        if column >= 0 and overlaps[row, column] >= SAME_OBJECT:
            found.append(float(overlaps[row, column]))
            overlaps[:, column] = 0.0
    return found


def overlaps_of_boxes(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Returns the intersection over union of corners, shapes ``(N, 4)`` and ``(M, 4)``; shape ``(N, M)``."""
    a, b = one.astype(np.float64)[:, None], other.astype(np.float64)[None]
    sides = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0, None)
    both = sides.prod(axis=-1)
    area = [(each[..., 2:] - each[..., :2]).prod(axis=-1) for each in (a, b)]
    found: np.ndarray = both / np.maximum(area[0] + area[1] - both, 1e-12)
    return found


def compared_pictures(
    inputs: Sequence[Arrays], reference: Sequence[Arrays], got: Sequence[Arrays], manifest: Manifest, limit: int
) -> list[ComparedPicture]:
    """Returns the pictures in which the two detect most, with their detections; empty if it is no detector.

    The pictures are computed back from the inputs, so that they are what the engines saw.

    Args:
        inputs: feeds of both engines.
        reference: outputs of the reference.
        got: outputs of the engine.
        manifest: the engine's.
        limit: number of pictures.
    """
    if manifest.postprocess is None or manifest.preprocess is None or not manifest.inputs:
        return []
    name = manifest.inputs[0].name
    pairs = zip(inputs, _detections(reference, manifest), _detections(got, manifest), strict=True)
    found = [ComparedPicture(_pixels(feed[name], manifest), a, b) for feed, a, b in pairs]
    return sorted(found, key=lambda each: -len(each.reference) - len(each.got))[:limit]


def _pixels(array: np.ndarray, manifest: Manifest) -> np.ndarray:
    how = manifest.preprocess
    assert how is not None
    image = np.asarray(array[0], np.float32)
    image = image.transpose(1, 2, 0) if how.layout == "nchw" else image
    image = (image * np.asarray(how.std, np.float32) + np.asarray(how.mean, np.float32)) * how.divisor
    image = np.clip(np.rint(image), 0, 255).astype(np.uint8)
    if how.color == "gray":
        return np.repeat(image, 3, axis=2)
    return np.ascontiguousarray(image[..., ::-1] if how.color == "bgr" else image)
