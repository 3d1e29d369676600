"""Networks in ONNX's text form, with random weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx


def topk_text(rows: int, chosen: int, outputs: str, behind: str = "") -> str:
    """Returns a detector whose TopK orders rows of 8 features by their scores; ``chosen`` are their boxes."""
    return f"""<ir_version: 8, opset_import: ["" : 17]>
g (float[1, {rows}, 8] x) => ({outputs})
<int64[1] k = {{{chosen}}}, int64[2] sizes = {{4, 1}}, int64[1] last = {{2}}, int64[3] four = {{1, 1, 4}}> {{
  all = MatMul (x, w)
  raw, narrow = Split <axis = 2> (all, sizes)
  score = Squeeze (narrow, last)
  scores, places = TopK <axis = 1> (score, k)
  column = Unsqueeze (places, last)
  index = Expand (column, four)
  chosen = GatherElements <axis = 1> (raw, index)
  {behind}
}}"""


def saved(text: str, sizes: Mapping[str, tuple[int, ...]], file: Path, *, spread: float = 0.1, named: str = "") -> Path:
    """Writes a graph with random weights of these sizes; nodes have the names of their first outputs, and ``named``."""
    proto = onnx.parser.parse_model(text)
    draw = np.random.default_rng(0)
    for name, shape in sizes.items():
        weights = draw.normal(0, spread, shape).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(weights, name))
    for node in proto.graph.node:
        node.name = node.output[0] + named
    onnx.save(proto, file)
    return file
