"""Small graphs with one attention, as text, so that each test can change one line."""

from __future__ import annotations

import numpy as np
import onnx

BATCH, HEADS, QUERIES, KEYS, SIZE = 2, 3, 5, 7, 8

NUMBERS = {"scale": 0.25, "root": 0.5, "four": 4, "zero": 0, "hidden": -1e4, "minus": -np.inf}
"""Constants that ``body`` may read."""

HEAD = """
<ir_version: 10, opset_import: ["" : 20]>
g (float[{n}, {s}, {width}] q, float[{n}, {t}, {width}] k, float[{n}, {t}, {width}] v{inputs})
 => (float[{n}, {s}, {width}] y{outputs})
<int64[4] split = {{0, 0, 3, {size}}}, int64[3] merge = {{0, 0, {width}}}{constants}>
{{
  q4 = Reshape(q, split)
  k4 = Reshape(k, split)
  v4 = Reshape(v, split)
  qh = Transpose<perm = [0, 2, 1, 3]>(q4)
  vh = Transpose<perm = [0, 2, 1, 3]>(v4)
  {body}
  {mean}
  merged = Transpose<perm = [0, 2, 1, 3]>(mean)
  y = Reshape(merged, merge)
}}
"""

TURNED = "kt = Transpose<perm = [0, 2, 3, 1]>(k4)"
SCORES = "qs = Mul(qh, scale)\n scores = MatMul(qs, kt)"
SOFTMAX = "weights = Softmax<axis = -1>(scores)"
PLAIN = f"{TURNED}\n{SCORES}\n{SOFTMAX}"
MEAN = "mean = MatMul(weights, vh)"


def graph(
    body: str = PLAIN,
    *,
    inputs: str = "",
    outputs: str = "",
    constants: str = "",
    dynamic: bool = False,
    keys: int = KEYS,
    dtype: str = "float",
    size: int = SIZE,
    mean: str = MEAN,
) -> onnx.ModelProto:
    """Returns a checked graph with shapes, of ``dtype`` in place of float.

    ``body`` computes ``weights`` from ``qh``, ``k4`` and what it adds, and ``mean`` the output from them.
    """
    sizes = {"n": "N", "s": "S", "t": "T"} if dynamic else {"n": BATCH, "s": QUERIES, "t": keys}
    given = {"body": body, "mean": mean, "inputs": inputs, "outputs": outputs, "constants": constants}
    text = HEAD.format(width=HEADS * size, size=size, **given, **sizes)
    model = onnx.parser.parse_model(text.replace("float[", f"{dtype}["))
    kind = np.float16 if dtype == "float16" else np.float32
    read = {name for node in model.graph.node for name in node.input}
    for name in NUMBERS.keys() & read:
        model.graph.initializer.append(onnx.numpy_helper.from_array(kind(NUMBERS[name]), name))
    for index, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}_{index}"
    onnx.checker.check_model(model)
    return onnx.shape_inference.infer_shapes(model, data_prop=True)


def feeds(seed: int = 0, *, batch: int = BATCH, queries: int = QUERIES, keys: int = KEYS) -> dict[str, np.ndarray]:
    """Returns random queries, keys and values."""
    rng = np.random.default_rng(seed)
    lengths = {"q": queries, "k": keys, "v": keys}
    return {name: rng.standard_normal((batch, length, 24), dtype=np.float32) for name, length in lengths.items()}
