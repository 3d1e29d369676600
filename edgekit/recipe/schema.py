"""Recipes: one TOML file holds everything that EdgeKit knows about a model except its code.

The structs below define the file format: a table is a struct, a key is a field, and an unknown key is an error. The
type of a field restricts its value; ``__post_init__`` checks constraints between fields.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from edgekit.errors import EdgeKitError, RecipeError, UsageError, nearest
from edgekit.recipe.heads import DETECTOR_TASKS, CellHeads, Head, outputs_of, task_of_head
from edgekit.recipe.messages import expect, recipe_error, toml_error
from edgekit.recipe.toml_data import decoded_toml

__all__ = [
    "TASK_TITLES",
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
    "load_recipe",
    "recipe_from_file",
    "recipe_names",
    "shipped",
]

Positive = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
Fraction = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]
Text = Annotated[str, msgspec.Meta(min_length=1)]

BYTE_VALUES = 256
"""Number of values of a ``uint8``."""

# A task has a module of this name in edgekit/runtime/tasks, and one in edgekit/evaluation/evaluators if it is measured.
Task = Literal["detect", "segment", "pose", "obb", "classify", "regress", "translate", "tensor"]

TASK_TITLES: dict[Task, str] = {
    "regress": "Regression: numbers in, numbers out",
    "classify": "Classification: an image in, a class out",
    "detect": "Detection: an image in, boxes out",
    "segment": "Segmentation: an image in, boxes and masks out",
    "pose": "Poses: an image in, boxes and key points out",
    "obb": "Rotated detection: an image in, rotated boxes out",
    "translate": "Translation: tokens in, tokens out",
    "tensor": "Parts and embeddings: arrays in, arrays out",
}
"""Headings of lists of recipes, simple tasks first."""


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class Model(_Table, frozen=True, kw_only=True):
    """The source of the model: a module, or an ONNX file.

    Attributes:
        factory: ``package.module:callable`` that returns an ``nn.Module``; none if there is an ``onnx``.
        onnx: an ONNX file next to the recipe; it contains its weights.
        arguments: keyword arguments for the factory.
        parameters: number of parameters with these arguments; a build checks it. Only with a factory.
    """

    factory: Annotated[str, msgspec.Meta(pattern=r"^([\w.]+:[\w.]+)?$", description="package.module:callable")] = ""
    onnx: str = ""
    arguments: dict[str, Any] = {}
    parameters: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] = 0

    def __post_init__(self) -> None:
        expect(bool(self.factory) != bool(self.onnx), "factory", "this or onnx, one of both", self.factory or None)
        if self.onnx:
            expect(not self.arguments and not self.parameters, "arguments", "none, since onnx is set", self.arguments)


class Input(_Table, frozen=True, kw_only=True):
    """One input of the graph.

    Attributes:
        name: name of the input in the engine.
        shape: batch size first; ``(N, C, H, W)`` or ``(N, H, W, C)`` for an image.
        dtype: the element type; ``uint8`` for an image whose pixels the model normalizes itself.
        num_values: number of values that an integer input can take, 0 to ``num_values - 1``: the vocabulary size, or
            2 for a mask. An input of ``uint8`` takes all 256 by default.
    """

    name: Text
    shape: Annotated[tuple[Positive, ...], msgspec.Meta(min_length=1)]
    dtype: Literal["float32", "int64", "uint8"] = "float32"
    num_values: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)] = 0

    def __post_init__(self) -> None:
        if self.dtype == "int64":
            expect(self.num_values > 0, "num_values", "a number > 0, since dtype is 'int64'", self.num_values)
        elif self.dtype == "uint8":
            expect(self.num_values <= BYTE_VALUES, "num_values", "256 or less, since dtype is 'uint8'", self.num_values)
        else:
            expect(self.num_values == 0, "num_values", "none, since dtype is 'float32'", self.num_values)

    @property
    def bound(self) -> int:
        """Exclusive upper bound of the integers that the input takes; 0 for floats."""
        return BYTE_VALUES if self.dtype == "uint8" and not self.num_values else self.num_values


class Preprocess(_Table, frozen=True, kw_only=True):
    """Conversion of an image to an input tensor: ``(pixel / divisor - mean) / std``, per channel.

    Attributes:
        resize: ``letterbox`` keeps the aspect ratio and fills the rest with ``pad``; ``stretch`` does not keep
            it; ``crop`` resizes the short side to ``resize_to`` and takes the center crop.
        place: where a letterboxed image lies: in the ``center``, or in the upper left ``corner``, as in YOLOX.
        rounding: sizes of a letterboxed image are rounded ``down``, as in Darknet, or to the ``nearest`` number of px,
            as in Ultralytics.
        interpolation: how pixels are computed when resizing; ``nearest`` is OpenCV's ``INTER_NEAREST``.
        antialias: weight all pixels that a bilinear interpolation shrinks into one, as Pillow, instead of the four
            around a point, as OpenCV's ``INTER_LINEAR``; for ``bilinear`` only.
        resize_to: length of the short side in px before the center crop; the input size if 0.
        color: channel order.
        layout: axis order.
        pad: value of the padding pixels, 0 to 255.
        divisor: divisor of the pixel values, applied first.
        mean: value to subtract, one per channel.
        std: value to divide by, one per channel.
    """

    resize: Literal["letterbox", "stretch", "crop"] = "stretch"
    resize_to: Annotated[int, msgspec.Meta(ge=0, le=2**16)] = 0
    place: Literal["center", "corner"] = "center"
    rounding: Literal["down", "nearest"] = "down"
    interpolation: Literal["bilinear", "nearest"] = "bilinear"
    antialias: bool = True
    color: Literal["rgb", "bgr", "gray"] = "rgb"
    layout: Literal["nchw", "nhwc"] = "nchw"
    pad: Annotated[int, msgspec.Meta(ge=0, le=255)] = 128
    divisor: Annotated[float, msgspec.Meta(gt=0.0)] = 255.0
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)

    @property
    def channels(self) -> int:
        """Number of channels of an image with this channel order."""
        return 1 if self.color == "gray" else 3

    def __post_init__(self) -> None:
        expect(math.isfinite(self.divisor), "divisor", "a finite number", self.divisor)
        for field, values in (("mean", self.mean), ("std", self.std)):
            expect(
                len(values) == self.channels,
                field,
                f"{self.channels} numbers, one per channel of '{self.color}'",
                list(values),
            )
            for i, value in enumerate(values):
                expect(math.isfinite(value), f"{field}[{i}]", "a finite number", value)
        for i, value in enumerate(self.std):
            expect(value > 0, f"std[{i}]", "a number > 0", value)


class Postprocess(_Table, frozen=True, kw_only=True):
    """Conversion of raw outputs to detections.

    Attributes:
        head: the family of the detector's outputs and its parameters, see `edgekit.recipe.heads`.
        score_threshold: minimum score of a detection, exclusive.
        iou_threshold: NMS threshold: drops a box that overlaps a higher-scoring box of its class by more than this.
        max_detections: maximum number of detections per image.
    """

    head: Head
    score_threshold: Fraction = 0.25
    iou_threshold: Fraction = 0.45
    max_detections: Positive = 300


class Labels(_Table, frozen=True, kw_only=True):
    """Class names: ``names`` in order, or ``file`` next to the recipe with one name per line."""

    names: tuple[Text, ...] = ()
    file: str = ""

    def __post_init__(self) -> None:
        expect(not (self.names and self.file), "file", "none, since names is set", self.file)


class Quantize(_Table, frozen=True, kw_only=True):
    """Precision policy: what to quantize to INT8, and how to calibrate it.

    Attributes:
        keep_float: `fnmatch` patterns for names of nodes that stay in float. Nodes that only decode their outputs stay
            in float too, since their inputs are not quantized.
        method: the calibration method; EdgeKit's default if empty.
        calibration: default calibration set or data set; if empty, photos for models with an image input, and random
            numbers for others.
    """

    keep_float: tuple[Text, ...] = ()
    method: str = ""
    calibration: str = ""


class Weights(_Table, frozen=True, kw_only=True):
    """Published weights of the model.

    Attributes:
        url: download address.
        sha256: hash of the file in hexadecimal, or its first 8 or more digits if the authors publish only those.
        size_bytes: size of the file; 0 if it is not published.
        license: SPDX identifier, or the authors' own words.
        source: the authors and the training data.
    """

    url: Annotated[str, msgspec.Meta(pattern=r"^https?://[^\s/]+/\S+$", description="an http or https address")]
    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{8,64}$", description="8 to 64 of the digits 0-9 and a-f")]
    size_bytes: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] = 0
    license: Text
    source: Text


class Train(_Table, frozen=True, kw_only=True):
    """Default training options of the model.

    Attributes:
        data: name of the default data set; empty if there is none.
        optimizer: a PyTorch optimizer; ``momentum`` is ``sgd`` with a momentum of 0.9.
        lr: the learning rate; the maximum if the schedule changes it.
        schedule: learning rate schedule, updated every batch; see `edgekit.training.optimization`.
        warmup: number of batches over which the learning rate rises from near 0.
        epochs: number of passes over the data set.
        batch: examples per step.
        weight_decay: weight decay, as defined by the optimizer.
        clip: maximum gradient norm; 0 disables clipping.
        label_smoothing: probability taken from the correct class and spread over all classes.
        augment: image augmentations, applied each time that an example is read; see `edgekit.data.augment`.
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
    """Maximum error of a stage against its reference.

    Attributes:
        export: maximum difference between the outputs of the exported graph and the module, relative to the largest
            magnitude of the output.
    """

    export: Fraction = 1e-4


