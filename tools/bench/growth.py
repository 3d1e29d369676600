"""Measures how time grows with the number of nodes, and memory with the weights: `inspect`, builds in FP32 and INT8.

A command is a process of its own, with an empty cache, one thread, and inputs of calibration that EdgeKit ships. Its
time is that of the processor, its child processes and all imports included, so that other programs disturb it little.
The exponent ``e`` is that of the least-squares fit of ``seconds = factor * nodes ** e`` to what is above the time of a
graph of `FEW` nodes, in logarithms. A build in INT8 has a second row: the time in which ONNX Runtime alone loads its
graph with Q/DQ pairs, without optimizations, of which a build takes several.

The memory of a command is the peak resident set of its largest process, without what the same graph with small
weights takes, in multiples of the weights.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, external_data_helper, helper, numpy_helper

from edgekit.engine.bundle.manifest import GRAPH
from tools.bench.grown_graphs import grown
from tools.bench.process import Finished, run_watched
from tools.bench.workshop import Workshop

__all__ = ["exponent", "file_with_weights", "measure_growth"]

FEW = 10
"""Nodes of a graph that takes no more than any graph does: imports, calibration on so many inputs, files."""
NODES = (3_000, 12_000)
KINDS = {"chain": "chain", "residual": "residual blocks"}
LIMIT = 1.1
READ_LIMIT, BUILD_LIMIT = 1.3, 3.0

MEGABYTE = 1 << 20
MEGABYTES = 512
LAYERS = 4
"""Layers that share the weights."""

LOADING = """
import sys, time
import onnxruntime
options = onnxruntime.SessionOptions()
options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
options.intra_op_num_threads, options.log_severity_level = 1, 4
started = time.process_time()
onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
print(time.process_time() - started)
"""
"""Prints the seconds of the processor in which ONNX Runtime loads a graph, without optimizations."""

Command = Callable[[Path, Path], list[object]]
"""Arguments of `edgekit`, from the model and the folder of the engine."""


def _inspected(model: Path, output: Path) -> list[object]:
    return ["inspect", model]


def _built(precision: str) -> Command:
    def command(model: Path, output: Path) -> list[object]:
        return ["build", model, f"--{precision}", "--target", "cpu", "--no-profile", "--threads", 1, "-o", output]

    return command


COMMANDS: dict[str, Command] = {
    "inspect": _inspected,
    "build --fp32": _built("fp32"),
    "build --int8": _built("int8"),
}


def measure_growth(shop: Workshop) -> Iterator[dict[str, Any]]:
    """Yields the results after each command: memory first, then times, the smaller graphs first."""
    rows: dict[str, Any] = {}
    sizes = (300, 900) if shop.quick else tuple(sorted(shop.nodes or NODES))
    target: dict[str, dict[str, float]] = {}
    result = {
        "title": "growth with nodes and weights",
        "relative_to": "the weights",
        "columns": {f"{size}": f"{size:,} nodes" for size in (FEW, *sizes)},
        "target": target,
        "rows": rows,
    }
    for place in ("in the file", "beside it"):
        for name, limit in (("inspect", READ_LIMIT), ("build --fp32", BUILD_LIMIT), ("build --int8", None)):
            megabytes = MEGABYTES // 8 if shop.quick else MEGABYTES
            row = f"{name}, weights of {megabytes:,} MiB {place}"
            rows[row] = _memory(shop, COMMANDS[name], megabytes, external=place == "beside it")
            if limit is not None:
                target[row] = {"ratio": limit}
            yield result
    seconds: dict[str, dict[int, float]] = {}
    for size in (FEW, *sizes):
        for kind, words in KINDS.items():
            model = grown(kind, size, shop.folder / f"{kind}-{size}.onnx")
            for name, command in COMMANDS.items():
                row = f"{name}, {words}"
                done, loading_s = _run(shop, command, model)
                target[row] = {"exponent": LIMIT}
                measured = {row: done.processor_s}
                if loading_s is not None:
                    measured[f"ONNX Runtime loads the graph of {row}"] = loading_s
                for each, value in measured.items():
                    found = seconds.setdefault(each, {})
                    found[size] = value
                    rows[each] = _grown(found, max(done.others, rows.get(each, {}).get("others", 0.0)))
                yield result


def _grown(seconds: dict[int, float], others: float) -> dict[str, Any]:
    cells = {str(size): f"{value:.2f} s" if value < 1 else f"{value:.1f} s" for size, value in seconds.items()}
    return {**cells, "exponent": exponent(seconds), "others": others}


def exponent(seconds: dict[int, float]) -> float | None:
    """Returns the exponent of the time above that of the smallest graph; None for fewer than two others."""
    start, *others = sorted(seconds)
    if len(others) < 2:
        return None
    above = [max(seconds[size] - seconds[start], 1e-9) for size in others]
    return round(float(np.polyfit(np.log(others), np.log(above), 1)[0]), 2)


def _memory(shop: Workshop, command: Command, megabytes: int, *, external: bool) -> dict[str, Any]:
    small, large = (
        _run(shop, command, file_with_weights(shop.folder / "weights", bytes_of_weights, external=external))[0]
        for bytes_of_weights in (MEGABYTE, megabytes * MEGABYTE)
    )
    return {
        "peak_bytes": large.largest_bytes,
        "ratio": round((large.largest_bytes - small.largest_bytes) / ((megabytes - 1) * MEGABYTE), 2),
        "others": large.others,
    }


def file_with_weights(folder: Path, bytes_of_weights: int, *, external: bool) -> Path:
    """Writes a model whose `LAYERS` matrices have so many bytes together, in the file or beside it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    side = int(np.sqrt(bytes_of_weights / LAYERS / 4))
    random = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(random.standard_normal((side, side), np.float32) / np.float32(side) ** 0.5, f"w{i}")
        for i in range(LAYERS)
    ]
    nodes = []
    for i in range(LAYERS):
        nodes.append(helper.make_node("MatMul", [f"r{i}" if i else "x", f"w{i}"], [f"m{i}"], name=f"m{i}"))
        nodes.append(helper.make_node("Relu", [f"m{i}"], [f"r{i + 1}"], name=f"r{i + 1}"))
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, side]) for name in ("x", f"r{LAYERS}")]
    graph = helper.make_graph(nodes, "g", tensors[:1], tensors[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    file = folder / "model.onnx"
    if external:
        external_data_helper.convert_model_to_external_data(model, location="model.onnx.data")
    onnx.save(model, file)
    return file


def _run(shop: Workshop, command: Command, model: Path) -> tuple[Finished, float | None]:
    """Runs a command; returns how, and the seconds in which ONNX Runtime loads a graph of INT8 that it has built."""
    cache, output = shop.folder / "cache-growth", shop.folder / "grown"
    environment = {**shop.environment, "EDGEKIT_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    try:
        arguments: Sequence[object] = command(model, output)
        done = run_watched([sys.executable, "-m", "edgekit", *arguments], environment=environment)
        if "--int8" not in arguments:
            return done, None
        loading = run_watched([sys.executable, "-c", LOADING, output / GRAPH], environment=environment)
        return done, float(loading.stdout)
    finally:
        for folder in (cache, output):
            shutil.rmtree(folder, ignore_errors=True)
