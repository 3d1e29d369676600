"""A recipe out of a Darknet ``.cfg`` file: the same that a ``.toml`` says, as far as the network itself says it."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from edgekit.errors import RecipeError
from edgekit.models.cfg.layers import Network
from edgekit.models.cfg.sections import network_from_cfg
from edgekit.recipe.schema import Input, Labels, Model, Postprocess, Preprocess, Quantize, Recipe, Task, YoloHead

__all__ = ["recipe_from_cfg"]

COLOURS = {1: Preprocess(color="gray", mean=(0.0,), std=(1.0,)), 3: Preprocess()}


def recipe_from_cfg(path: Path, size: tuple[int, int] | None = None) -> Recipe:
    """Reads a cfg file as a recipe.

    A network with ``[yolo]``, ``[region]`` or ``[detection]`` is a detector, with the strides, anchors and thresholds
    that those have; one that ends in ``[softmax]`` is a classifier. Names of classes are in the file beside it that has
    its name and ends in ``.names``, one a line, if there is one.

    Pictures become inputs as Darknet's own commands make them: letterboxed for ``[yolo]`` and ``[region]``
    (``detector.c``), stretched for ``[detection]`` (``yolo.c``), cut out of the middle for classifiers
    (``classifier.c``); numbers are from 0 to 1.

    Args:
        path: the file.
        size: height and width of the input; the file's own if None.

    Raises:
        RecipeError: the file is not a network, has something that is not taken, or does not close: names the line.
    """
    network = network_from_cfg(path, size)
    picture = network.picture
    task, outputs = _task(network)
    classes = network.heads[0].classes if network.heads else network.layers[network.outputs()[0]].shape.channels
    return Recipe(
        name=re.sub(r"[^a-z0-9._-]", "-", path.stem.lower()).lstrip("._-") or "network",
        title=f"{path.name}, {picture.width} x {picture.height}",
        task=task,
        model=Model(
            factory="edgekit.models.cfg.module:module_from_cfg",
            arguments={"path": str(path), "height": picture.height, "width": picture.width},
            parameters=network.parameters,
        ),
        inputs=(Input(name="images", shape=(1, *picture)),),
        outputs=outputs,
        preprocess=_preprocess(network),
        postprocess=_postprocess(network),
        labels=Labels(names=_labels(path.with_suffix(".names"), classes) if task != "tensor" else ()),
        quantize=Quantize(keep_float=_float_layers(network)),
    )


def _task(network: Network) -> tuple[Task, tuple[str, ...]]:
    """What the network is for, and names of its outputs."""
    if network.heads:
        return "detect", tuple(network.names()[head.predicts] for head in network.heads)
    return ("classify", ("logits",)) if network.classifies else ("tensor", ("output",))


def _preprocess(network: Network) -> Preprocess | None:
    channels = network.picture.channels
    if channels not in COLOURS:
        if network.heads:
            raise network.heads[0].section.error(f"expected a picture of 1 or 3 channels, got {channels}")
        return None
    colour = COLOURS[channels]
    if network.kind in ("yolov2", "yolov3"):
        return msgspec.structs.replace(colour, resize="letterbox", pad=128)
    return msgspec.structs.replace(colour, resize="crop") if network.classifies else colour


def _postprocess(network: Network) -> Postprocess | None:
    if network.kind is None:
        return None
    names = network.names()
    heads = [
        YoloHead(output=names[head.predicts], stride=head.stride, anchors=head.anchors, boxes=head.boxes)
        for head in network.heads
    ]
    return Postprocess(kind=network.kind, heads=tuple(heads))


def _float_layers(network: Network) -> tuple[str, ...]:
    """Patterns of the convolutions that predict; a full layer, as YOLOv1 has it, is too large to be kept in float."""
    layers = [network.layers[head.predicts] for head in network.heads]
    names = network.names()
    return tuple(f"{names[layer.index]}*" for layer in layers if layer.kind == "convolutional")


def _labels(path: Path, classes: int) -> tuple[str, ...]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return ()
    except OSError as e:
        raise RecipeError(f"labels {path}: expected a text file, one name a line, got: {e.strerror or e}") from e
    except ValueError as e:
        raise RecipeError(f"labels {path}: expected a text file in UTF-8, got something else") from e
    names = tuple(line.strip() for line in lines if line.strip())
    if len(names) != classes:
        raise RecipeError(
            f"labels {path}: expected {classes} names, as many as the network has classes, got {len(names)}"
        )
    return names
