"""What `edgekit.build` was asked for, as one value, and the command line that asks for the same."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from edgekit.errors import UsageError, nearest
from edgekit.recipe.messages import recipe_error
from edgekit.recipe.schema import Preprocess, load_recipe, recipe_names
from edgekit.specs import Precision, Shape, Size

__all__ = [
    "EngineOptions",
    "Order",
    "command_from_compile",
    "command_from_order",
    "given_fields",
    "kind_of",
    "merged",
    "name_of",
]

WEIGHTS = (".ckpt", ".pt", ".pth", ".safetensors", ".weights")


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """What a builder on a GPU is told besides the graph; see `edgekit.engine.backend.BuildOptions`.

    Attributes:
        sm: compute capabilities of the GPUs that the engine is for, such as 86 and 89.
        workspace_mib: the most memory that a layer may use while the engine is tuned.
        timing_cache: file of measured kernels; None is one of EdgeKit's own, per device and version.
        dla: number of the deep-learning accelerator to run on.
        version_compatible: to load in later versions of the library too.
        hardware_compatible: to run on other GPUs too.
        refittable: weights can be replaced in the built engine.
        strip_weights: weights stay beside the engine.
    """

    sm: tuple[int, ...] = ()
    workspace_mib: int = 0
    timing_cache: str | None = None
    dla: int | None = None
    version_compatible: bool = False
    hardware_compatible: bool = False
    refittable: bool = False
    strip_weights: bool = False

    @classmethod
    def of(cls, options: EngineOptions | Mapping[str, Any] | None) -> EngineOptions:
        """From what a caller gives: all of it, some of its fields by name, or nothing."""
        return options if isinstance(options, cls) else cls(**dict(options or {}))  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class Order:
    """What a build was asked for.

    Attributes:
        model: a recipe's name or file, a Darknet cfg file, an ONNX file, ``package.module:factory``, or an
            ``nn.Module``.
        precision: of the engine.
        target: name of the backend.
        weights: a file, or the name of a set that the recipe publishes; None is random for a reference model.
        calib: folder, manifest or name of a calibration set; None is the recipe's, or the shipped one.
        calib_method: how ranges are chosen; None is the recipe's, or the default.
        calib_images: calibrate on at most so many.
        calib_column: of a table to calibrate on, the header of the column that is no input; None is the last one.
        keep_float: patterns of nodes that stay in float, besides the recipe's.
        output: the bundle's folder, where one was named.
        shape: of the picture: ``(H, W)`` or all its sizes; a range stands where a size is chosen at run time.
        inputs: shapes by input name, likewise; the name ``""`` is the first input's.
        preprocess: fields that replace the recipe's, or those that are guessed; see `given_fields`.
        opset: to export to, where one was named.
        seed: for random weights.
        threads: for the engine; 0 leaves it to the backend.
        profile: measure the engine, and FP32 beside it.
        batch: number of inputs in a batch, or the range of it: the first dimension of all inputs; None is the model's.
        half_io: inputs and outputs are in half precision too, where the engine is.
        plan_only: leave the engine itself to `edgekit compile`, on the machine it is for.
        engine: what the backend's builder is told besides; see `BuildOptions`.
    """

    model: Any
    precision: Precision
    target: str
    weights: str | None = None
    calib: str | None = None
    calib_method: str | None = None
    calib_images: int | None = None
    calib_column: str | None = None
    keep_float: tuple[str, ...] = ()
    output: Path | None = None
    shape: Shape | None = None
    inputs: Mapping[str, Shape] = field(default_factory=dict)
    preprocess: Mapping[str, Any] | None = None
    opset: int | None = None
    seed: int = 0
    threads: int = 0
    profile: bool = True
    batch: Size | None = None
    half_io: bool = False
    plan_only: bool = False
    engine: EngineOptions = EngineOptions()


def given_fields(
    preprocess: Preprocess | Mapping[str, Any], *, option: str = "preprocess", text: bool = False
) -> dict[str, Any]:
    """The fields of a recipe's preprocessing that are given, and no others, as plain values of their own types.

    Args:
        preprocess: all fields, or some of them by name.
        option: what a message calls them.
        text: numbers may be written as text, as a command line has them.

    Raises:
        UsageError: an unknown field, or values that no preprocessing can have.
    """
    if not isinstance(preprocess, (Preprocess, Mapping)):
        raise UsageError(f"{option}: expected a Preprocess or a mapping of its fields, got {preprocess!r}")
    fields = msgspec.to_builtins(preprocess) if isinstance(preprocess, Preprocess) else dict(preprocess)
    # Fields that are not given come later, and there is a mean for each channel.
    lists = [fields[name] for name in ("mean", "std") if isinstance(fields.get(name), (list, tuple))]
    gray = fields.get("color", "gray" if any(len(values) == 1 for values in lists) else "rgb") == "gray"
    rest = {"color": "gray", "mean": [0.0], "std": [1.0]} if gray else {}
    valid = msgspec.to_builtins(_converted({**rest, **fields}, option, strict=not text))
    return {name: valid[name] for name in fields}


def merged(preprocess: Preprocess, fields: Mapping[str, Any]) -> Preprocess:
    """The preprocessing with some of its fields replaced.

    Raises:
        UsageError: they do not go together, as three means and a picture of one channel.
    """
    return _converted({**msgspec.to_builtins(preprocess), **fields}, "--preprocess")


def _converted(fields: dict[str, Any], option: str, *, strict: bool = True) -> Preprocess:
    try:
        return msgspec.convert(fields, Preprocess, strict=strict)
    except msgspec.ValidationError as e:
        error = recipe_error(Path(option), e, fields, Preprocess)
        one_channel = "give --preprocess mean=0 and --preprocess std=1 too, one number for the one channel"
        lacks = "one a channel of 'gray'" in error.message
        raise UsageError(error.message.removeprefix("recipe "), hint=one_channel if lacks else error.hint) from e


def kind_of(model: object) -> str:
    """What sort of model that is: ``recipe``, ``cfg``, ``onnx``, ``factory`` or ``module``.

    Raises:
        UsageError: there is no such model.
    """
    if not isinstance(model, (str, Path)):
        return "module"
    text, path = str(model), Path(model)
    if text in recipe_names() or path.suffix == ".toml":
        return "recipe"
    if path.suffix in WEIGHTS:
        raise UsageError(
            f"'{text}': expected a model, got a file of weights",
            hint=f"name the model that they belong to, as in: edgekit build yolov3 --weights {shlex.quote(text)}",
        )
    for suffix, what in ((".onnx", "an ONNX file"), (".cfg", "a Darknet cfg file")):
        if path.suffix == suffix and _is_missing(path):
            beside = nearest(path.name, [file.name for file in path.parent.glob(f"*{suffix}")])
            raise UsageError(f"'{text}': expected {what}, got no such file", hint=beside)
    if path.suffix == ".cfg" and not os.path.isdir(path):
        return "cfg"
    if path.suffix == ".onnx" or os.path.isfile(path):
        return "onnx"
    if os.path.isdir(path):
        engine = os.path.isfile(path / "manifest.json")
        hint = f"it is an engine already: edgekit run {shlex.quote(text)}" if engine else ""
        raise UsageError(f"'{text}': expected a model, got a folder", hint=hint)
    if ":" in text:
        return "factory"
    known = nearest(text, recipe_names())
    raise UsageError(
        f"unknown model '{text}': expected a name that `edgekit models` lists, an ONNX file or a "
        "Darknet cfg file that exists, or package.module:factory",
        hint=known,
    )


def _is_missing(path: Path) -> bool:
    """Whether nothing is there; what may not be looked at is not missing, and whoever reads it says why it cannot."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def name_of(model: object) -> str:
    """What engines of that model are called where nobody says.

    Raises:
        UsageError: there is no such model.
    """
    kind = kind_of(model)
    if kind == "recipe":
        return load_recipe(str(model)).name
    if kind in ("cfg", "onnx"):
        return Path(str(model)).stem
    text = str(model) if kind == "factory" else type(model).__name__
    return text.rpartition(":")[2].rpartition(".")[2]


