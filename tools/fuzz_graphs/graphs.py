"""Makes small valid ONNX graphs: operators, element types, opsets 7 to 24, ranks, shared and constant inputs."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["OPSETS", "GraphMaker", "Tensor"]

OPSETS = range(7, 25)
MAX_ELEMENTS = 4096
FLOATS = {TensorProto.FLOAT: np.float32, TensorProto.FLOAT16: np.float16, TensorProto.DOUBLE: np.float64}


@dataclass(frozen=True)
class Tensor:
    """A value of the graph.

    Attributes:
        name: its name.
        dtype: ONNX element type.
        shape: its sizes.
        exact: it consists of numbers of the inputs, which no rounding changes; operators with steps read only these.
    """

    name: str
    dtype: int
    shape: tuple[int, ...]
    exact: bool = False

    @property
    def rank(self) -> int:
        """Number of dimensions."""
        return len(self.shape)


@dataclass
class GraphMaker:
    """A graph in the making.

    Args:
        choose: source of all choices: the same source makes the same graph.
        opset: opset of the graph.
    """

    choose: random.Random
    opset: int
    dtype: int = TensorProto.FLOAT
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    inputs: list[Tensor] = field(default_factory=list)
    weights: dict[str, np.ndarray] = field(default_factory=dict)
    values: list[Tensor] = field(default_factory=list)
    _names: int = 0

    def name(self, prefix: str) -> str:
        """Returns an unused name."""
        self._names += 1
        return f"{prefix}{self._names}"

    def input(self, shape: Sequence[int]) -> Tensor:
        """Adds an input of the graph's element type."""
        tensor = Tensor(self.name("x"), self.dtype, tuple(shape), exact=True)
        self.inputs.append(tensor)
        self.values.append(tensor)
        return tensor

    def constant(self, array: Any, *, share: bool = False) -> str:
        """Adds an initializer or a Constant node, and returns its name; ``share`` may return an equally shaped one."""
        array = np.asarray(array)
        if share and self.choose.random() < 0.3:
            for name, other in self.weights.items():
                if other.shape == array.shape and other.dtype == array.dtype and array.dtype.kind == "f":
                    return name
        name = self.name("w")
        if self.choose.random() < 0.8:
            self.weights[name] = array
        else:
            self.nodes.append(helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array, name)))
        return name

    def weight(self, *shape: int, scale: float | None = None) -> str:
        """Adds normal random weights, by default of a size that keeps activations of that size."""
        generator = np.random.default_rng(self.choose.randrange(2**32))
        fan = int(np.prod(shape[1:])) if len(shape) > 1 else 1
        array = generator.standard_normal(shape) * (scale if scale is not None else (2 / max(fan, 1)) ** 0.5)
        return self.constant(array.astype(FLOATS[self.dtype]), share=True)

    def ints(self, *numbers: int) -> str:
        """Adds a constant of int64, shape ``(n,)``."""
        return self.constant(np.array(numbers, np.int64))

    def pick(self, *, rank: int | None = None, least_rank: int = 0, exact: bool = False) -> Tensor | None:
        """Returns one of the float values, later ones more often; None if none fits."""
        fitting = [
            value
            for value in self.values
            if value.dtype in FLOATS
            and (rank is None or value.rank == rank)
            and value.rank >= least_rank
            and (value.exact or not exact)
        ]
        if not fitting:
            return None
        return fitting[-1] if self.choose.random() < 0.6 else self.choose.choice(fitting)

    def add(
        self, operator: str, inputs: Sequence[str], *, outputs: int = 1, exact: bool = False, **attributes: Any
    ) -> list[Tensor] | None:
        """Adds a node if it is valid in this opset; returns its outputs, or None."""
        node = helper.make_node(operator, inputs, [self.name("v") for _ in range(outputs)], **attributes)
        node.name = self.name(f"{operator.lower()}_")
        types = self._inferred(node)
        if types is None:
            return None
        made = [Tensor(name, dtype, shape, exact) for name, (dtype, shape) in zip(node.output, types, strict=True)]
        # Shape inference gives a window that is larger than its image a negative number of positions.
        if any(np.prod(tensor.shape) > MAX_ELEMENTS or min(tensor.shape, default=1) < 1 for tensor in made):
            return None
        self.nodes.append(node)
        self.values += made
        return made

    def _inferred(self, node: onnx.NodeProto) -> list[tuple[int, tuple[int, ...]]] | None:
        """Types and shapes of the outputs, by ONNX's shape inference; None if it refuses the node."""
        graph = self.graph([node], list(node.output))
        try:
            model = onnx.shape_inference.infer_shapes(graph, check_type=True, strict_mode=True, data_prop=True)
            onnx.checker.check_model(model)
        except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError):
            return None
        found = []
        for value in model.graph.output:
            kind = value.type.tensor_type
            if not kind.elem_type or any(not dim.HasField("dim_value") for dim in kind.shape.dim):
                return None
            found.append((kind.elem_type, tuple(dim.dim_value for dim in kind.shape.dim)))
        return found

    def graph(self, also: Sequence[onnx.NodeProto], outputs: Sequence[str]) -> onnx.ModelProto:
        """Returns the graph with more nodes and these outputs."""
        known = {value.name: value for value in self.values}
        declared = [
            helper.make_tensor_value_info(name, known[name].dtype, known[name].shape)
            if name in known
            else helper.make_empty_tensor_value_info(name)
            for name in outputs
        ]
        made = helper.make_graph(
            [*self.nodes, *also],
            "fuzzed",
            [helper.make_tensor_value_info(value.name, value.dtype, value.shape) for value in self.inputs],
            declared,
            [numpy_helper.from_array(array, name) for name, array in self.weights.items()],
        )
        opsets = [helper.make_opsetid("", self.opset)]
        return helper.make_model(made, opset_imports=opsets, ir_version=8 if self.opset < 21 else 10)
