"""Validates the options of a build before it starts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from edgekit.arguments import argument
from edgekit.config import (
    NATIVE_ATTENTION,
    PLUGIN_ATTENTION,
    BackendOptions,
    BuildConfig,
    CalibrationConfig,
    ModelConfig,
    OutputConfig,
    TargetConfig,
)
from edgekit.engine.backend import Backend, ChecksOptions, backend, default_target
from edgekit.engine.table import BACKENDS, all_options, options_of
from edgekit.errors import UsageError, nearest
from edgekit.option import given_options, given_values, option_fields, option_value
from edgekit.pipeline.given_paths import require_given_paths
from edgekit.specs import Precision
from edgekit.text import shown

__all__ = ["build_config", "calibration_config", "engine_options", "model_config", "require_buildable"]


def build_config(
    *, engine: BackendOptions | Mapping[str, Any] | None = None, target: str | None = None, **given: Any
) -> BuildConfig:
    """Makes the config of a build from the arguments of `edgekit.build`.

    Raises:
        UsageError: a value is invalid for its option, or the target does not have an option.
    """
    target = default_target() if target is None else target
    chosen = _struct(TargetConfig, given, target=target, engine=engine_options(target, engine))
    return BuildConfig(
        model=model_config(**given),
        calibration=calibration_config(**given),
        target=chosen,
        output=_struct(OutputConfig, given),
    )


def model_config(**given: Any) -> ModelConfig:
    """Makes the config of a model from arguments of `edgekit.build`.

    Raises:
        UsageError: a value is invalid for its option.
    """
    found: ModelConfig = _struct(ModelConfig, given, model=given["model"])
    return found


def calibration_config(**given: Any) -> CalibrationConfig:
    """Makes the config of a calibration from arguments of `edgekit.build`.

    Raises:
        UsageError: a value is invalid for its option.
    """
    found: CalibrationConfig = _struct(CalibrationConfig, given)
    return found


def _struct(kind: Any, given: Mapping[str, Any], **ready: Any) -> Any:
    """Makes a config struct from the options in ``given``, which are converted, and the values in ``ready``."""
    values = dict(ready)
    for field, found in option_fields(kind):
        if field.name in given and field.name not in ready:
            values[field.name] = option_value(field, found, given[field.name])
    return kind(**values)


def engine_options(target: str, given: BackendOptions | Mapping[str, Any] | None) -> BackendOptions:
    """Makes the options of a target's backend from its struct, from options by name, or from None.

    Raises:
        UsageError: the target is unknown, or it does not have one of the options.
    """
    kind = options_of(target)
    if isinstance(given, kind):
        return given
    if isinstance(given, BackendOptions):
        given = {found.name: getattr(given, found.name) for found in given_options(given)}
    if given is not None and not isinstance(given, Mapping):
        raise UsageError(f"engine: expected a {kind.__name__} or a mapping of its fields, got {shown(given)}")
    for name in given or {}:
        if name not in {field.name for field in dataclasses.fields(kind)}:
            raise _unknown_option(target, kind, name)
    return kind(**_converted(kind, given or {}))


def _converted(kind: type[BackendOptions], given: Mapping[str, Any]) -> dict[str, Any]:
    return {
        field.name: option_value(field, found, given[field.name], within="engine")
        for field, found in option_fields(kind)
        if field.name in given
    }


def _unknown_option(target: str, kind: type[BackendOptions], name: str) -> UsageError:
    owners = [other for other in BACKENDS if name in {field.name for field in dataclasses.fields(options_of(other))}]
    if owners:
        flags = {field.name: found.flag for each in all_options() for field, found in option_fields(each)}
        hint = f"add {' or '.join(argument('target', owner) for owner in owners)}, or leave it out"
        option = argument(name, flag=flags[name], within="engine")
        return UsageError(f"target '{target}' does not have the option {option}", hint=hint)
    known = [field.name for field in dataclasses.fields(kind)]
    return UsageError(f"engine: unknown option '{name}' for target '{target}'", hint=nearest(name, known))


def require_buildable(config: BuildConfig) -> None:
    """Checks that the options are compatible, and that this machine has the libraries that the target needs.

    Raises:
        UsageError: options exclude each other or do not go with the target, or a path does not exist.
        BackendUnavailable: a library that the target needs is not installed.
    """
    precision = config.target.precision
    given = [found.name for found in given_options(config.calibration)]
    # Every engine is compared with the original model on the calibration inputs. Half precision measures ranges too,
    # to find overflows, but always with the same method.
    never = {Precision.INT8: (), Precision.FP32: ("calib_method", "keep_float", "quantize_heads", "noise_budget")}.get(
        precision, ("calib_method", "quantize_heads", "noise_budget")
    )
    if config.target.uncalibrated and "calib_method" in given:
        option = argument("dynamic" if config.target.dynamic else "weights_only", True)
        raise UsageError(
            f"{argument('calib_method')} does not go with {option}, which calibrates nothing",
            hint="leave one of them out",
        )
    refused = [name for name in given if name in never]
    if refused:
        raise UsageError(
            f"{argument(refused[0])} does not go with {argument('precision', precision)}", hint="leave one of them out"
        )
    _check_measured(config)
    require_given_paths(config)
    _check_target(config.target, backend(config.target.target))


def _check_measured(config: BuildConfig) -> None:
    """Checks that an engine that has to be faster than FP32 is measured beside FP32."""
    if not config.output.require_faster:
        return
    others = {
        argument("profile", False): not config.output.profile,
        argument("graph_only", True): config.target.graph_only,
        argument("precision", config.target.precision): config.target.precision is Precision.FP32,
        argument("target", config.target.target): not backend(config.target.target).computes,
    }
    if wrong := [option for option, given in others.items() if given]:
        raise UsageError(
            f"{argument('require_faster', True)} does not go with {wrong[0]}: expected an engine that is measured "
            "beside FP32",
            hint="leave one of them out",
        )


def _check_target(target: TargetConfig, library: Backend) -> None:
    if target.precision not in library.precisions:
        known = ", ".join(
            argument("precision", precision) for precision in Precision if precision in library.precisions
        )
        others = [name for name in BACKENDS if target.precision in backend(name).precisions and backend(name).computes]
        raise UsageError(
            f"target '{target.target}' does not build {target.precision}: expected {known}",
            hint=f"these targets build it: {', '.join(argument('target', name) for name in others)}",
        )
    if not library.on_gpu and (target.graph_only or target.half_io):
        option = argument("graph_only") if target.graph_only else argument("half_io")
        raise UsageError(
            f"target '{target.target}' runs on the CPU: {option} is for GPU targets",
            hint=f"add {argument('target', 'tensorrt')} or {argument('target', 'tensorrt-rtx')}, or leave it out",
        )
    _check_attention(target, library)
    _check_uncalibrated(target)
    if target.half_io and target.precision not in (Precision.FP16, Precision.INT8):
        raise UsageError(
            f"{argument('half_io')} goes with {argument('precision', 'fp16')} and "
            f"{argument('precision', 'int8')}, not with {argument('precision', target.precision)}"
        )
    if not target.graph_only:
        library.require()
    if isinstance(library, ChecksOptions):
        check = library.check_options_elsewhere if target.graph_only else library.check_options
        check(target.precision, given_values(target.engine))


def _check_uncalibrated(target: TargetConfig) -> None:
    """Checks the options that say how INT8 quantizes activations: at most one of them, on a target that has it."""
    targets = {"dynamic": ("cpu",), "static": ("cpu",), "weights_only": ("cpu", "openvino")}
    given = [name for name in targets if getattr(target, name)]
    if not given:
        return
    option = argument(given[0], True)
    if len(given) > 1:
        raise UsageError(f"{option} does not go with {argument(given[1], True)}", hint="leave one of them out")
    if target.precision is not Precision.INT8:
        raise UsageError(
            f"{option} goes with {argument('precision', 'int8')}, not with {argument('precision', target.precision)}"
        )
    fitting = targets[given[0]]
    if target.target not in fitting:
        raise UsageError(
            f"{option} goes with target {' and '.join(fitting)}, got '{target.target}'",
            hint=f"leave it out, so that {argument('precision', 'int8')} calibrates ranges, or add "
            f"{argument('target', 'cpu')}",
        )


def _check_attention(target: TargetConfig, library: Backend) -> None:
    if target.attention == NATIVE_ATTENTION and not library.on_gpu:
        raise UsageError(
            f"{argument('attention', NATIVE_ATTENTION)} goes with targets tensorrt and tensorrt-rtx, got "
            f"'{target.target}'",
            hint="leave it out: auto takes what measured fastest there",
        )
    if target.attention in PLUGIN_ATTENTION and target.target != "tensorrt":
        why = "TensorRT-RTX takes no plugins" if target.target == "tensorrt-rtx" else "its kernels run on GPUs"
        raise UsageError(
            f"{argument('attention', target.attention)} goes with target tensorrt, got '{target.target}': {why}",
            hint=f"leave it out, or add {argument('target', 'tensorrt')}",
        )