class Recipe(_Table, frozen=True, kw_only=True):
    """One model: factory, inputs, outputs, preprocessing, postprocessing and quantization.

    Attributes:
        name: name on the command line.
        title: one-line description for lists.
        task: ``detect`` (image in, boxes out), ``segment`` (with masks), ``pose`` (with key points), ``obb`` (rotated
            boxes), ``classify`` (one output with one logit per class), ``regress`` (one
            output with numbers that are evaluated by their error), ``translate`` (tokens in, tokens out; the labels are
            the vocabulary), or ``tensor`` (arrays in, arrays out).
        paper: the publication.
        macs: multiply-accumulates of one forward pass at the shapes of ``inputs``.
        expects: what the input images look like, in words, as in "white digits on black"; empty if the model takes any.
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
    expects: str = ""
    labels: Labels = Labels()
    quantize: Quantize = Quantize()
    weights: dict[str, Weights] = {}
    tolerance: Tolerance = Tolerance()
    train: Train = Train()

    def __post_init__(self) -> None:
        expect(len(set(self.outputs)) == len(self.outputs), "outputs", "unique names", list(self.outputs))
        names = [spec.name for spec in self.inputs]
        expect(len(set(names)) == len(names), "inputs", "unique names", names)
        if self.preprocess is not None:
            expect(len(self.inputs) == 1, "inputs", "one image, since there is a [preprocess]", names)
            _check_image(self.inputs[0], self.preprocess)
        if self.task in ("classify", "regress", "translate"):
            expect(len(self.outputs) == 1, "outputs", f"one, since task is '{self.task}'", list(self.outputs))
        if self.task in DETECTOR_TASKS:
            expect(self.preprocess is not None, "preprocess", f"a table, since task is '{self.task}'", None)
            expect(self.postprocess is not None, "postprocess", f"a table, since task is '{self.task}'", None)
        if self.postprocess is not None:
            task = task_of_head(self.postprocess.head)
            if self.task in ("segment", "pose", "obb"):
                expect(self.task == task, "task", f"'{task}', since postprocess.head is for it", self.task)
            _check_head(self.postprocess.head, self.outputs, self.inputs[0].shape)
        classes = self.model.arguments.get("classes")
        if self.labels.names and isinstance(classes, int):
            expect(
                len(self.labels.names) == classes,
                "labels",
                f"{classes} names, since model.arguments.classes = {classes}",
                len(self.labels.names),
            )


def _check_image(image: Input, preprocess: Preprocess) -> None:
    shape = image.shape
    types = "'float32' or 'uint8', since there is a [preprocess]"
    expect(image.dtype in ("float32", "uint8"), "inputs[0].dtype", types, image.dtype)
    if image.dtype == "uint8":
        zeros, ones = (0.0,) * preprocess.channels, (1.0,) * preprocess.channels
        for field, wanted in (("divisor", 1.0), ("mean", zeros), ("std", ones)):
            got = getattr(preprocess, field)
            why = "since inputs[0].dtype is 'uint8': the model gets pixels as they are"
            expect(got == wanted, f"preprocess.{field}", f"{wanted}, {why}", got)
    expect(len(shape) == 4, "inputs[0].shape", "4 numbers, since there is a [preprocess]", list(shape))
    channels = shape[1] if preprocess.layout == "nchw" else shape[3]
    expect(
        channels == preprocess.channels,
        "inputs[0].shape",
        f"{preprocess.channels} channels, since preprocess.color = '{preprocess.color}' and "
        f"layout = '{preprocess.layout}'",
        list(shape),
    )


def _check_head(head: Head, outputs: Sequence[str], shape: Sequence[int]) -> None:
    field, read = "postprocess.head", outputs_of(head)
    for i, name in enumerate(read):
        expect(name in outputs, field, f"names of outputs, which are {', '.join(outputs)}", name)
        expect(name not in read[:i], field, "an output for each of its fields", name)
    if isinstance(head, CellHeads):
        for i, each in enumerate(head.heads):
            expect(
                all(side % each.stride == 0 for side in shape[2:4]),
                f"{field}.heads[{i}].stride",
                f"a divisor of the input's height and width {list(shape[2:4])}",
                each.stride,
            )


def shipped(folder: Literal["recipes", "calibration"]) -> Path:
    """Returns a folder that EdgeKit ships: inside the package in a wheel, next to it in a checkout.

    Raises:
        EdgeKitError: the installation is incomplete.
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
    """Returns the sorted names of the recipes that EdgeKit ships."""
    return sorted(file.stem for file in shipped("recipes").glob("*.toml"))


