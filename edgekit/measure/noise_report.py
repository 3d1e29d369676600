"""The result of comparing a model layer by layer."""

from __future__ import annotations

from typing import Literal

import msgspec

from edgekit.quantize.compare import LayerNoise
from edgekit.specs import Precision

__all__ = ["NoiseReport", "SmallestGraph"]


class SmallestGraph(msgspec.Struct, frozen=True, kw_only=True):
    """The smallest part of a graph that gives wrong numbers by itself; if none does, all layers up to the lost one.

    Attributes:
        nodes: names of its nodes.
        inputs: names of its inputs.
        output: name of its output.
        sqnr_db: signal-to-noise ratio of the output for the inputs; at the limit of the report or above it if no part
            gives wrong numbers by itself.
        folder: where ``model.onnx``, ``inputs.npz`` and ``expected.npz`` were saved; empty if they were not.
    """

    nodes: tuple[str, ...]
    inputs: tuple[str, ...]
    output: str
    sqnr_db: float
    folder: str = ""


class NoiseReport(msgspec.Struct, frozen=True, kw_only=True):
    """The noise of each layer.

    Attributes:
        name: the model's name.
        target: name of the backend.
        precision: the precision of what was compared.
        reference: what computed the right values.
        compared: ``engine``, or ``graph``: the typed graph in ONNX Runtime.
        limit_db: below this ratio, a layer counts as lost.
        outputs_db: ratio of each stage's worst output against the original model.
        layers: the layers in order.
        first: the first layer that is below the limit while its inputs are not; None if there is none.
        smallest: the smallest graph that fails by itself; None if no layer fails.
        notes: remarks, such as why no engine was compared.
    """

    name: str
    target: str
    precision: Precision
    reference: str
    compared: Literal["engine", "graph"]
    limit_db: float
    outputs_db: dict[str, float]
    layers: tuple[LayerNoise, ...]
    first: LayerNoise | None = None
    smallest: SmallestGraph | None = None
    notes: tuple[str, ...] = ()
