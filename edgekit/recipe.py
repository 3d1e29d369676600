"""Recipes: one TOML file says all that EdgeKit knows of a model besides its code.

The tree of structs below is the file format: a table is a struct, a key is a field, an unknown key is an
error. ``docs`` of every field stand in the attribute lists.
"""

from __future__ import annotations

import functools
import re
import sys
from pathlib import Path
from typing import Any, Literal

import msgspec

from edgekit.errors import RecipeError, UsageError, nearest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = [
    "Input",
    "Labels",
    "Model",
    "Postprocess",
    "Preprocess",
    "Quantize",
    "Recipe",
    "Tolerance",
    "Weights",
    "YoloHead",
    "load_recipe",
    "recipe_from_file",
    "recipe_names",
]


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class Model(_Table):
    """Where the reference module comes from.

    Attributes:
        factory: ``package.module:callable`` that returns an ``nn.Module``.
        arguments: keyword arguments for it.
        parameters: how many learned numbers it has with these arguments; a build checks it.
    """

    factory: str
    arguments: dict[str, Any] = {}
    parameters: int


class Input(_Table):
    """The graph's one input: its name and its shape ``(N, C, H, W)``, float32."""

    name: str = "images"
    shape: tuple[int, ...]


class Preprocess(_Table):
    """How a picture becomes an input: ``(pixel / divisor - mean) / std``, channel by channel.

    Attributes:
        resize: ``letterbox`` keeps the aspect ratio and fills the rest with ``pad``; ``stretch`` does not keep
            it; ``crop`` resizes the short side to ``resize_to`` and cuts the middle out.
        resize_to: length of the short side in px before the middle is cut out; the input's own size if 0.
        color: order of the channels.
        layout: order of the axes.
        pad: value of a pixel outside the picture, 0 to 255.
        divisor: what pixels are divided by first.
        mean: subtracted, one a channel.
        std: divided by, one a channel.
    """

    resize: Literal["letterbox", "stretch", "crop"] = "stretch"
    resize_to: int = 0
    color: Literal["rgb", "bgr", "gray"] = "rgb"
    layout: Literal["nchw", "nhwc"] = "nchw"
    pad: int = 128
    divisor: float = 255.0
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)


class YoloHead(_Table):
    """One output of a YOLO: raw numbers of shape ``(N, anchors * (5 + classes), H / stride, W / stride)``.

    Attributes:
        output: the graph output's name.
        stride: px of the input that a cell covers.
        anchors: width and height of each anchor, in px of the input.
    """

    output: str
    stride: int
    anchors: tuple[tuple[float, float], ...]


class Postprocess(_Table):
    """How raw outputs become detections.

    Attributes:
        kind: the decoding; ``yolov3`` is sigmoid offsets, anchors times ``exp``, objectness times class
            (Redmon and Farhadi 2018, section 2).
        heads: the outputs, coarse to fine.
        score_threshold: a detection's score is greater than this.
        iou_threshold: a box that overlaps a better one of its class by more than this is dropped.
        max_detections: at most so many a picture.
    """

    kind: Literal["yolov3"]
    heads: tuple[YoloHead, ...]
    score_threshold: float = 0.25
    iou_threshold: float = 0.45
    max_detections: int = 300


class Labels(_Table):
    """Names of the classes: ``names`` in order, or ``file`` beside the recipe, one a line."""

    names: tuple[str, ...] = ()
    file: str = ""


class Quantize(_Table):
    """What INT8 may touch.

    Attributes:
        keep_float: patterns (as in `fnmatch`) of node names that stay in float, with all that follows them
            up to the output.
        method: the calibration method; EdgeKit's default where empty.
        calibration: the calibration set that is used when none is named.
    """

    keep_float: tuple[str, ...] = ()
    method: str = ""
    calibration: str = "sample"


class Weights(_Table):
    """Published weights of the model.

    Attributes:
        url: where the authors serve them.
        sha256: hash of the file, in hexadecimal.
        size_bytes: length of the file.
        license: SPDX identifier or the authors' own words.
        source: who trained them, on what.
    """

    url: str
    sha256: str
    size_bytes: int
    license: str
    source: str


class Tolerance(_Table):
    """How far a stage's result may be from its reference.

    Attributes:
        export: largest difference between the exported graph and the module, relative to the output's
            largest magnitude.
    """

    export: float = 1e-4


class Recipe(_Table):
    """One model: what it is, how pictures go in, how answers come out, what INT8 may touch.

    Attributes:
        name: as on the command line.
        title: one line for lists.
        task: ``detect`` (boxes) or ``tensor`` (arrays in, arrays out).
        paper: where it was published.
        macs: multiply-accumulates of one forward pass at ``input.shape``.
    """

    name: str
    title: str
    task: Literal["detect", "tensor"]
    paper: str = ""
    macs: int = 0
    model: Model
    input: Input
    outputs: tuple[str, ...]
    preprocess: Preprocess | None = None
    postprocess: Postprocess | None = None
    labels: Labels = Labels()
    quantize: Quantize = Quantize()
    weights: dict[str, Weights] = {}
    tolerance: Tolerance = Tolerance()
