"""Install commands for the packages of EdgeKit's extras, for hints.

Hints name the packages themselves, because the package ``edgekit`` on PyPI is another project.
"""

from __future__ import annotations

import shlex
from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

__all__ = ["DISTRIBUTION", "EXTRAS", "install_command", "other_version", "requirements"]

DISTRIBUTION = "edgekit-compiler"

_BUILD = ("ml-dtypes", "onnx", "onnx-ir", "onnxruntime", "onnxscript", "safetensors", "tomli-w", "torch")
# Names without versions, for a source folder that is not installed and so has no metadata.
EXTRAS = {
    "build": _BUILD,
    "cpu": ("onnxruntime",),
    "openvino": ("openvino",),
    "tensorrt": ("cuda-bindings",),
    "rtx": ("cuda-bindings", "tensorrt-rtx-cu13"),
    "eval": ("pycocotools",),
    "train": (*_BUILD, "scikit-learn"),
    "video": ("av",),
}


def install_command(extra: str, *packages: str) -> str:
    """Returns the command that installs an extra's missing packages, such as ``pip install 'openvino>=2026.1'``.

    Args:
        extra: a key of `EXTRAS`.
        packages: normalized names of the packages to install; all packages of the extra if empty.
    """
    return " ".join(["pip install", *map(shlex.quote, requirements(extra, *packages))])


def requirements(extra: str, *packages: str) -> list[str]:
    """Returns the requirements of an extra that this environment does not meet, such as ``openvino>=2026.1``.

    If it meets all of them, all are returned, because an installed package cannot be imported.

    Args:
        extra: a key of `EXTRAS`.
        packages: normalized names of the packages to return; all packages of the extra if empty.
    """
    found = [each for name, each in _of_extra(extra).items() if not packages or name in packages]
    return [_text(each) for each in found if not _is_met(each)] or [_text(each) for each in found]


def other_version(extra: str, package: str) -> str:
    """Returns which versions of an installed package are expected, such as ``>=2026.1``; empty if it is one of them.

    Args:
        extra: a key of `EXTRAS`.
        package: normalized name of the package. What other packages install under the same name in Python, such as
            ``onnxruntime-gpu``, has versions of its own, and is not checked.
    """
    requirement = _of_extra(extra).get(package)
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
    return "" if requirement is None or _is_met(requirement) else str(requirement.specifier)


def _of_extra(extra: str) -> dict[str, Requirement]:
    """Returns the requirements that an extra adds on this machine, by normalized name."""
    try:
        found = [Requirement(line) for line in metadata.requires(DISTRIBUTION) or []]
    except metadata.PackageNotFoundError:
        return {name: Requirement(name) for name in EXTRAS[extra]}
    # A requirement whose marker holds with no extra is a base dependency.
    added = [
        each
        for each in found
        if each.marker and each.marker.evaluate({"extra": extra}) and not each.marker.evaluate({"extra": ""})
    ]
    # An older installation of a source folder does not know the extra.
    return {canonicalize_name(each.name): each for each in added} or {name: Requirement(name) for name in EXTRAS[extra]}


def _text(requirement: Requirement) -> str:
    """Returns the name and versions of a requirement, without its marker."""
    return f"{requirement.name}{requirement.specifier}"


def _is_met(requirement: Requirement) -> bool:
    """Whether the package is installed in a version that the requirement allows."""
    try:
        return requirement.specifier.contains(metadata.version(requirement.name), prereleases=True)
    except metadata.PackageNotFoundError:
        return False
