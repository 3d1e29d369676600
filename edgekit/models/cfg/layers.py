"""Layers of a Darknet network as values: what each reads, its shape, and its parameters; and how a section becomes one.

Whatever does not close is found while these are made, before anything is allocated, and is named with its line.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from edgekit.errors import nearest
from edgekit.models.cfg.text import LARGEST, Section

__all__ = ["ACTIVATIONS", "HEADS", "Head", "Layer", "Network", "Reader", "Shape"]

PICTURE = -1
"""What the first layer reads."""

ACTIVATIONS = (
    "elu",
    "hardtan",
    "leaky",
    "linear",
    "logistic",
    "mish",
    "ramp",
    "relie",
    "relu",
    "selu",
    "swish",
    "tanh",
)

# Options that only training looks at.
TRAINING = frozenset(
    "angle bias_match burnin_update cls_normalizer coord_scale counters_per_class dontsave exposure flip focal_loss "
    "forced ignore_thresh iou_loss iou_normalizer iou_thresh jitter label_smooth_eps learning_rate log max max_delta "
    "noobject_scale object_scale class_scale mask_scale onlyforward probability random ratio rescore saturation "
    "shift stopbackward thresh truth_thresh absolute".split()
)


IDLE = ("cost", "dropout")
"""Layers that do nothing but in training."""

HEADS: dict[str, Literal["yolov1", "yolov2", "yolov3"]] = {
    "detection": "yolov1",
    "region": "yolov2",
    "yolo": "yolov3",
}


class Shape(NamedTuple):
    """Of one picture's numbers; full layers have one row and one column."""

    channels: int
    height: int
    width: int

    @property
    def numbers(self) -> int:
        """How many there are."""
        return self.channels * self.height * self.width

    def __str__(self) -> str:
        return f"{self.channels}x{self.height}x{self.width}"


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer.

    Attributes:
        section: what the file says of it.
        index: Darknet's number of it, from 0.
        sources: numbers of the layers that it reads; `PICTURE` is the picture.
        taken: shapes of those.
        shape: of what it gives.
        parameters: how many learned numbers it has.
        activation: one of `ACTIVATIONS`.
        filters: channels of a convolution, or numbers of a full layer.
        size: of a kernel.
        stride: of a kernel, or how often larger or smaller height and width become.
        padding: of a convolution on each side, of a max-pool in all.
        groups: of a convolution.
        norm: whether a batch normalization follows.
        adjust: whether a crop also moves numbers from 0..1 to -1..1.
        boxes: that a cell of a ``[detection]`` predicts.
    """

    section: Section
    index: int
    sources: tuple[int, ...]
    taken: tuple[Shape, ...]
    shape: Shape
    parameters: int = 0
    activation: str = "linear"
    filters: int = 0
    size: int = 0
    stride: int = 1
    padding: int = 0
    groups: int = 1
    norm: bool = False
    adjust: bool = False
    boxes: int = 0

    @property
    def kind(self) -> str:
        """The section's name."""
        return self.section.name


@dataclass(frozen=True, kw_only=True)
class Head:
    """One ``[yolo]``, ``[region]`` or ``[detection]``.

    Attributes:
        section: what the file says of it.
        output: number of the layer whose raw numbers it decodes.
        predicts: number of the layer that computes them.
        stride: px of the input that a cell covers.
        anchors: in px of the input; none for ``[detection]``.
        boxes: that a cell of a ``[detection]`` predicts.
        classes: how many there are.
    """

    section: Section
    output: int
    predicts: int
    stride: int
    anchors: tuple[tuple[float, float], ...]
    boxes: int
    classes: int