def command_from_order(order: Order) -> str:
    """The command line that builds the same; nothing for a module that was handed over as an object."""
    if not isinstance(order.model, (str, Path)):
        return ""
    words = ["edgekit", "build", str(order.model), f"--{order.precision}"]
    for option in ("target", "weights", "calib", "calib_method", "calib_images", "calib_column", "output", "opset"):
        value = getattr(order, option)
        if value is not None:
            words += [f"--{option.replace('_', '-')}", str(value)]
    for option in ("seed", "threads"):
        if value := getattr(order, option):
            words += [f"--{option}", str(value)]
    words += _engine_words(order)
    for pattern in order.keep_float:
        words += ["--keep-float", pattern]
    if order.shape is not None:
        words += ["--shape", _times(order.shape)]
    for name, sizes in order.inputs.items():
        words += ["--input", f"{name}:{_times(sizes)}" if name else _times(sizes)]
    for name, value in (order.preprocess or {}).items():
        text = ",".join(map(str, value)) if isinstance(value, (list, tuple)) else value
        words += ["--preprocess", f"{name}={text}"]
    return shlex.join(words if order.profile else [*words, "--no-profile"])


def command_from_compile(bundle: Path, target: str, engine: EngineOptions) -> str:
    """The command line that compiles a bundle the same way."""
    return shlex.join(["edgekit", "compile", str(bundle), "--target", target, *_builder_words(engine)])


def _engine_words(order: Order) -> list[str]:
    words = ["--batch", str(order.batch)] if order.batch is not None else []
    words += ["--half-io"] if order.half_io else []
    words += ["--plan-only"] if order.plan_only else []
    return words + _builder_words(order.engine)


def _builder_words(engine: EngineOptions) -> list[str]:
    words = ["--sm", ",".join(map(str, engine.sm))] if engine.sm else []
    words += ["--workspace", str(engine.workspace_mib)] if engine.workspace_mib else []
    words += ["--timing-cache", engine.timing_cache] if engine.timing_cache is not None else []
    words += ["--dla", str(engine.dla)] if engine.dla is not None else []
    flags = ("version_compatible", "hardware_compatible", "refittable", "strip_weights")
    return words + [f"--{flag.replace('_', '-')}" for flag in flags if getattr(engine, flag)]


def _times(sizes: Shape) -> str:
    return "x".join(map(str, sizes))
