"""Options of TensorRT's builder."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from edgekit.config import BackendOptions
from edgekit.option import option

__all__ = ["TensorRtOptions"]


def _parse_capabilities(text: str) -> tuple[int, ...]:
    """Parses compute capabilities such as ``86,89`` or ``8.6,8.9``."""
    if not re.fullmatch(r"\d+\.?\d(,\d+\.?\d)*", text):
        raise ValueError(f"expected compute capabilities, such as 86,89,120, got '{text}'")
    return tuple(int(word.replace(".", "")) for word in text.split(","))


def _write_capabilities(numbers: Sequence[int]) -> list[str]:
    return [",".join(map(str, numbers))]


@dataclass(frozen=True, kw_only=True)
class TensorRtOptions(BackendOptions):
    """Options of the targets ``tensorrt`` and ``tensorrt-rtx``.

    Attributes:
        sm: compute capabilities of the GPUs to build for, such as 86 and 89; empty: the GPU of this machine, or, for
            TensorRT-RTX, all that it supports from 8.0 on.
        workspace_mib: max memory in MiB that a layer may use while kernels are timed; 0: the free memory.
        timing_cache: file of measured kernel times, read and written; None: EdgeKit's own file for this device and
            version.
        dla: number of the deep-learning accelerator (DLA) for the layers that it supports; None: GPU only.
        version_compatible: the engine loads in later versions of the library too.
        hardware_compatible: the engine runs on other GPUs of this generation and later ones too.
        refittable: weights can be replaced in the built engine.
        strip_weights: the engine is written without weights; they are read from the graph when it is loaded.
    """

    title: ClassVar[str] = "TensorRT options"

    sm: tuple[int, ...] = option(
        (),
        "GPUs to build for, as in 86,89,120.",
        metavar="LIST",
        parse=_parse_capabilities,
        write=_write_capabilities,
        convert=tuple,
    )
    workspace_mib: int = option(
        0, "Memory for timing kernels.", flag="--workspace", metavar="MIB", kind="integer", minimum=0
    )
    timing_cache: str | None = option(
        None, "File of measured kernel times; default: one per GPU and version.", metavar="FILE"
    )
    dla: int | None = option(None, "Deep-learning accelerator to run on.", metavar="N", kind="integer", minimum=0)
    version_compatible: bool = option(False, "Load in later versions of TensorRT too.", kind="flag")
    hardware_compatible: bool = option(False, "Run on other GPUs too.", kind="flag")
    refittable: bool = option(False, "Allow weights to be replaced in the built engine.", kind="flag")
    strip_weights: bool = option(False, "Leave the weights out of the engine; they stay in graph.onnx.", kind="flag")
