"""Graphs with very many convolutions are recognized without other packages."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekit.graph import convolutions_in_file
from edgekit.graph.convolutions_in_file import has_very_many_convolutions, operators_in_file
from tools.bench.grown_graphs import grown


@pytest.mark.parametrize(("nodes", "most", "expected"), [(60, 29, True), (60, 31, False), (10, 20, False)])
def test_convolutions_of_a_file_are_counted(
    nodes: int, most: int, expected: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A chain has a convolution in every other node, 31 of 61 here, and constants between them in the file."""
    monkeypatch.setattr(convolutions_in_file, "MAX_BLOCKED", most)
    operators = operators_in_file(grown("chain", nodes, tmp_path / "m.onnx"))
    assert has_very_many_convolutions(operators) is expected


@pytest.mark.parametrize("content", [b"", b"\x3a\xff", b"not an ONNX file"])
def test_a_damaged_file_is_left_to_the_library(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    assert not has_very_many_convolutions(operators_in_file(tmp_path / "m.onnx"))
