"""The configs of a build: frozen structs, one for each group of options.

`build_config` in `edgekit.pipeline.validate` makes a `BuildConfig` from the arguments of `edgekit.build`. Each stage of
the build takes the struct that it reads. Backends declare options of their own as a subclass of `BackendOptions` in
their folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.arguments import argument
from edgekit.errors import UsageError, nearest
from edgekit.limits import MAX_COUNT, MAX_SEED, MAX_THREADS
from edgekit.option import option, option_words, plain_number
from edgekit.option.objects import CalibrationData, ExampleInputs, InPython, convert_calib, convert_inputs
from edgekit.option.sizes import (
    convert_batch,
    convert_shape,
    parse_batch,
    parse_image_shape,
    parse_inputs,
    write_inputs,
    write_shape,
)
from edgekit.text import shell_words, shown

if TYPE_CHECKING:
    from edgekit.specs import Precision, Shape, Size

__all__ = [
    "NATIVE_ATTENTION",
    "PLUGIN_ATTENTION",
    "BackendOptions",
    "BuildConfig",
    "CalibrationConfig",
    "ModelConfig",
    "OutputConfig",
    "TargetConfig",
    "build_command",
    "compile_command",
]

PLUGIN_ATTENTION = ("edgekit", "edgekit-int8")
"""Values of ``--attention`` that put EdgeKit's kernels into the engine, in half precision and in INT8."""

NATIVE_ATTENTION = "native"
"""The value of ``--attention`` that writes ONNX's operator into the graph."""

_LISTS = ("mean", "std")
"""Preprocessing fields that hold several numbers."""
_HEAD_LISTS = ("keypoints", "strides")
"""Parameters of heads that do."""


def _parse_preprocess(texts: Sequence[str]) -> dict[str, Any] | None:
    if not texts:
        return None
    from edgekit.recipe.preprocess import given_fields  # needs msgspec, which `--help` does not load

    fields: dict[str, str | list[str]] = {}
    for text in texts:
        name, _, value = text.partition("=")
        if not value:
            raise ValueError(f"expected FIELD=VALUE, such as color=bgr or mean=0.5,0.5,0.5, got '{text}'")
        fields[name] = value.split(",") if name in _LISTS else value
    return given_fields(fields, option=argument("preprocess"), text=True)


def _parse_head(text: str) -> str:
    from edgekit.recipe.heads import FAMILIES  # needs msgspec, as above

    if text not in FAMILIES:
        message = f"{argument('head')}: expected one of {', '.join(FAMILIES)}, got '{text}'"
        raise UsageError(message, hint=nearest(text, FAMILIES, listed=False))
    return text


def _convert_head(given: str | None) -> str | None:
    if given is None:
        return None
    try:
        return _parse_head(given)
    except ValueError as e:
        raise UsageError(f"{argument('head')}: {e}") from e


def _parse_head_options(texts: Sequence[str]) -> dict[str, Any] | None:
    fields: dict[str, Any] = {}
    for text in texts:
        name, _, value = text.partition("=")
        if not value:
            raise ValueError(f"expected FIELD=VALUE, such as extras=32 or strides=8,16,32, got '{text}'")
        fields[name] = value.split(",") if name in _HEAD_LISTS else value
    return fields or None


def _convert_head_options(given: Any) -> Mapping[str, Any]:
    if not isinstance(given, Mapping):
        raise UsageError(
            f"{argument('head_option')}: expected fields by name, such as {{'extras': 32}}, got {shown(given)}"
        )
    return {name: plain_number(value) for name, value in given.items()}


def _write_preprocess(fields: Mapping[str, Any]) -> list[str]:
    return [
        f"{name}={','.join(map(str, value)) if isinstance(value, (list, tuple)) else value}"
        for name, value in fields.items()
    ]


def _convert_preprocess(given: Any) -> dict[str, Any] | None:
    from edgekit.recipe.preprocess import given_fields  # needs msgspec, as above

    return None if isinstance(given, Mapping) and not given else given_fields(given)


def _convert_precision(name: str) -> Precision:
    from edgekit.specs import precision_from_name  # needs msgspec, as above

    return precision_from_name(name)


def _convert_text(value: object) -> str | None:
    return None if value is None else str(value)


