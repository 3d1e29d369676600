"""Synthetic detection data set: images of digits on textured backgrounds, with boxes, rendered on access."""

from __future__ import annotations

import re

import numpy as np
from PIL import Image

from edgekit.data.examples import Boxes, Choice, Example, Split
from edgekit.data.generated.digits import digit_arrays
from edgekit.errors import UsageError
from edgekit.recipe.schema import Task

__all__ = ["SCENE_SIDE_PX", "Scenes", "scenes_from_name"]

SCENE_SIDE_PX = 160

_COUNT: dict[Split, int] = {"train": 4000, "test": 400}
_MIN_SIDE_PX, _MAX_SIDE_PX = 32, 2048
_MAX_DIGITS = 6
_TRIES = 12
# Largest overlap of two boxes, as a fraction of the smaller one: a hidden digit could not be recognized.
_MAX_COVERED = 0.2
# Height of a digit, as a fraction of the scene's shorter side.
_MIN_HEIGHT, _MAX_HEIGHT = 0.15, 0.45


class Scenes:
    """Scenes of one to six digits of varying size, rotation and color on backgrounds with gradients, blobs and strokes.

    Test scenes use digits that appear in no train scene, not even in another size or color. A scene depends on its
    split, its index and its size alone.
    """

    task: Task = "detect"
    labels = tuple("0123456789")
    notes: tuple[str, ...] = ()

    def __init__(self, choice: Choice, width: int = SCENE_SIDE_PX, height: int = SCENE_SIDE_PX) -> None:
        """Loads the digits of one split.

        Raises:
            BackendUnavailable: scikit-learn, the source of the digits, is not installed.
        """
        self.name = "scenes" if width == height == SCENE_SIDE_PX else f"scenes:{width}x{height}"
        self._split = choice.split
        self._size = (width, height)
        self._glyphs, self._classes = digit_arrays(choice.split)

    def __len__(self) -> int:
        return _COUNT[self._split]

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(f"scenes: expected an index from 0 to {len(self) - 1}, got {index}")
        random = np.random.default_rng([20, self._split == "test", index])
        scene = _ground(self._size, random)
        corners: list[tuple[int, int, int, int]] = []
        classes: list[int] = []
        for _ in range(int(random.integers(1, _MAX_DIGITS, endpoint=True))):
            which = int(random.integers(len(self._classes)))
            ink = _ink(self._glyphs[which], self._size, random)
            box = _free_place(ink, self._size, corners, random)
            if box is not None:
                _paint(scene, ink, box, random)
                corners.append(box)
                classes.append(int(self._classes[which]))
        scene += random.standard_normal(scene.shape, np.float32) * np.float32(random.uniform(0, 8))
        image = np.clip(scene, 0, 255).astype(np.uint8)
        boxes = Boxes(np.array(corners, np.float32).reshape(-1, 4), np.array(classes, np.int64))
        return Example(f"{self.name}, {self._split} {index}", image, boxes)


def scenes_from_name(size: str, choice: Choice) -> Scenes:
    """Opens the data set ``scenes``; ``size`` is the text after the name's colon: empty, ``224`` or ``320x240``.

    Raises:
        UsageError: the size is invalid.
        BackendUnavailable: scikit-learn is not installed.
    """
    if not size:
        return Scenes(choice)
    match = re.fullmatch(r"([0-9]{1,5})(?:x([0-9]{1,5}))?", size)
    sides = [int(side) for side in (match[1], match[2] or match[1])] if match else []
    if not sides or not all(_MIN_SIDE_PX <= side <= _MAX_SIDE_PX for side in sides):
        raise UsageError(
            f"data set scenes:{size}: expected a side or WIDTHxHEIGHT, {_MIN_SIDE_PX} to {_MAX_SIDE_PX} px, "
            f"got '{size}'",
            hint="such as scenes:224 or scenes:320x240",
        )
    return Scenes(choice, *sides)


def _ground(size: tuple[int, int], random: np.random.Generator) -> np.ndarray:
    """Draws a background, float32 ``(H, W, 3)``: a color, noise at three scales, and a few strokes as distractors."""
    width, height = size
    ground = np.full((height, width, 3), random.uniform(40, 215, 3), np.float32)
    for cells, strength in ((2, 45), (7, 22), (29, 12)):
        coarse = random.normal(0, strength * random.uniform(0.3, 1), (cells, cells, 3)).astype(np.float32)
        for channel in range(3):
            grain = Image.fromarray(coarse[..., channel]).resize(size, Image.Resampling.BICUBIC)
            ground[..., channel] += np.asarray(grain)
    for _ in range(int(random.integers(0, 5))):
        x, y = random.integers(0, width), random.integers(0, height)
        long, thin = random.integers(4, max(5, min(size) // 3)), random.integers(1, 5)
        across, down = (long, thin) if random.random() < 0.5 else (thin, long)
        ground[y : y + down, x : x + across] += random.uniform(-70, 70, 3).astype(np.float32)
    return np.clip(ground, 0, 255)


def _ink(glyph: np.ndarray, size: tuple[int, int], random: np.random.Generator) -> np.ndarray:
    """Renders a digit as ink coverage per pixel, float32 in ``[0, 1]``, cropped to the ink."""
    height = max(8, round(min(size) * float(np.exp(random.uniform(np.log(_MIN_HEIGHT), np.log(_MAX_HEIGHT))))))
    width = max(6, round(height * random.uniform(0.75, 1.1)))
    framed = Image.fromarray(np.pad(glyph, 2))
    # A margin of two cells leaves room for the rotation; it is cropped afterwards.
    large = framed.resize((width * 12 // 8, height * 12 // 8), Image.Resampling.BICUBIC)
    tilted = large.rotate(random.uniform(-15, 15), Image.Resampling.BICUBIC)
    # Sharpens the edges, which are soft after scaling 8 px up to 60.
    ink = np.clip((np.asarray(tilted, np.float32) / 255 - 0.3) * 2.5, 0, 1)
    rows, columns = np.flatnonzero(ink.max(1) > 0.5), np.flatnonzero(ink.max(0) > 0.5)
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _free_place(
    ink: np.ndarray, size: tuple[int, int], taken: list[tuple[int, int, int, int]], random: np.random.Generator
) -> tuple[int, int, int, int] | None:
    height, width = ink.shape
    for _ in range(_TRIES):
        x = int(random.integers(0, size[0] - width, endpoint=True))
        y = int(random.integers(0, size[1] - height, endpoint=True))
        box = (x, y, x + width, y + height)
        if all(_covered(box, other) <= _MAX_COVERED for other in taken):
            return box
    return None


def _covered(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> float:
    """Intersection as a fraction of the smaller box's area."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    smaller = min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1]))
    return max(0, width) * max(0, height) / smaller


def _paint(scene: np.ndarray, ink: np.ndarray, box: tuple[int, int, int, int], random: np.random.Generator) -> None:
    ground = scene[box[1] : box[3], box[0] : box[2]]
    mean = ground.mean((0, 1))
    # Ink and background differ in brightness by at least a third of the range, not in color alone.
    brighter = mean.mean() < random.uniform(100, 155)
    contrast = random.uniform(85, 150)
    color = np.clip(mean + (contrast if brighter else -contrast) + random.uniform(-25, 25, 3), 0, 255)
    ground += ink[..., np.newaxis] * (color.astype(np.float32) - ground)
