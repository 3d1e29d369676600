"""Options of TensorRT's builder."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from edgekit.arguments import argument
from edgekit.config import BackendOptions
from edgekit.errors import UsageError
from edgekit.limits import MAX_COUNT
from edgekit.option import option, option_fields
from edgekit.text import shown

__all__ = ["TensorRtOptions", "engine_argument"]


def engine_argument(name: str, *value: Any, shell: str | None = None) -> str:
    """Returns an option of TensorRT's as the user writes it: ``--dla 0``, or ``engine={'dla': 0}`` in Python."""
    declared = next(found for _, found in option_fields(TensorRtOptions) if found.name == name)
    return argument(name, *value, flag=declared.flag, shell=shell, within="engine")


def _parse_capabilities(text: str) -> tuple[int, ...]:
    """Parses compute capabilities such as ``86,89`` or ``8.6,8.9``."""
    if not re.fullmatch(r"\d{1,2}\.?\d(,\d{1,2}\.?\d)*", text):
        raise ValueError(f"expected compute capabilities, such as 86,89,120, got '{text}'")
    return tuple(int(word.replace(".", "")) for word in text.split(","))


def _convert_capabilities(numbers: Sequence[int]) -> tuple[int, ...]:
    if isinstance(numbers, Sequence) and all(map(_is_capability, numbers)):
        return tuple(numbers)
    raise UsageError(
        f"{argument('sm', within='engine')}: expected compute capabilities, as in (86, 89), got {shown(numbers)}"
    )


def _is_capability(number: object) -> bool:
    return isinstance(number, int) and 10 <= number < 1000


def _write_capabilities(numbers: Sequence[int]) -> list[str]:
    return [",".join(map(str, numbers))]


@dataclass(frozen=True, kw_only=True)
class TensorRtOptions(BackendOptions):
    """Options of the targets ``tensorrt`` and ``tensorrt-rtx``.

    Attributes:
        sm: compute capabilities of the GPUs to build for, such as 86 and 89; if empty, the GPU of this machine, or, for
            TensorRT-RTX, every GPU that it supports from 8.0 on.
        workspace_mib: maximum memory of a layer while kernels are timed; 0 is all free memory.
        timing_cache: file of measured kernel times, read and written; None is EdgeKit's own file for this device and
            version.
        dla: number of the deep-learning accelerator to run supported layers on; None runs all layers on the GPU.
        version_compatible: the engine also loads in later versions of the library.
        hardware_compatible: the engine also runs on other GPUs of this generation and later.
        refittable: the weights of the built engine can be replaced.
        strip_weights: the engine is written without weights; they are read from the graph when it is loaded.
    """

    title: ClassVar[str] = "TensorRT options"

    sm: tuple[int, ...] = option(
        (),
        "GPUs to build for, as in 86,89,120.",
        shown_default="the one that is here",
        metavar="LIST",
        parse=_parse_capabilities,
        write=_write_capabilities,
        convert=_convert_capabilities,
    )
    workspace_mib: int = option(
        0,
        "Maximum memory for timing kernels; 0 is all free memory.",
        flag="--workspace",
        metavar="MIB",
        kind="integer",
        minimum=0,
        maximum=MAX_COUNT,
    )
    timing_cache: str | None = option(
        None, "File of measured kernel times.", metavar="FILE", shown_default="one per GPU and version"
    )
    dla: int | None = option(
        None,
        "Deep-learning accelerator (DLA) to run on.",
        metavar="N",
        kind="integer",
        minimum=0,
        maximum=MAX_COUNT,
        shown_default="the GPU alone",
    )
    version_compatible: bool = option(False, "Make the engine load in later TensorRT versions too.", kind="flag")
    hardware_compatible: bool = option(False, "Make the engine run on other GPUs too.", kind="flag")
    refittable: bool = option(False, "Allow weights to be replaced in the built engine.", kind="flag")
    strip_weights: bool = option(False, "Leave the weights out of the engine; they stay in graph.onnx.", kind="flag")
