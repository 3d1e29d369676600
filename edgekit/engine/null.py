"""The backend ``null``: takes any graph and outputs zeros; used to test the code around engines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

import edgekit
from edgekit.engine.backend import BuildOptions, BuildResult
from edgekit.engine.base import BaseEngine
from edgekit.engine.layers import Layer, assert_precision, layer_counts
from edgekit.engine.source_graph import quantized_layers, read_graph
from edgekit.errors import EngineMismatch, GraphError
from edgekit.specs import Precision, QuantScheme, TensorSpec
from edgekit.text import json_value

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["Null"]

ENGINE = "engine.json"


class Specs(msgspec.Struct, frozen=True):
    """The contents of the engine file: inputs and outputs."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class Null:
    """A backend that needs nothing and computes nothing."""

    name = "null"
    precisions = frozenset({Precision.FP32, Precision.INT8})
    on_gpu = False
    computes = False
    rounds_to_fp8 = True

    def require(self) -> None:
        """See `Backend.require`."""

    def require_device(self, compute_capabilities: Sequence[str]) -> None:
        """See `Backend.require_device`; the CPU is always available."""

    def version(self) -> str:
        """Returns EdgeKit's own version."""
        return edgekit.__version__

    def scheme(self) -> QuantScheme:
        """Returns a scheme with Q/DQ pairs at the inputs of convolutions and matrix products."""
        from edgekit.graph.operators import PRODUCTS  # needs onnx_ir

        return QuantScheme(activation_dtype="int8", operators=PRODUCTS)

    def build(self, graph: Path, folder: Path, options: BuildOptions) -> BuildResult:
        """Writes the graph's inputs and outputs as JSON; see `Backend.build`."""
        from edgekit.graph.operators import INTEGER_PRODUCTS, PRODUCTS  # as above

        source = read_graph(graph)
        quantized = quantized_layers(source)
        layers = [
            Layer((node.name or "",), "int8" if node.name in quantized else "float32")
            for node in source.graph
            if node.op_type in PRODUCTS | INTEGER_PRODUCTS
        ]
        assert_precision(self.name, options.precision, quantized, layers)
        specs = Specs(
            inputs=tuple(_spec(value) for value in source.graph.inputs if not value.is_initializer()),
            outputs=tuple(_spec(value) for value in source.graph.outputs),
        )
        (folder / ENGINE).write_bytes(msgspec.json.encode(specs))
        return BuildResult(engine=ENGINE, files=(ENGINE,), layers=layer_counts(layers), backend_version=self.version())

    def load(self, engine: Path, *, threads: int = 0) -> Zeros:
        """See `Backend.load`."""
        try:
            return Zeros(json_value(engine.read_bytes(), type=Specs))
        except (OSError, msgspec.MsgspecError) as e:
            raise EngineMismatch(f"cannot load {engine}: {e}") from e


class Zeros(BaseEngine):
    """An `Engine` whose outputs are zeros; a dynamic size is that of the input with the same name, else 1."""

    notes: Sequence[str] = ()

    def __init__(self, specs: Specs) -> None:
        self.inputs = specs.inputs
        self.outputs = specs.outputs

    def _run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        sizes = {
            name: size for spec in self.inputs for name, size in zip(spec.shape, feeds[spec.name].shape, strict=True)
        }
        return {
            spec.name: np.zeros([d if isinstance(d, int) else sizes.get(d, 1) for d in spec.shape], spec.dtype)
            for spec in self.outputs
        }

    def _release(self) -> None:
        pass  # it has no resources


def _spec(value: ir.Value) -> TensorSpec:
    if value.shape is None or value.dtype is None:
        raise GraphError(f"'{value.name}' has no shape: expected a fixed number of dimensions")
    shape = tuple(
        size if isinstance(size, int) else size.value or f"{value.name}_{axis}" for axis, size in enumerate(value.shape)
    )
    return TensorSpec(value.name or "", str(value.dtype.numpy()), shape)
