"""Values of a box beside its corners, score and class: coefficients of masks, key points."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgekit.recipe.heads import End2End, YoloV5, YoloV8

__all__ = ["extras_of", "keypoints_in_image"]


def extras_of(
    outputs: Mapping[str, np.ndarray], head: YoloV5 | YoloV8 | End2End, cells: np.ndarray, *, index: int = 0
) -> np.ndarray:
    """Returns the extras of boxes: key points first, then the coefficients of masks, and the angle last.

    Args:
        outputs: outputs by name, which fit the head.
        head: the family and its parameters.
        cells: which of the boxes that the model predicts, as in `edgekit.kernels.decode.families.DETECTION`.
        index: index of the image in the batch.

    Returns:
        float32, shape ``(len(cells), head.extras)``.
    """
    output = outputs[head.output][index]
    first = isinstance(head, YoloV8) and head.layout == "channels-first"
    rows = output[:, cells].T if first else output[cells]
    extras: np.ndarray = rows[:, rows.shape[1] - head.extras :].astype(np.float32)
    return extras


def keypoints_in_image(
    values: np.ndarray, *, scale: tuple[float, float], offset: tuple[float, float], size: tuple[int, int]
) -> np.ndarray:
    """Maps key points from the model's input to the image, as Ultralytics' ``scale_coords``: clipped to the image.

    Args:
        values: x and y in px of the input, and a visibility if the model predicts one; shape ``(N, K, 2)`` or
            ``(N, K, 3)``.
        scale: input px per image px, ``(x, y)``.
        offset: position of the image's upper left corner in input px, ``(x, y)``.
        size: width and height of the image in px.

    Returns:
        x and y in px of the image, and the visibility, 1 where there is none; float32, shape ``(N, K, 3)``.
    """
    found = np.ones((*values.shape[:2], 3), np.float32)
    found[..., : values.shape[2]] = values
    places = (values[..., :2].astype(np.float64) - offset) / scale
    found[..., :2] = np.clip(places, 0, size)
    return found
