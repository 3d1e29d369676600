"""TopK whose order ONNX leaves open."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from edgekit.lower.rewriting import lower
from edgekit.lower.sort_top_k import SortTopK


@pytest.mark.parametrize(("attributes", "changed"), [("sorted = 0", True), ("sorted = 1", False), ("axis = -1", False)])
def test_only_an_unsorted_topk_is_sorted(attributes: str, changed: bool) -> None:
    graph = ir.from_onnx_text(
        f"""<ir_version: 10, opset_import: ["" : 20]>
        g (float[2, 8] x, int64[1] k) => (float[2, 3] y, int64[2, 3] i) {{ y, i = TopK <{attributes}> (x, k) }}"""
    )
    assert lower(graph, [SortTopK()]) is changed
    assert graph.graph.node(0).attributes.get_int("sorted", 1) == 1
