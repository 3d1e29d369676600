"""Checks attention in TensorRT engines, by ONNX's operator and by EdgeKit's kernels: error and time of each form."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from packaging.version import Version

import edgekit
from edgekit.engine.backend import backend
from edgekit.runtime.session import Session
from tools.gpu_check.engines import timed

BATCH, HEADS, TOKENS, HEAD_SIZE = 4, 12, 1024, 64
SINGLE = "off"

# Values of --attention, with the largest error, as its norm over the norm of the single operators' output.
TOLERANCE = {"native": 2e-3, "edgekit": 2e-3, "edgekit-int8": 2e-2}
NATIVE_SINCE = Version("10.14")

MODEL = """
<ir_version: 10, opset_import: ["" : 20]>
attention (float[{batch}, {tokens}, {width}] q, float[{batch}, {tokens}, {width}] k,
           float[{batch}, {tokens}, {width}] v)
 => (float[{batch}, {tokens}, {width}] y)
<int64[4] split = {{0, 0, {heads}, {size}}}, int64[3] merge = {{0, 0, {width}}}, float scale = {{{scale}}}>
{{
  q4 = Reshape(q, split)
  k4 = Reshape(k, split)
  v4 = Reshape(v, split)
  qh = Transpose<perm = [0, 2, 1, 3]>(q4)
  kt = Transpose<perm = [0, 2, 3, 1]>(k4)
  vh = Transpose<perm = [0, 2, 1, 3]>(v4)
  qs = Mul(qh, scale)
  scores = MatMul(qs, kt)
  weights = Softmax<axis = -1>(scores)
  mean = MatMul(weights, vh)
  merged = Transpose<perm = [0, 2, 1, 3]>(mean)
  y = Reshape(merged, merge)
}}
"""


def check_attention_engines(*, quick: bool = False) -> dict[str, Any]:
    """Builds an attention with single operators, as one operator and with EdgeKit's kernels; compares the engines.

    Raises:
        EdgeKitError: an engine cannot be built, loaded or run.
    """
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        model = write_model(Path(name))
        sessions = {}
        for kind in kinds(backend("tensorrt").version()):
            bundle = edgekit.build(
                model,
                precision="fp16",
                target="tensorrt",
                attention=kind,  # type: ignore[arg-type]
                profile=False,
                output=Path(name) / kind,
            )
            sessions[kind] = stack.enter_context(edgekit.load(bundle))
        return compared(sessions, runs=20 if quick else 200)


def kinds(version: str) -> list[str]:
    """Returns the values of ``--attention`` that this version of TensorRT builds."""
    return [SINGLE, *(kind for kind in TOLERANCE if kind != "native" or Version(version) >= NATIVE_SINCE)]


def write_model(folder: Path, tokens: int = TOKENS) -> Path:
    """Writes the attention as an ONNX file."""
    import onnx

    sizes = {"batch": BATCH, "tokens": tokens, "heads": HEADS, "size": HEAD_SIZE, "width": HEADS * HEAD_SIZE}
    path = folder / "attention.onnx"
    onnx.save(onnx.parser.parse_model(MODEL.format(**sizes, scale=HEAD_SIZE**-0.5)), path)
    return path


def compared(sessions: Mapping[str, Session], *, runs: int) -> dict[str, Any]:
    """Returns errors against the single operators, times, and the errors that are too large.

    Args:
        sessions: the engines by their value of ``--attention``.
        runs: number of runs to measure.
    """
    random = np.random.default_rng(0)
    feeds = {}
    for spec in sessions[SINGLE].inputs:
        sizes = [size for size in spec.shape if isinstance(size, int)]
        feeds[spec.name] = random.standard_normal(sizes, np.float32).astype(spec.dtype)
    found: dict[str, Any] = {"problems": []}
    right = _output(sessions[SINGLE], feeds)
    for kind, session in sessions.items():
        times = timed(session, runs=runs)
        row = {"gpu_ms_p50": times["graph" if "graph" in times else "no_graph"]["gpu_ms"]["p50"]}
        if kind != SINGLE:
            row["relative_error"] = float(np.linalg.norm(_output(session, feeds) - right) / np.linalg.norm(right))
            if not row["relative_error"] <= TOLERANCE[kind]:
                found["problems"].append(
                    f"--attention {kind}: expected a relative error of {TOLERANCE[kind]:g}, "
                    f"got {row['relative_error']:.2e}"
                )
        found[kind] = row | {"notes": [note for note in session.manifest.notes if "attention" in note]}
    return found


def _output(session: Session, feeds: dict[str, np.ndarray]) -> np.ndarray:
    (output,) = session.run(feeds).values()
    return output.astype(np.float64)
