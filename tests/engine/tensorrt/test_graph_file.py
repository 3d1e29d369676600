"""Operators that are found in ONNX files without a parser, and what an older TensorRT says about one of them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from edgekit.engine.tensorrt.graph_file import has_bytes, has_operator
from edgekit.engine.tensorrt.network import parse_graph
from edgekit.errors import BackendUnavailable
from tests.engine.tensorrt.test_attention_plugin import graph_with


@pytest.mark.parametrize(
    ("operator", "names", "found"),
    [
        ("Attention", ["Attention"], True),
        ("Attention", ["Softmax", "Attention"], True),
        ("EdgeKitAttention", ["Attention"], False),
        ("AttentionBias", ["Attention"], False),
        ("Softmax", ["Attention"], False),
    ],
)
def test_operators_are_found_by_their_whole_name(tmp_path: Path, operator: str, names: list[str], found: bool) -> None:
    assert has_operator(graph_with(tmp_path, operator), names) == found


def test_an_empty_file_has_nothing(tmp_path: Path) -> None:
    (tmp_path / "graph.onnx").write_bytes(b"")
    assert not has_operator(tmp_path / "graph.onnx", ["Attention"])
    assert not has_bytes(tmp_path / "graph.onnx", b".*")


def test_a_tensorrt_without_attention_says_which_one_has_it_before_it_parses(tmp_path: Path) -> None:
    older = SimpleNamespace(__name__="tensorrt", __version__="10.3.0")
    with pytest.raises(BackendUnavailable, match="expected TensorRT 10.14 or later, which reads it, got 10.3.0") as e:
        parse_graph(older, None, None, graph_with(tmp_path, "Attention"))  # type: ignore[arg-type]
    assert "attention='auto'" in e.value.hint
