"""Recipes: one TOML file says all that EdgeKit knows of a model besides its code.

The tree of structs below is the file format: a table is a struct, a key is a field, an unknown key is an
error. What one field may hold stands in its type; what two fields must agree on, in ``__post_init__``.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from edgekit.errors import EdgeKitError, RecipeError, UsageError, nearest
from edgekit.recipe.messages import expect, recipe_error, toml_error

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
    "Task",
    "Tolerance",
    "Train",
    "Weights",
    "YoloHead",
    "load_recipe",
    "recipe_from_file",
    "recipe_names",
    "shipped",
]

Positive = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
Fraction = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]
Text = Annotated[str, msgspec.Meta(min_length=1)]
Task = Literal["detect", "classify", "regress", "translate", "tensor"]


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class Model(_Table, frozen=True, kw_only=True):
    """Where the reference module comes from.

    Attributes:
        factory: ``package.module:callable`` that returns an ``nn.Module``.
        arguments: keyword arguments for it.
        parameters: how many learned numbers it has with these arguments; a build checks it.
    """

    factory: Annotated[str, msgspec.Meta(pattern=r"^[\w.]+:[\w.]+$", description="package.module:callable")]
    arguments: dict[str, Any] = {}
    parameters: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class Input(_Table, frozen=True, kw_only=True):
    """One input of the graph.

    Attributes:
        name: as the engine has it.
        shape: the batch first; of a picture ``(N, C, H, W)`` or ``(N, H, W, C)``.
        dtype: the element type.
        num_values: number of values an integer input can take, 0 to ``num_values - 1``: the vocabulary size, or 2 for
            a mask.
    """

    name: Text
    shape: Annotated[tuple[Positive, ...], msgspec.Meta(min_length=1)]
    dtype: Literal["float32", "int64"] = "float32"
    num_values: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)] = 0

    def __post_init__(self) -> None:
        if self.dtype == "int64":
            expect(self.num_values > 0, "num_values", "a number > 0, since dtype is 'int64'", self.num_values)
        else:
            expect(self.num_values == 0, "num_values", "none, since dtype is 'float32'", self.num_values)


class Preprocess(_Table, frozen=True, kw_only=True):
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
    resize_to: Annotated[int, msgspec.Meta(ge=0, le=2**16)] = 0
    color: Literal["rgb", "bgr", "gray"] = "rgb"
    layout: Literal["nchw", "nhwc"] = "nchw"
    pad: Annotated[int, msgspec.Meta(ge=0, le=255)] = 128
    divisor: Annotated[float, msgspec.Meta(gt=0.0)] = 255.0
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)

    @property
    def channels(self) -> int:
        """How many channels a picture has in this order of colours."""
        return 1 if self.color == "gray" else 3

    def __post_init__(self) -> None:
        expect(math.isfinite(self.divisor), "divisor", "a finite number", self.divisor)
        for field, values in (("mean", self.mean), ("std", self.std)):
            expect(
                len(values) == self.channels,
                field,
                f"{self.channels} numbers, one a channel of '{self.color}'",
                list(values),
            )
            for i, value in enumerate(values):
                expect(math.isfinite(value), f"{field}[{i}]", "a finite number", value)
        for i, value in enumerate(self.std):
            expect(value > 0, f"std[{i}]", "a number > 0", value)


class YoloHead(_Table, frozen=True, kw_only=True):
    """One output of a YOLO.

    Its raw numbers have shape ``(N, anchors * (5 + classes), H / stride, W / stride)``; those of the first YOLO, which
    has no anchors, ``(N, classes + 5 * boxes, H / stride, W / stride)``.

    Attributes:
        output: the graph output's name.
        stride: px of the input that a cell covers.
        anchors: width and height of each anchor, in px of the input; none for ``yolov1``.
        boxes: how many boxes a cell of ``yolov1`` predicts; 0 for others, whose anchors say it.
    """

    output: Text
    stride: Positive
    anchors: tuple[tuple[float, float], ...] = ()
    boxes: Annotated[int, msgspec.Meta(ge=0, le=2**16)] = 0

    def __post_init__(self) -> None:
        for i, anchor in enumerate(self.anchors):
            expect(
                all(0 < side < math.inf for side in anchor), f"anchors[{i}]", "a width and a height > 0", list(anchor)
            )


class Postprocess(_Table, frozen=True, kw_only=True):
    """How raw outputs become detections.

    Attributes:
        kind: the decoding. ``yolov3``: sigmoid offsets, anchors times ``exp``, objectness times the sigmoid of each
            class (Redmon and Farhadi 2018, section 2). ``yolov2``: the same, but a softmax over the classes (Redmon and
            Farhadi 2017, section 2). ``yolov1``: offsets, square roots of sides, confidence and the cell's class
            probabilities as they are (Redmon et al. 2016, section 2).
        heads: the outputs, coarse to fine.
        score_threshold: a detection's score is greater than this.
        iou_threshold: a box that overlaps a better one of its class by more than this is dropped.
        max_detections: at most so many a picture.
    """

    kind: Literal["yolov1", "yolov2", "yolov3"]
    heads: Annotated[tuple[YoloHead, ...], msgspec.Meta(min_length=1)]
    score_threshold: Fraction = 0.25
    iou_threshold: Fraction = 0.45
    max_detections: Positive = 300

    def __post_init__(self) -> None:
        count = len(self.heads[0].anchors)
        for i, head in enumerate(self.heads):
            if self.kind == "yolov1":
                expect(not head.anchors, f"heads[{i}].anchors", "none, since kind is 'yolov1'", list(head.anchors))
                expect(head.boxes > 0, f"heads[{i}].boxes", "a number > 0, since kind is 'yolov1'", head.boxes)
                continue
            because = f"since kind is '{self.kind}'"
            expect(bool(head.anchors), f"heads[{i}].anchors", f"at least one anchor, {because}", list(head.anchors))
            expect(head.boxes == 0, f"heads[{i}].boxes", f"none, {because}", head.boxes)
            expect(
                len(head.anchors) == count,
                f"heads[{i}].anchors",
                f"{count} anchors, as many as heads[0] has",
                len(head.anchors),
            )


class Labels(_Table, frozen=True, kw_only=True):
    """Names of the classes: ``names`` in order, or ``file`` beside the recipe, one a line."""

    names: tuple[Text, ...] = ()
    file: str = ""

    def __post_init__(self) -> None:
        expect(not (self.names and self.file), "file", "none, since there are names", self.file)


class Quantize(_Table, frozen=True, kw_only=True):
    """What INT8 may touch.

    Attributes:
        keep_float: patterns (as in `fnmatch`) of names of nodes that stay in float. What only decodes their results
            stays in float too, as it reads no integers.
        method: the calibration method; EdgeKit's default where empty.
        calibration: the calibration or data set that is used when none is named; where empty, photographs for models
            that take pictures, and random numbers for others.
    """

    keep_float: tuple[Text, ...] = ()
    method: str = ""
    calibration: str = ""


class Weights(_Table, frozen=True, kw_only=True):
    """Published weights of the model.

    Attributes:
        url: where the authors serve them.
        sha256: hash of the file, in hexadecimal; its first digits, 8 or more, where its authors publish no more of it.
        size_bytes: length of the file; 0 where it is not published.
        license: SPDX identifier or the authors' own words.
        source: who trained them, on what.
    """

    url: Annotated[str, msgspec.Meta(pattern=r"^https?://[^\s/]+/\S+$", description="an http or https address")]
    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{8,64}$", description="8 to 64 of the digits 0-9 and a-f")]
    size_bytes: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] = 0
    license: Text
    source: Text


class Train(_Table, frozen=True, kw_only=True):
    """How the model is trained where nobody says otherwise.

    Attributes:
        data: the data set's name, for what it learns if none is given; nothing where there is no such.
        optimizer: PyTorch's; ``momentum`` is ``sgd`` with a momentum of 0.9.
        lr: the learning rate, its greatest where the schedule changes it.
        schedule: how the learning rate changes, batch by batch; see `edgekit.training.optimization`.
        warmup: batches over which the learning rate rises from nothing.
        epochs: how often each example is seen.
        batch: examples a step.
        weight_decay: what weights shrink by, as the optimizer has it.
        clip: gradients whose norm is greater are scaled down to this; 0 leaves them.
        label_smoothing: what is taken off the right class and given to all.
        augment: what is done to pictures before each look at them; see `edgekit.data.augment`.
    """

    data: str = ""
    optimizer: Literal["sgd", "momentum", "adagrad", "rmsprop", "adam", "adamw"] = "adam"
    lr: Annotated[float, msgspec.Meta(gt=0.0, le=1e6)] = 0.001
    schedule: Literal["constant", "step", "cosine", "onecycle", "inverse-sqrt"] = "cosine"
    warmup: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)] = 0
    epochs: Positive = 20
    batch: Positive = 32
    weight_decay: Annotated[float, msgspec.Meta(ge=0.0, le=1e6)] = 0.0
    clip: Annotated[float, msgspec.Meta(ge=0.0, le=1e9)] = 0.0
    label_smoothing: Fraction = 0.0
    augment: tuple[Literal["flip", "crop", "scale", "color", "mosaic"], ...] = ()


class Tolerance(_Table, frozen=True, kw_only=True):
    """How far a stage's result may be from its reference.

    Attributes:
        export: largest difference between the exported graph and the module, relative to the output's
            largest magnitude.
    """

    export: Fraction = 1e-4


class Recipe(_Table, frozen=True, kw_only=True):
    """One model: what it is, how pictures go in, how answers come out, what INT8 may touch.

    Attributes:
        name: as on the command line.
        title: one line for lists.
        task: ``detect`` (a picture in, boxes out), ``classify`` (the one output is a logit a class), ``regress`` (the
            one output is numbers that are measured by their distance), ``translate`` (tokens in, tokens out; the labels
            are the vocabulary), or ``tensor`` (arrays in, arrays out).
        paper: where it was published.
        macs: multiply-accumulates of one forward pass at the shapes of ``inputs``.
    """

    name: Annotated[
        str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9._-]*$", description="lower-case letters, digits, '.', '_', '-'")
    ]
    title: Text
    task: Task
    paper: str = ""
    macs: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] = 0
    model: Model
    inputs: Annotated[tuple[Input, ...], msgspec.Meta(min_length=1)]
    outputs: Annotated[tuple[Text, ...], msgspec.Meta(min_length=1)]
    preprocess: Preprocess | None = None
    postprocess: Postprocess | None = None
    labels: Labels = Labels()
    quantize: Quantize = Quantize()
    weights: dict[str, Weights] = {}
    tolerance: Tolerance = Tolerance()
    train: Train = Train()

    def __post_init__(self) -> None:
        expect(len(set(self.outputs)) == len(self.outputs), "outputs", "names that differ", list(self.outputs))
        names = [spec.name for spec in self.inputs]
        expect(len(set(names)) == len(names), "inputs", "names that differ", names)
        if self.preprocess is not None:
            expect(len(self.inputs) == 1, "inputs", "one, the picture, since there is a [preprocess]", names)
            _check_picture(self.inputs[0], self.preprocess)
        if self.task in ("classify", "regress", "translate"):
            expect(len(self.outputs) == 1, "outputs", f"one, since task is '{self.task}'", list(self.outputs))
        if self.task == "detect":
            expect(self.preprocess is not None, "preprocess", "a table, since task is 'detect'", None)
            expect(self.postprocess is not None, "postprocess", "a table, since task is 'detect'", None)
        if self.postprocess is not None:
            _check_heads(self.postprocess.heads, self.outputs, self.inputs[0].shape)
        classes = self.model.arguments.get("classes")
        if self.labels.names and isinstance(classes, int):
            expect(
                len(self.labels.names) == classes,
                "labels",
                f"{classes} names, as model.arguments.classes says",
                len(self.labels.names),
            )


def _check_picture(picture: Input, preprocess: Preprocess) -> None:
    shape = picture.shape
    expect(picture.dtype == "float32", "inputs[0].dtype", "'float32', since there is a [preprocess]", picture.dtype)
    expect(len(shape) == 4, "inputs[0].shape", "4 numbers, since there is a [preprocess]", list(shape))
    channels = shape[1] if preprocess.layout == "nchw" else shape[3]
    expect(
        channels == preprocess.channels,
        "inputs[0].shape",
        f"{preprocess.channels} channels, as preprocess.color = '{preprocess.color}' and layout = "
        f"'{preprocess.layout}' say",
        list(shape),
    )


def _check_heads(heads: Sequence[YoloHead], outputs: Sequence[str], shape: Sequence[int]) -> None:
    for i, head in enumerate(heads):
        field = f"postprocess.heads[{i}]"
        expect(head.output in outputs, f"{field}.output", f"one of {', '.join(outputs)}", head.output)
        expect(
            head.output not in [other.output for other in heads[:i]],
            f"{field}.output",
            "an output that no other head has",
            head.output,
        )
        expect(
            all(side % head.stride == 0 for side in shape[2:4]),
            f"{field}.stride",
            f"a divisor of the input's height and width {list(shape[2:4])}",
            head.stride,
        )


def shipped(folder: Literal["recipes", "calibration"]) -> Path:
    """The folder of that name that EdgeKit ships: inside the package in a wheel, beside it in a checkout.

    Raises:
        EdgeKitError: the installation is not whole.
    """
    package = Path(__file__).parents[1]
    for place in (package / "_shipped" / folder, package.parent / folder):
        if place.is_dir():
            return place
    raise EdgeKitError(
        f"folder '{folder}': expected it in {package / '_shipped'} or {package.parent}, found it in neither",
        hint="the installation is incomplete: install EdgeKit again",
    )


def recipe_names() -> list[str]:
    """Names of the recipes that EdgeKit ships, sorted."""
    return sorted(file.stem for file in shipped("recipes").glob("*.toml"))


def load_recipe(name_or_path: str | Path) -> Recipe:
    """The recipe of that name, or the one in that file.

    Args:
        name_or_path: a name out of `recipe_names`, or a path that ends in ``.toml``.

    Raises:
        UsageError: no recipe has that name.
        RecipeError: the file cannot be read or is not a valid recipe.
    """
    if str(name_or_path).endswith(".toml"):
        return recipe_from_file(name_or_path)
    known = recipe_names()
    if str(name_or_path) not in known:
        raise UsageError(f"unknown recipe '{name_or_path}'", hint=nearest(str(name_or_path), known))
    return recipe_from_file(shipped("recipes") / f"{name_or_path}.toml")


def recipe_from_file(path: str | Path) -> Recipe:
    """The recipe in a file, with ``labels.names`` read from ``labels.file`` where the recipe names one.

    Raises:
        RecipeError: the file cannot be read, is not TOML, or is not a valid recipe.
    """
    file = Path(path)
    raw = _toml(file)
    try:
        recipe = msgspec.convert(raw, Recipe)
        if recipe.labels.file:
            names = _label_names(file.parent / recipe.labels.file)
            recipe = msgspec.structs.replace(recipe, labels=Labels(names=names))
    except msgspec.ValidationError as e:
        raise recipe_error(file, e, raw, Recipe) from e
    except ValueError as e:
        raise RecipeError(f"recipe {file}: {e}") from e
    return recipe


def _toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_bytes().decode())
    except OSError as e:
        raise RecipeError(f"recipe {file}: expected a TOML file, got: {e.strerror}") from e
    except RecursionError as e:
        raise RecipeError(f"recipe {file}: not valid TOML: nested too deeply") from e
    except ValueError as e:
        raise toml_error(file, e) from e


def _label_names(path: Path) -> tuple[str, ...]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as e:
        raise ValueError(f"labels.file: expected a text file, one name a line, got {path}: {e.strerror}") from e
    except ValueError as e:
        raise ValueError(f"labels.file: expected a text file in UTF-8, got {path}") from e
    names = tuple(line.strip() for line in lines if line.strip())
    expect(bool(names), "labels.file", "at least one name", path.name)
    return names
