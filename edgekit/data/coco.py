"""Names of COCO's 80 classes, and the category ids used in its annotation and result files."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["COCO_CATEGORY_IDS", "COCO_NAMES", "is_coco"]

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
