from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from edgekit.graph.file import input_specs
from edgekit.graph.passes import optimize
from edgekit.quantize.calibrate.collect import (
    CalibrationTable,
    channels_from_statistics,
    collect_statistics,
    graph_digest,
    observed_tensors,
    ranges_from_statistics,
)

Feeds = list[dict[str, np.ndarray]]


@dataclass(frozen=True)
class ParsedLayer:
    """A layer of TensorRT's network: its type, its input and output element types, and its input layers."""

    name: str
    kind: str
    reads: list[str]
    gives: list[str]
    sources: list[ParsedLayer | None]


@pytest.fixture(scope="session")
def graph_of() -> Callable[..., ir.Model]:
    """An optimized graph of opset 20 from ONNX's own text format, with weights by name."""

    def build(text: str, **weights: np.ndarray) -> ir.Model:
        proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]>\n{text}')
        for name, array in weights.items():
            proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
        onnx.checker.check_model(proto)
        return optimize(ir.from_proto(proto))

    return build


@pytest.fixture(scope="session")
def weights() -> Callable[..., np.ndarray]:
    """Random weights of a shape, of a size that keeps activations near 1; the same for the same shape and seed."""

    def draw(*shape: int, seed: int = 0) -> np.ndarray:
        fan_in = np.prod(shape[1:]) if len(shape) != 2 else shape[0]
        return (np.random.default_rng(seed).standard_normal(shape) / np.sqrt(fan_in)).astype(np.float32)

    return draw


@pytest.fixture(scope="session")
def feeds_for() -> Callable[..., Feeds]:
    """Random inputs of a graph."""

    def draw(graph: ir.Model, count: int = 4) -> Feeds:
        def array(spec: Any, seed: int) -> np.ndarray:
            rng, shape = np.random.default_rng(seed), [int(size) for size in spec.shape]
            whole = np.dtype(spec.dtype).kind != "f"
            return (rng.integers(0, 2, shape) if whole else rng.standard_normal(shape)).astype(spec.dtype)

        return [{spec.name: array(spec, seed) for spec in input_specs(graph)} for seed in range(count)]

    return draw


@pytest.fixture(scope="session")
def calibrated() -> Callable[..., CalibrationTable]:
    """Calibrates a graph on some inputs; includes channel ranges for equalization."""

    def measure(graph: ir.Model, feeds: Feeds, method: str = "minmax", *, equalize: bool = False) -> CalibrationTable:
        named = [(f"input {i}", arrays) for i, arrays in enumerate(feeds)]
        collected = collect_statistics(graph, observed_tensors(graph), named, method=method, threads=1)
        return CalibrationTable(
            method=method,
            set="random",
            set_digest="random",
            graph_digest=graph_digest(graph),
            images=collected.inputs,
            ranges=ranges_from_statistics(collected.statistics, method),
            channels=channels_from_statistics(graph, collected.statistics) if equalize else {},
            typical={name: seen.typical for name, seen in collected.statistics.items()},
        )

    return measure


@pytest.fixture(scope="session")
def run_in_onnxruntime() -> Callable[[ir.Model | Path, Feeds], list[dict[str, np.ndarray]]]:
    """Computes outputs by name in ONNX Runtime with graph optimizations disabled."""

    def run(graph: ir.Model | Path, feeds: Feeds) -> list[dict[str, np.ndarray]]:
        source = ir.to_proto(graph).SerializeToString() if isinstance(graph, ir.Model) else str(graph)
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        return [dict(zip(names, session.run(names, arrays), strict=True)) for arrays in feeds]

    return run


@pytest.fixture(scope="session")
def sqnr_db() -> Callable[[Sequence[dict[str, np.ndarray]], Iterable[dict[str, np.ndarray]]], dict[str, float]]:
    """Computes the SNR of each output, over all inputs, in decibels."""

    def compare(exact: Sequence[dict[str, np.ndarray]], got: Iterable[dict[str, np.ndarray]]) -> dict[str, float]:
        got = list(got)
        ratios = {}
        for name in exact[0]:
            signal = np.concatenate([a[name].astype(np.float64).ravel() for a in exact])
            noise = np.concatenate([b[name].astype(np.float64).ravel() for b in got]) - signal
            ratios[name] = float(10 * np.log10(np.square(signal).sum() / max(np.square(noise).sum(), 1e-300)))
        return ratios

    return compare


@pytest.fixture(scope="session")
def parsed() -> Callable[[ir.Model], list[ParsedLayer]]:
    """The layers that TensorRT-RTX's own parser makes of a graph, strongly typed; none for constants."""
    trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")

    def parse(graph: ir.Model) -> list[ParsedLayer]:
        logger = trt.Logger(trt.Logger.ERROR)
        builder = trt.Builder(logger)
        network = builder.create_network(0)
        parser = trt.OnnxParser(network, logger)
        done = parser.parse(ir.to_proto(graph).SerializeToString())
        assert done, [parser.get_error(index).desc() for index in range(parser.num_errors)]
        made: dict[str, ParsedLayer] = {}
        for index in range(network.num_layers):
            layer = network.get_layer(index)
            read = [tensor for i in range(layer.num_inputs) if (tensor := layer.get_input(i)) is not None]
            given = [layer.get_output(i) for i in range(layer.num_outputs)]
            made |= dict.fromkeys(
                [tensor.name for tensor in given],
                ParsedLayer(
                    name=layer.name,
                    kind=layer.type.name,
                    reads=[tensor.dtype.name for tensor in read],
                    gives=[tensor.dtype.name for tensor in given],
                    sources=[made.get(tensor.name) for tensor in read],
                ),
            )
        return [layer for layer in made.values() if layer.kind != "CONSTANT"]

    return parse
