"""Recipes from Darknet ``.cfg`` files, with the fields that the file defines."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from edgekit.data.files import files_in
from edgekit.data.formats.text_lines import text_lines
from edgekit.errors import DataError, RecipeError
from edgekit.models.cfg.layers import Network
from edgekit.models.cfg.sections import network_from_cfg
from edgekit.recipe.heads import CellHeads, YoloHead, YoloV1, YoloV2, YoloV3
from edgekit.recipe.schema import Input, Labels, Model, Postprocess, Preprocess, Quantize, Recipe, Task

__all__ = ["names_file", "recipe_from_cfg"]

PREPROCESS_BY_CHANNELS = {1: Preprocess(color="gray", mean=(0.0,), std=(1.0,)), 3: Preprocess()}
FAMILIES: dict[str, type[CellHeads]] = {"yolov1": YoloV1, "yolov2": YoloV2, "yolov3": YoloV3}


def recipe_from_cfg(path: Path, size: tuple[int, int] | None = None) -> Recipe:
    """Reads a cfg file as a recipe.

    A network with ``[yolo]``, ``[region]`` or ``[detection]`` is a detector, with their strides, anchors and
    thresholds; a network that ends in ``[softmax]`` is a classifier. Class names are those of `names_file`.

    Preprocessing is that of Darknet's own commands: letterbox for ``[yolo]`` and ``[region]`` (``detector.c``), stretch
    for ``[detection]`` (``yolo.c``), center crop for classifiers (``classifier.c``); values are from 0 to 1. The option
    ``letter_box`` of AlexeyAB's fork chooses between letterbox (1) and stretch (0) for detectors; a network with the
    fork's ``scale_x_y`` or ``new_coords``, such as YOLOv4, has the fork's default, stretch.

    Args:
        path: the file.
        size: height and width of the input; default: the file's.

    Raises:
        RecipeError: the file is invalid or not supported, or layers do not fit together; names the line.
    """
    network = network_from_cfg(path, size)
    image = network.image
    task, outputs = _task(network)
    named = names_file(path, _classes(network)) if task != "tensor" else None
    return Recipe(
        name=re.sub(r"[^a-z0-9._-]", "-", path.stem.lower()).lstrip("._-") or "network",
        title=f"{path.name}, {image.width} x {image.height}",
        task=task,
        model=Model(
            factory="edgekit.models.cfg.module:module_from_cfg",
            arguments={"path": str(path), "height": image.height, "width": image.width},
            parameters=network.parameters,
        ),
        inputs=(Input(name="images", shape=(1, *image)),),
        outputs=outputs,
        preprocess=_preprocess(network),
        postprocess=_postprocess(network),
        labels=Labels(names=_labels(named, _classes(network)) if named is not None else ()),
        quantize=Quantize(keep_float=_float_layers(network)),
    )


def names_file(path: Path, classes: int) -> Path | None:
    """Returns the file with the class names of a cfg file, one per line; None if there is none.

    It is the file with the same name and the suffix ``.names``; else ``obj.names`` in the same folder, Darknet's usual
    name, or the only other ``.names`` file there, if it has the right number of names.

    Args:
        path: the cfg file.
        classes: number of classes of the network.
    """
    own = path.with_suffix(".names")
    if own.is_file():
        return own
    others = files_in(path.absolute().parent, ".names")
    fitting = [file for file in others if _has_lines(file, classes)]
    usual = [file for file in fitting if file.name.lower() == "obj.names"]
    return next(iter(usual or fitting), None) if len(usual or fitting) == 1 else None


def _has_lines(file: Path, count: int) -> bool:
    try:
        return sum(1 for _ in text_lines(file)) == count
    except DataError:  # not a text, so it has no names
        return False


def _classes(network: Network) -> int:
    if network.heads:
        return network.heads[0].classes
    return network.layers[network.outputs()[0]].shape.channels


def _task(network: Network) -> tuple[Task, tuple[str, ...]]:
    """Returns the task of the network, and the names of its outputs."""
    if network.heads:
        return "detect", tuple(network.names()[head.predicts] for head in network.heads)
    return ("classify", ("logits",)) if network.classifies else ("tensor", ("output",))


def _preprocess(network: Network) -> Preprocess | None:
    channels = network.image.channels
    if channels not in PREPROCESS_BY_CHANNELS:
        if network.heads:
            raise network.heads[0].section.error(f"expected an input of 1 or 3 channels, got {channels}")
        return None
    preprocess = PREPROCESS_BY_CHANNELS[channels]
    if network.heads and network.keeps_aspect:
        return msgspec.structs.replace(preprocess, resize="letterbox", pad=128)
    return msgspec.structs.replace(preprocess, resize="crop") if network.classifies else preprocess


def _postprocess(network: Network) -> Postprocess | None:
    if network.kind is None:
        return None
    names = network.names()
    heads = [
        YoloHead(
            output=names[head.predicts],
            stride=head.stride,
            anchors=head.anchors,
            boxes=head.boxes,
            scale_xy=head.scale_xy,
            new_coords=head.new_coords,
        )
        for head in network.heads
    ]
    if network.kind == "yolov3":
        return Postprocess(head=YoloV3(heads=tuple(heads), diou_beta=network.diou_beta))
    return Postprocess(head=FAMILIES[network.kind](heads=tuple(heads)))


def _float_layers(network: Network) -> tuple[str, ...]:
    """Returns patterns of prediction convolutions; YOLOv1's fully connected one is too large to stay in float."""
    layers = [network.layers[head.predicts] for head in network.heads]
    names = network.names()
    return tuple(f"{names[layer.index]}*" for layer in layers if layer.kind == "convolutional")


def _labels(path: Path, classes: int) -> tuple[str, ...]:
    try:
        names = tuple(line.text.strip() for line in text_lines(path))
    except DataError as e:
        raise RecipeError(f"labels {e.message}", hint=e.hint) from e
    if len(names) != classes:
        raise RecipeError(
            f"labels {path}: expected {classes} names, the number of classes of the network, got {len(names)}"
        )
    return names
