"""Makes one graph, with its inputs, from a source of choices."""

from __future__ import annotations

import random
from typing import NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper

from tools.fuzz_graphs.graphs import FLOATS, OPSETS, GraphMaker
from tools.fuzz_graphs.operators import ADDERS

__all__ = ["Case", "case_from_choices"]

MAX_NODES = 8
SHAPES = ((1, 3, 8, 8), (2, 4, 6, 5), (1, 8, 7), (4, 16), (3, 5, 8), (1, 2, 4, 4, 4), (6,), (2, 8))


class Case(NamedTuple):
    """A valid graph and inputs for it.

    Attributes:
        model: the graph.
        feeds: arrays by name, several for calibration and comparison.
        batch: name of the dynamic dimension that comes first in each input; empty if all are fixed.
    """

    model: onnx.ModelProto
    feeds: list[dict[str, np.ndarray]]
    batch: str = ""


def case_from_choices(choose: random.Random) -> Case:
    """Makes a graph of up to 8 operators; the same choices make the same graph."""
    made = GraphMaker(choose, choose.choice(OPSETS))
    kinds = [TensorProto.FLOAT] * 8 + [TensorProto.FLOAT16, TensorProto.DOUBLE]
    made.dtype = choose.choice(kinds)
    shape = choose.choice(SHAPES)
    for _ in range(choose.choice([1, 1, 2])):
        made.input(shape)
    adders, frequencies = list(ADDERS), list(ADDERS.values())
    wanted = choose.randint(1, MAX_NODES)
    for _ in range(4 * wanted):
        if len(made.nodes) >= wanted:
            break
        choose.choices(adders, frequencies)[0](made)
    if not made.nodes or len(made.values) == len(made.inputs):
        made.add("Relu", [made.values[0].name])
    read = {name for node in made.nodes for name in node.input}
    ends = [value.name for value in made.values[len(made.inputs) :] if value.name not in read]
    inner = [value.name for value in made.values[len(made.inputs) :] if value.name in read]
    if inner and choose.random() < 0.2:
        ends.append(choose.choice(inner))
    model = made.graph([], ends)
    generator = np.random.default_rng(choose.randrange(2**32))
    feeds = [
        {value.name: generator.standard_normal(value.shape).astype(FLOATS[value.dtype]) for value in made.inputs}
        for _ in range(3)
    ]
    if choose.random() < 0.25:
        return Case(_with_open_batch(model), feeds, "batch")
    return Case(model, feeds)


def _with_open_batch(model: onnx.ModelProto) -> onnx.ModelProto:
    """Makes the first dimension of inputs dynamic, and declares no shapes of outputs."""
    opened = onnx.ModelProto()
    opened.CopyFrom(model)
    for value in opened.graph.input:
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    for index, value in enumerate(opened.graph.output):
        opened.graph.output[index].CopyFrom(
            helper.make_tensor_value_info(value.name, value.type.tensor_type.elem_type, None)
        )
    return opened
