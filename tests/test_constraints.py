"""`constraints.txt` has one version of each package for each Python that EdgeKit supports, and it can be had there."""

from __future__ import annotations

import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from tools.oldest import oldest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PYTHONS = tuple(f"3.{minor}" for minor in range(10, 14))


def pins_for(python: str) -> list[Requirement]:
    environment = {"python_version": python, "python_full_version": f"{python}.0"}
    lines = (line.partition("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines())
    pins = [Requirement(line) for line in lines if line]
    return [pin for pin in pins if pin.marker is None or pin.marker.evaluate(environment)]


def direct_dependencies() -> set[str]:
    extras = PROJECT["optional-dependencies"]
    lines = [*PROJECT["dependencies"], *(line for name, each in extras.items() if name != "kernels" for line in each)]
    return {canonicalize_name(Requirement(line).name) for line in lines} - {"edgekit-compiler"}


def test_the_supported_pythons_are_those_of_the_package() -> None:
    assert all(SpecifierSet(PROJECT["requires-python"]).contains(f"{python}.0") for python in PYTHONS)
    assert "Python 3.10 to 3.13" in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("python", PYTHONS)
def test_each_package_has_one_version(python: str) -> None:
    names = [canonicalize_name(pin.name) for pin in pins_for(python)]
    twice = {name for name in names if names.count(name) > 1}
    needed_before_3_11 = {"tomli"} if python != "3.10" else set()
    assert not twice
    assert direct_dependencies() - needed_before_3_11 <= set(names)


def test_the_oldest_versions_are_of_packages_with_a_newest_one() -> None:
    newest = {
        canonicalize_name(pin.name): next(iter(pin.specifier)).version
        for pin in pins_for(f"3.{sys.version_info.minor}")
    }
    found = dict(line.split("==") for line in oldest())
    assert {"click", "numpy", "onnxruntime", "openvino", "torch"} <= found.keys()
    assert all(Version(lowest) <= Version(newest[canonicalize_name(name)]) for name, lowest in found.items())


@pytest.mark.slow
@pytest.mark.parametrize("python", PYTHONS)
def test_pip_finds_each_version(python: str) -> None:
    def versions(name: str) -> str:
        command = ["pip", "index", "versions", name, "--python-version", python, "--disable-pip-version-check"]
        done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, timeout=120)
        return done.stdout

    if "Available versions" not in versions("pip"):
        pytest.skip("pip reaches no index of packages")
    pins = pins_for(python)
    with ThreadPoolExecutor(4) as pool:
        found = dict(zip(pins, pool.map(versions, [pin.name for pin in pins]), strict=True))
    missing = [
        str(pin)
        for pin, text in found.items()
        if not any(pin.specifier.contains(version) for version in re.findall(r"[0-9][^\s,)]*", text))
    ]
    assert not missing
