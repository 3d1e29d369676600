"""The Python examples of the documentation that need no files of the reader run as they are printed."""

from __future__ import annotations

import functools
import re
import warnings
from pathlib import Path

import pytest

import edgekit

PAGE = Path(__file__).parents[2] / "docs" / "python.md"
SECTIONS = re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.DOTALL | re.MULTILINE)
BLOCKS = {
    title: block
    for title, text in SECTIONS
    for block in re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
}


@pytest.mark.parametrize("title", ["Functions", "A module of your own", "Calibration data"])
def test_an_example_runs(title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("onnxruntime")
    pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    # Measuring takes most of the time, and is tested elsewhere.
    monkeypatch.setattr(edgekit, "build", functools.partial(edgekit.build, profile=False, target="cpu"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", edgekit.EdgeKitWarning)
        exec(compile(BLOCKS[title], f"{PAGE.name}: {title}", "exec"), {})
    assert list((tmp_path / "engines").iterdir())
