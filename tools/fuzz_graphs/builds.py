"""Builds a graph for one target in this process, and compares its outputs with ONNX Runtime on the original."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime

from edgekit.engine.backend import BuildOptions, backend
from edgekit.errors import EdgeKitError, GraphError
from edgekit.graph.file import is_quantized, save_graph
from edgekit.graph.load.onnx_file import graph_from_onnx
from edgekit.graph.passes import optimize, widened
from edgekit.lower.tensorrt_operators import use_tensorrt_operators
from edgekit.quantize.calibrate.collect import (
    CalibrationTable,
    channels_from_statistics,
    collect_statistics,
    observed_tensors,
    ranges_from_statistics,
)
from edgekit.quantize.plan import QuantPolicy
from edgekit.quantize.quantize import quantized_from_graph
from edgekit.specs import Precision, ShapeRange
from tools.fuzz_graphs.generate import Case

__all__ = ["TARGETS", "Finding", "findings", "reference_outputs"]

TARGETS = ("graph", "cpu-fp32", "cpu-int8", "openvino-fp32", "openvino-int8", "tensorrt-rtx-int8")

FP32_DB = 60.0
INT8_LOSS_DB = 6.0
"""How much more noise an INT8 engine may have than its graph, run by ONNX Runtime without optimizations."""
ROUGH_DB = 30.0
"""Where the graph itself is better than this, an engine need not be: kernels round in other places."""

Arrays = dict[str, np.ndarray]


class Finding(NamedTuple):
    """What is wrong with one target.

    Attributes:
        target: one of `TARGETS`.
        kind: ``error``, ``refused``, ``shape``, ``type``, ``values``.
        text: the difference or the message.
    """

    target: str
    kind: str
    text: str


def reference_outputs(case: Case) -> list[Arrays] | None:
    """Outputs of the original in ONNX Runtime without optimizations; None if it does not run the graph.

    A graph in FP16 or FP64 is computed in FP32.
    """
    model = case.model
    others = (onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)
    casts = any(
        attribute.i in others for node in model.graph.node for attribute in node.attribute if attribute.name == "to"
    )
    if casts or any(value.type.tensor_type.elem_type in others for value in model.graph.input):
        model = ir.to_proto(widened(ir.from_proto(model)))
    return _outputs(model, [_floats(feed) for feed in case.feeds])


def findings(case: Case, targets: Sequence[str], expected: list[Arrays]) -> list[Finding]:
    """Builds the case for each target and returns what differs from the reference."""
    found: list[Finding] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        onnx.save(case.model, folder / "model.onnx")
        try:
            graph = graph_from_onnx(folder / "model.onnx")
            if not is_quantized(graph):
                optimize(graph)
        except EdgeKitError as e:
            return [Finding("graph", "refused", str(e))]
        except Exception as e:
            return [Finding("graph", "error", f"{type(e).__name__}: {e}")]
        for target in targets:
            place = folder / target
            place.mkdir()
            try:
                found += _findings_of(case, graph, target, place, expected)
            except EdgeKitError as e:
                found.append(Finding(target, "refused", str(e)))
            except Exception as e:
                found.append(Finding(target, "error", f"{type(e).__name__}: {e}"))
    return found


def _findings_of(case: Case, graph: ir.Model, target: str, place: Path, expected: list[Arrays]) -> list[Finding]:
    feeds = [_floats(feed) for feed in case.feeds]
    if target == "graph":
        got = _outputs(ir.to_proto(graph), feeds)
        return _differences(target, expected, got or [], [FP32_DB] * len(expected[0]))
    name, _, precision = target.rpartition("-")
    limits = {key: FP32_DB for key in expected[0]}
    if precision == "int8":
        try:
            graph = _quantized(graph, name, feeds)
        except GraphError as e:
            if e.message.startswith("nothing in the graph can be quantized"):
                return []
            raise
        typed = _outputs(ir.to_proto(graph), feeds)
        if typed is None:
            return [Finding(target, "error", "ONNX Runtime does not run the quantized graph")]
        limits = {key: min(_db(expected, typed, key), ROUGH_DB) - INT8_LOSS_DB for key in expected[0]}
    engine = backend(name)
    if engine.on_gpu:
        graph = graph.clone(deep_copy=False)
        use_tensorrt_operators(graph)
    save_graph(graph, place / "graph.onnx")
    options = BuildOptions(precision=Precision(precision), threads=1, shapes=_ranges(case))
    with _silence():
        result = engine.build(place / "graph.onnx", place, options)
    if engine.on_gpu:
        return []
    loaded = engine.load(place / result.engine, threads=1)
    try:
        got = [loaded.run(feed) for feed in feeds]
    finally:
        loaded.close()
    return _differences(target, expected, got, list(limits.values()))


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Discards what TensorRT's builder writes to the file descriptors of standard output and standard error."""
    saved = [os.dup(1), os.dup(2)]
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        for descriptor, original in zip((1, 2), saved, strict=True):
            os.dup2(original, descriptor)
            os.close(original)
        os.close(nothing)