def _convert_path(value: str | Path | None) -> Path | None:
    return None if value is None else Path(value)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The model, and how its graph is built.

    Attributes:
        model: name or file of a recipe, a Darknet cfg file, an ONNX file, ``package.module:factory``, or an
            ``nn.Module``.
    """

    model: Any
    weights: str | None = option(
        None,
        "Darknet, PyTorch or safetensors file, or a published set, such as coco or imagenet.",
        metavar="FILE|NAME",
        shown_default="random weights",
        convert=_convert_text,
    )
    labels: Path | None = option(
        None,
        "Class names: a file with one per line, a data YAML or COCO JSON; default: those of the weights or the model.",
        metavar="FILE",
        kind="path",
        convert=_convert_path,
    )
    shape: Shape | None = option(
        None,
        "Shape of the input image. MIN:OPT:MAX is a size that is chosen at run time, as in 320:416:640x320:416:640.",
        metavar="HxW|NxCxHxW",
        shown_default="the model's",
        parse=parse_image_shape,
        write=lambda shape: [write_shape(shape)],
        convert=convert_shape,
    )
    input: Mapping[str, Shape | int | float] | ExampleInputs = option(
        {},
        "Shape of an input of your own model, such as 1x3x224x224 or images:1x3x224x224; repeatable. MIN:OPT:MAX "
        "is a size that is chosen at run time, as in x:1x3x48x32:320:2048. Module inputs are float32 unless a type is "
        "given, as in ids:int64:1x128. NAME=VALUE fixes an input of an ONNX file, as in sr=16000.",
        metavar="[NAME:]SHAPE|NAME=VALUE",
        repeated=True,
        parse=parse_inputs,
        write=write_inputs,
        convert=convert_inputs,
    )
    preprocess: Mapping[str, Any] | None = option(
        None,
        "A field of the image preprocessing, as in a recipe; repeatable.",
        metavar="FIELD=VALUE",
        shown_default="the recipe's",
        repeated=True,
        parse=_parse_preprocess,
        write=_write_preprocess,
        convert=_convert_preprocess,
    )
    head: str | None = option(
        None,
        "Family of an ONNX detector's outputs, if it is not recognized: yolov5, yolov8, yolox, end2end, detr, "
        "boxes-scores-labels, efficient-nms or batched-rows.",
        metavar="FAMILY",
        shown_default="what its outputs look like",
        parse=_parse_head,
        convert=_convert_head,
    )
    head_option: Mapping[str, Any] | None = option(
        None,
        "A parameter of --head, as in docs/detectors.md; repeatable.",
        metavar="FIELD=VALUE",
        shown_default="what the outputs tell",
        repeated=True,
        parse=_parse_head_options,
        convert=_convert_head_options,
        write=_write_preprocess,
    )
    no_head: bool = option(False, "Keep the outputs of an ONNX detector as arrays.", kind="flag")
    batch: Size | None = option(
        None,
        "Batch size, the first dimension of all inputs: a number, or a range, as in 1:4:16.",
        metavar="N|MIN:OPT:MAX",
        shown_default="1",
        parse=parse_batch,
        convert=convert_batch,
    )
    opset: int | None = option(
        None,
        "ONNX opset to export to.",
        metavar="N",
        kind="integer",
        minimum=1,
        maximum=MAX_COUNT,
        shown_default="the newest that is tested",
    )
    seed: int = option(
        0, "Seed of random weights and inputs.", metavar="N", kind="integer", minimum=0, maximum=MAX_SEED
    )


@dataclass(frozen=True, kw_only=True)
class CalibrationConfig:
    """The calibration data and method, and the nodes that stay in float."""

    calib: str | CalibrationData | None = option(
        None,
        "Calibration data: a folder of images or arrays, a data set, or the name of a shipped set.",
        metavar="DIR|SET",
        kind="data",
        shown_default="the recipe's set, or sample",
        convert=convert_calib,
    )
    calib_method: str | None = option(
        None,
        "How ranges are chosen from the observed values.",
        shown_default="the recipe's, or minmax, or what keeps more",
        choices=dict.fromkeys(("minmax", "percentile", "entropy", "mse"), ""),
    )
    calib_images: int | None = option(
        None,
        "Calibrate on at most N images.",
        metavar="N",
        kind="integer",
        minimum=1,
        maximum=MAX_COUNT,
        shown_default="all of a folder, 256 of a data set",
    )
    calib_column: str | None = option(
        None, "Target column of a CSV table.", metavar="NAME", shown_default="label, class or target, else the last"
    )
    keep_float: tuple[str, ...] = option(
        (),
        "Nodes that stay in float, as in 'head*'; repeatable.",
        metavar="PATTERN",
        repeated=True,
        convert=tuple,
    )
    quantize_heads: bool = option(
        False,
        "Quantize a detector's last layers too, and what a recipe keeps in float; --keep-float still holds.",
        kind="flag",
    )
    noise_budget: int = option(
        10,
        "Percent of the work that may move from INT8 to float where an output loses much; 0 moves nothing.",
        metavar="PERCENT",
        kind="integer",
        minimum=0,
        maximum=100,
    )


@dataclass(frozen=True, kw_only=True)
class BackendOptions:
    """Base class of backend-specific options; a backend declares its subclass in its folder."""


@dataclass(frozen=True, kw_only=True)
class TargetConfig:
    """The engine to build.

    Attributes:
        engine: the options of the target's backend.
    """

    precision: Precision = option(
        "int8",
        "Precision of the engine.",
        kind="choice",
        heading="Precision",
        choices={
            "int8": "8-bit integers.  [default]",
            "fp16": "16-bit floats, on GPUs.",
            "bf16": "16-bit floats with the range of 32-bit floats, on GPUs.",
            "fp32": "32-bit floats.",
        },
        convert=_convert_precision,
        always=True,
    )
    target: str = option(
        None,
        "Backend of the engine: cpu, openvino, tensorrt, tensorrt-rtx, null.",
        metavar="NAME",
        shown_default="tensorrt if TensorRT and a GPU are found, else cpu",
        always=True,
    )
    threads: int = option(
        0,
        "Threads the engine runs on; 0 lets the backend choose.",
        metavar="N",
        kind="integer",
        minimum=0,
        maximum=MAX_THREADS,
    )
    graph_only: bool = option(
        False,
        "Write the typed graph without an engine; run `edgekit compile` on the board.",
        kind="flag",
        aliases=("--plan-only",),
    )
    attention: str = option(
        "auto",
        "How attention runs: auto takes what measured fastest on the target; off treats it as any other operators; "
        "native is ONNX's Attention, which TensorRT reads since 10.14; edgekit and edgekit-int8 are EdgeKit's own "
        "kernels, as plugins of tensorrt.",
        choices=dict.fromkeys(("auto", "off", NATIVE_ATTENTION, *PLUGIN_ATTENTION), ""),
    )
    half_io: bool = option(False, "Use half precision for inputs and outputs too.", kind="flag", heading="Precision")
    dynamic: bool = option(
        False,
        "With --int8 on cpu: quantize the inputs of matrix products and LSTMs at run time, without calibration.",
        kind="flag",
        heading="Precision",
    )
    static: bool = option(
        False,
        "With --int8 on cpu: calibrate ranges, without trying whether --dynamic is better for a model of tokens.",
        kind="flag",
        heading="Precision",
    )
    weights_only: bool = option(
        False,
        "With --int8 on cpu and openvino: store the weights of matrix products in 8 bits, without calibration.",
        kind="flag",
        heading="Precision",
    )
    engine: BackendOptions = field(default_factory=BackendOptions)

    @property
    def uncalibrated(self) -> bool:
        """Whether INT8 needs no calibration."""
        return self.dynamic or self.weights_only


@dataclass(frozen=True, kw_only=True)
class OutputConfig:
    """The output folder, and whether the engine is measured."""

    output: Path | None = option(
        None,
        "Folder to write the engine to.",
        short="-o",
        metavar="DIR",
        kind="place",
        convert=_convert_path,
        shown_default="engines/NAME-PRECISION-TARGET",
    )
    profile: bool = option(True, "Measure the engine, and FP32 beside it.", kind="switch", shown_default="--profile")
    require_faster: bool = option(
        False, "Refuse an engine that is not faster than FP32 on this machine; exit code 7.", kind="flag"
    )
    allow_noise: bool = option(
        False, "Build an engine whose outputs are too far from those of the original model.", kind="flag"
    )
    force: bool = option(False, "Replace an engine of another model.", kind="flag", recorded=False)


@dataclass(frozen=True, kw_only=True)
class BuildConfig:
    """All options of one `edgekit.build` call."""

    model: ModelConfig
    calibration: CalibrationConfig
    target: TargetConfig
    output: OutputConfig

    @property
    def groups(self) -> tuple[Any, ...]:
        """The structs with options, in the order of `edgekit build --help`."""
        return self.model, self.calibration, self.target, self.target.engine, self.output


def build_command(config: BuildConfig) -> str:
    """Returns the command line that repeats a build; empty if something was passed as an object."""
    given = (config.model.input, config.calibration.calib)
    if not isinstance(config.model.model, (str, Path)) or any(isinstance(value, InPython) for value in given):
        return ""
    groups = (config.target, config.model, config.calibration, config.target.engine, config.output)
    words = ["edgekit", "build", str(config.model.model), *(word for group in groups for word in option_words(group))]
    return shell_words(words)


def compile_command(bundle: Path, target: str, engine: BackendOptions) -> str:
    """Returns the command line that repeats `edgekit compile`."""
    return shell_words(["edgekit", "compile", str(bundle), "--target", target, *option_words(engine)])