@dataclass
class Network:
    """All layers of a file.

    Attributes:
        file: where it stands.
        picture: shape of the input.
        layers: in Darknet's order.
        heads: in the order of the file; none for networks that are no detectors.
    """

    file: Path
    picture: Shape
    layers: list[Layer] = field(default_factory=list)
    heads: list[Head] = field(default_factory=list)

    @property
    def parameters(self) -> int:
        """How many learned numbers it has."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def kind(self) -> Literal["yolov1", "yolov2", "yolov3"] | None:
        """How its heads are decoded."""
        return HEADS[self.heads[0].section.name] if self.heads else None

    @property
    def classifies(self) -> bool:
        """Whether it ends in a softmax, which is left to whoever reads the logits before it."""
        return not self.heads and self._last.kind == "softmax" and self._last.index > 0

    def outputs(self) -> list[int]:
        """Numbers of the layers that the network gives out."""
        if self.heads:
            return [head.output for head in self.heads]
        return [self._last.index - 1 if self.classifies else self._last.index]

    def names(self) -> dict[int, str]:
        """A name for each layer: its section and number, or ``head`` and the stride of what it predicts."""
        names = {layer.index: f"{layer.kind}{layer.index}" for layer in self.layers}
        for head in self.heads:
            name = f"head{head.stride}"
            names[head.predicts] = f"{name}_{head.predicts}" if name in names.values() else name
        return names

    @property
    def _last(self) -> Layer:
        """The last layer that computes something."""
        return next((layer for layer in reversed(self.layers) if layer.kind not in IDLE), self.layers[0])


class Reader:
    """One section, the layers before it, and what readers of all kinds do with them."""

    def __init__(self, network: Network, section: Section) -> None:
        self.network, self.section = network, section
        self.index = len(network.layers)

    @property
    def before(self) -> Shape:
        """Shape of what the layer before gives.

        Raises:
            RecipeError: it is a head.
        """
        if not self.network.layers:
            return self.network.picture
        layer = self.network.layers[-1]
        if layer.kind in HEADS:
            raise self.section.error(f"expected a [route] after the [{layer.kind}] in line {layer.section.line}")
        return layer.shape

    def layer(
        self,
        shape: Shape,
        *,
        sources: tuple[int, ...] = (),
        parameters: int = 0,
        activation: str = "linear",
        **own: Any,
    ) -> Layer:
        """The layer.

        Args:
            shape: of what it gives.
            sources: numbers of the layers that it reads; the one before if empty.
            parameters: how many learned numbers it has.
            activation: one of `ACTIVATIONS`.
            **own: attributes of `Layer` that are its kind's own.

        Raises:
            RecipeError: it would give nothing, or more than any machine holds.
        """
        sources = sources or (self.index - 1,)
        if min(shape) < 1:
            raise self.section.error(f"nothing is left: {self.before} becomes {shape}")
        if shape.numbers > LARGEST:
            raise self.section.error(f"expected {LARGEST} numbers at most, got {shape}")
        taken = tuple(self.shape_of(source) for source in sources)
        return Layer(
            section=self.section,
            index=self.index,
            sources=sources,
            taken=taken,
            shape=shape,
            parameters=parameters,
            activation=activation,
            **own,
        )

    def shape_of(self, index: int) -> Shape:
        """Shape of what a layer gives."""
        return self.network.picture if index == PICTURE else self.network.layers[index].shape

    def place(self, key: str, written: int) -> int:
        """The number of a layer that an option names: from the first one on or, below zero, back from this one.

        Raises:
            RecipeError: there is no such layer before this one, or it is a head.
        """
        index = written if written >= 0 else self.index + written
        if not 0 <= index < self.index:
            raise self.section.error(
                f"expected a layer before this one, which is number {self.index}, got {written}", key
            )
        layer = self.network.layers[index]
        if layer.kind in HEADS:
            raise self.section.error(f"expected a layer of features, got the head in line {layer.section.line}", key)
        return index

    def options(self, *keys: str, only: dict[str, float] | None = None) -> None:
        """Checks that the section has no options but these, those of training, and those of which one value is taken.

        Raises:
            RecipeError: it has.
        """
        only = only or {}
        self.section.known({*keys, *only, *TRAINING})
        self.section.only(only)

    def activation(self, default: str) -> str:
        """The name of the layer's activation, one of `ACTIVATIONS`.

        Raises:
            RecipeError: there is no such.
        """
        name = self.section.text("activation", default)
        if name not in ACTIVATIONS:
            raise self.section.error(
                f"expected one of {', '.join(ACTIVATIONS)}, got '{name}'", "activation", hint=nearest(name, ACTIVATIONS)
            )
        return name

    def positive(self, key: str, default: int) -> int:
        """A whole number above zero.

        Raises:
            RecipeError: it is none.
        """
        return self.section.integer(key, default, least=1)