def _ranges(case: Case) -> dict[str, ShapeRange]:
    if not case.batch:
        return {}
    found = {}
    for name, array in case.feeds[0].items():
        rest = array.shape[1:]
        low, high = 1, 2 * array.shape[0]
        found[name] = ShapeRange((low, *rest), array.shape, (high, *rest))
    return found


def _quantized(graph: ir.Model, target: str, feeds: list[Arrays]) -> ir.Model:
    collected = collect_statistics(
        graph, observed_tensors(graph), ((str(i), feed) for i, feed in enumerate(feeds)), method="minmax", threads=1
    )
    table = CalibrationTable(
        method="minmax",
        set="",
        set_digest="",
        graph_digest="",
        images=len(feeds),
        ranges=ranges_from_statistics(collected.statistics, "minmax"),
        channels=channels_from_statistics(graph, collected.statistics),
    )
    return quantized_from_graph(graph, table, backend(target).scheme(), QuantPolicy(keep_heads=True)).graph


def _floats(feed: Arrays) -> Arrays:
    return {name: array.astype(np.float32) if array.dtype.kind == "f" else array for name, array in feed.items()}


def _outputs(model: onnx.ModelProto, feeds: list[Arrays]) -> list[Arrays] | None:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        return [dict(zip(names, session.run(names, feed), strict=True)) for feed in feeds]
    except Exception:  # ONNX Runtime's exceptions have no common base class
        return None


def _differences(target: str, expected: list[Arrays], got: list[Arrays], limits_db: list[float]) -> list[Finding]:
    if len(got) != len(expected):
        return [Finding(target, "error", "ONNX Runtime does not run the graph")]
    found = []
    for name, limit in zip(expected[0], limits_db, strict=True):
        a, b = expected[0][name], got[0].get(name)
        if b is None or a.shape != b.shape:
            found.append(
                Finding(target, "shape", f"'{name}': expected {a.shape}, got {None if b is None else b.shape}")
            )
        elif a.dtype != b.dtype:
            found.append(Finding(target, "type", f"'{name}': expected {a.dtype}, got {b.dtype}"))
        elif (db := _db(expected, got, name)) < limit:
            found.append(Finding(target, "values", f"'{name}': {db:.1f} dB, expected {limit:.1f} dB"))
    return found


def _db(expected: list[Arrays], got: list[Arrays], name: str) -> float:
    """Signal to noise over all inputs; infinite if equal, -100 if values that are not finite differ."""
    a = np.concatenate([arrays[name].astype(np.float64).ravel() for arrays in expected])
    b = np.concatenate([arrays[name].astype(np.float64).ravel() for arrays in got])
    if a.shape != b.shape:
        return -100.0
    finite = np.isfinite(a) & (np.abs(a) < 1e30)
    if not np.array_equal(finite, np.isfinite(b) & (np.abs(b) < 1e30)):
        return -100.0
    a, b = a[finite], b[finite]
    noise = float(np.square(a - b).sum())
    # Below what a float32 sum of these terms resolves: outputs that cancel to nearly nothing.
    if noise <= 1e-11 * max(a.size, 1):
        return float("inf")
    return 10 * float(np.log10(max(float(np.square(a).sum()), 1e-30) / noise))