def load_recipe(name_or_path: str | Path) -> Recipe:
    """Loads a recipe by name or from a file.

    Args:
        name_or_path: one of `recipe_names`, or a path that ends in ``.toml``.

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
    """Loads a recipe from a file; fills ``labels.names`` from ``labels.file`` if it is set.

    Raises:
        RecipeError: the file cannot be read, is not TOML, or is not a valid recipe.
    """
    file = Path(path)
    raw = _toml(file)
    try:
        recipe = msgspec.convert(raw, Recipe)
        if recipe.model.onnx:
            model = msgspec.structs.replace(recipe.model, onnx=str(file.parent / recipe.model.onnx))
            recipe = msgspec.structs.replace(recipe, model=model)
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
        return decoded_toml(file.read_bytes())
    except OSError as e:
        raise RecipeError(f"recipe {file}: expected a TOML file, got: {e.strerror}") from e
    except ValueError as e:
        raise toml_error(file, e) from e


def _label_names(path: Path) -> tuple[str, ...]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as e:
        raise ValueError(f"labels.file: expected a text file with one name per line, got {path}: {e.strerror}") from e
    except ValueError as e:
        raise ValueError(f"labels.file: expected a text file in UTF-8, got {path}") from e
    names = tuple(line.strip() for line in lines if line.strip())
    expect(bool(names), "labels.file", "at least one name", path.name)
    return names
