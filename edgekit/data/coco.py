"""Names of COCO's 80 classes, the category ids used in its annotation and result files, and a person's skeleton."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["COCO_CATEGORY_IDS", "COCO_NAMES", "COCO_SKELETON", "is_coco"]

COCO_NAMES = tuple(
    """
    person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign,
    parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella,
    handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard,
    surfboard, tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange,
    broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop,
    mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase, scissors,
    teddy bear, hair drier, toothbrush
    """.strip()
    .replace("\n    ", " ")
    .split(", ")
)

# COCO defines 91 categories; these were never annotated (Lin et al., Microsoft COCO, arXiv:1405.0312, appendix).
_NEVER_LABELLED = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91}
COCO_CATEGORY_IDS = tuple(i for i in range(1, 92) if i not in _NEVER_LABELLED)

COCO_SKELETON = (
    *((15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8)),
    *((7, 9), (8, 10), (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6)),
)
"""Pairs of COCO's 17 key points of a person that are joined, from its category ``person``, counted from 0."""

_DARKNET_NAMES = {
    "motorbike": "motorcycle",
    "aeroplane": "airplane",
    "sofa": "couch",
    "pottedplant": "potted plant",
    "diningtable": "dining table",
    "tvmonitor": "tv",
}


def is_coco(names: Sequence[str]) -> bool:
    """Whether ``names`` are COCO's 80 classes in COCO's order, with COCO's or Darknet's spelling."""
    return tuple(_DARKNET_NAMES.get(name, name) for name in names) == COCO_NAMES
