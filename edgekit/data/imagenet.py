"""ImageNet's 1,000 classes: their WordNet ids, which are the names of the folders of images."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from edgekit.recipe.schema import shipped

__all__ = ["imagenet_classes"]

_CLASSES = 1000
_FIRST, _LAST = "tench", "toilet"


def imagenet_classes(model: Sequence[str], folders: Sequence[str]) -> list[int] | None:
    """Returns the classes of an ImageNet model that folders named by WordNet ids have, such as ``n01440764``.

    Programs write the names of the classes differently (``tench, Tinca tinca``), but in the same order, that of the
    ids; some have another class before the first.

    Args:
        model: the model's class names, in its order.
        folders: names of folders.

    Returns:
        A class for each folder; None if the model is not one of ImageNet, or a name is not an id of its classes.
    """
    before = len(model) - _CLASSES
    if before not in (0, 1):
        return None
    first, last = model[before].strip().casefold(), model[-1].strip().casefold()
    places = _places()
    if not folders or not (first.startswith(_FIRST) and last.startswith(_LAST)) or not places.keys() >= set(folders):
        return None
    return [before + places[folder] for folder in folders]


@functools.cache
def _places() -> dict[str, int]:
    """Returns the place of each id in the list of ILSVRC 2012, which is sorted by them."""
    text = (shipped("recipes") / "labels" / "imagenet-synsets.txt").read_text(encoding="ascii")
    return {name: i for i, name in enumerate(text.split())}
