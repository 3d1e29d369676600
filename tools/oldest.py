"""Prints the oldest versions that pyproject.toml allows, as constraints for pip.

``python -m tools.oldest > oldest.txt && pip install -c oldest.txt -e '.[build,cpu,openvino]' pytest``: what EdgeKit
says that it works with can then be tested.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = Path(__file__).parent.parent / "pyproject.toml"
EXTRAS = ("build", "cpu", "openvino", "eval", "train", "video")


def oldest(project: Path = PROJECT) -> Iterator[str]:
    """Yields the packages that EdgeKit itself uses, each with the lowest version that is allowed: ``click==8.1``."""
    found = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
    lines = {*found["dependencies"], *(line for name in EXTRAS for line in found["optional-dependencies"][name])}
    for line in sorted(lines):
        requirement = Requirement(line)
        marker = requirement.marker
        if canonicalize_name(requirement.name) == found["name"] or (marker is not None and not marker.evaluate()):
            continue
        (lowest,) = (each.version for each in requirement.specifier if each.operator == ">=")
        yield f"{requirement.name}=={lowest}"


if __name__ == "__main__":
    print("\n".join(oldest()))
