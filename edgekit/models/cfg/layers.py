"""Layers of a Darknet network as data: inputs, shape and parameters; and the reader that creates them from sections.

Invalid values and shapes are found here, before any allocation; error messages name the line.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from edgekit.errors import nearest
from edgekit.models.cfg.text import LARGEST, Section

__all__ = [
    "ACTIVATIONS",
    "HEADS",
    "NET",
    "NET_ONLY",
    "NET_TRAINING",
    "TRAINING",
    "Head",
    "Layer",
    "Network",
    "Reader",
    "Shape",
]

IMAGE = -1
"""Index of the input image, which the first layer reads."""

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

# Options that only affect training.
TRAINING = frozenset(
    "angle bias_match burnin_update cls_normalizer coord_scale counters_per_class dontsave exposure flip focal_loss "
    "forced ignore_thresh iou_loss iou_normalizer iou_thresh jitter label_smooth_eps learning_rate log max max_delta "
    "noobject_scale object_scale class_scale mask_scale onlyforward probability random ratio rescore saturation "
    "shift stopbackward thresh truth_thresh absolute objectness_smooth obj_normalizer uc_normalizer delta_normalizer "
    "resize show_details map".split()
)

# Options of [net], as in parse_net_options of Darknet and of its fork by AlexeyAB.
NET = frozenset({"width", "height", "channels", "inputs", "letter_box"})
NET_ONLY = {"time_steps": 1.0, "attention": 0.0}
NET_TRAINING = frozenset(
    "B1 B2 adam adversarial_lr angle aspect augment_speed badlabels_rejection_percentage batch blur burn_in center "
    "clip contrastive contrastive_color contrastive_jit_flip cutmix decay dynamic_minibatch ema_alpha eps "
    "equidistant_point exposure flip gamma gaussian_noise hue label_smooth_eps learning_rate learning_rate_min "
    "loss_scale max_batches max_chart_loss max_crop max_ratio min_crop min_ratio mixup momentum mosaic mosaic_bound "
    "notruth num_sigmas_reject_badlabels optimized_memory policy power random resize_step saturation scale scales "
    "seq_scales sequential_subdivisions sgdr_cycle sgdr_mult show_receptive_field step steps subdivisions track "
    "try_fix_nan unsupervised use_cuda_graph weights_reject_freq workspace_size_limit_MB".split()
)

DIOU_BETA = 0.6
"""Exponent of DIoU suppression where ``beta_nms`` is not set, as in AlexeyAB's fork."""

IDLE = ("cost", "dropout")
"""Layers that have no effect outside of training."""

HEADS: dict[str, Literal["yolov1", "yolov2", "yolov3"]] = {
    "detection": "yolov1",
    "region": "yolov2",
    "yolo": "yolov3",
}


class Shape(NamedTuple):
    """Shape of the features of one image; fully connected layers have one row and one column."""

    channels: int
    height: int
    width: int

    @property
    def numbers(self) -> int:
        """Number of elements."""
        return self.channels * self.height * self.width

    def __str__(self) -> str:
        return f"{self.channels}x{self.height}x{self.width}"


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer.

    Attributes:
        section: the section in the file.
        index: Darknet's layer number, from 0.
        sources: indices of its input layers; `IMAGE` for the input image.
        source_shapes: shapes of its inputs.
        shape: shape of its output.
        parameters: number of parameters.
        activation: one of `ACTIVATIONS`.
        filters: output channels of a convolution, or outputs of a fully connected layer.
        size: kernel size.
        stride: stride of a kernel, or the factor by which height and width change.
        padding: padding of a convolution per side, or of a max-pool in total.
        groups: groups of a convolution; or the number of parts that a ``[route]`` splits channels into.
        norm: whether batch normalization follows.
        adjust: whether a crop also maps values from 0..1 to -1..1.
        boxes: boxes per cell of a ``[detection]``.
        group: the part of each input's channels that a ``[route]`` takes, of ``groups`` equal ones.
    """

    section: Section
    index: int
    sources: tuple[int, ...]
    source_shapes: tuple[Shape, ...]
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
    group: int = 0

    @property
    def kind(self) -> str:
        """The section's name."""
        return self.section.name


@dataclass(frozen=True, kw_only=True)
class Head:
    """One detection head: ``[yolo]``, ``[region]`` or ``[detection]``.

    Attributes:
        section: the section in the file.
        output: index of the layer whose raw output it decodes.
        predicts: index of the layer that computes the predictions.
        stride: side of a cell in input px.
        anchors: anchors in input px; none for ``[detection]``.
        boxes: boxes per cell of a ``[detection]``.
        classes: number of classes.
        scale_xy: factor of the offsets of a ``[yolo]``, around the middle of the cell.
        new_coords: the values of a ``[yolo]`` are used without a sigmoid, and sides are squares.
    """

    section: Section
    output: int
    predicts: int
    stride: int
    anchors: tuple[tuple[float, float], ...]
    boxes: int
    classes: int
    scale_xy: float = 1.0
    new_coords: bool = False


@dataclass
class Network:
    """All layers of a file.

    Attributes:
        file: the cfg file.
        image: shape of the input.
        letter_box: whether images keep their aspect ratio; None if the file does not say.
        layers: layers in Darknet's order.
        heads: detection heads in file order; empty if the network is not a detector.
    """

    file: Path
    image: Shape
    letter_box: bool | None = None
    layers: list[Layer] = field(default_factory=list)
    heads: list[Head] = field(default_factory=list)

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def kind(self) -> Literal["yolov1", "yolov2", "yolov3"] | None:
        """Decoding of its heads."""
        return HEADS[self.heads[0].section.name] if self.heads else None

    @property
    def diou_beta(self) -> float:
        """Exponent of the distance term of DIoU suppression; 0 if boxes are suppressed by IoU.

        Darknet takes it from the last head.
        """
        if not self.heads or self.heads[-1].section.text("nms_kind", "") != "diounms":
            return 0.0
        return (self.heads[-1].section.numbers("beta_nms") or [DIOU_BETA])[0]

    @property
    def keeps_aspect(self) -> bool:
        """Whether images of a detector keep their aspect ratio, as its own version of Darknet resizes them.

        The first version does with ``[yolo]`` and ``[region]``, and so does AlexeyAB's fork with ``letter_box=1``.
        """
        if self.letter_box is not None:
            return self.letter_box
        of_fork = any({"scale_x_y", "new_coords"} & head.section.options.keys() for head in self.heads)
        return self.kind != "yolov1" and not of_fork

    @property
    def classifies(self) -> bool:
        """Whether it ends in a softmax, which is omitted, so that the outputs are logits."""
        return not self.heads and self._last.kind == "softmax" and self._last.index > 0

    def outputs(self) -> list[int]:
        """Returns the indices of the output layers."""
        if self.heads:
            return [head.output for head in self.heads]
        return [self._last.index - 1 if self.classifies else self._last.index]

    def names(self) -> dict[int, str]:
        """Returns a name for each layer: its section and index, or ``head`` and the stride for prediction layers."""
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
    """Creates a layer from one section and the layers before it; shared code of all section parsers."""

    def __init__(self, network: Network, section: Section) -> None:
        self.network, self.section = network, section
        self.index = len(network.layers)

    @property
    def before(self) -> Shape:
        """Output shape of the previous layer.

        Raises:
            RecipeError: the previous layer is a head.
        """
        if not self.network.layers:
            return self.network.image
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
        """Creates the layer.

        Args:
            shape: shape of its output.
            sources: indices of its input layers; default: the previous layer.
            parameters: number of parameters.
            activation: one of `ACTIVATIONS`.
            **own: other attributes of `Layer`.

        Raises:
            RecipeError: the output is empty or too large.
        """
        sources = sources or (self.index - 1,)
        if min(shape) < 1:
            raise self.section.error(f"expected a non-empty output, got {shape} from {self.before}")
        if shape.numbers > LARGEST:
            raise self.section.error(f"expected at most {LARGEST} values, got {shape}")
        source_shapes = tuple(self.shape_of(source) for source in sources)
        return Layer(
            section=self.section,
            index=self.index,
            sources=sources,
            source_shapes=source_shapes,
            shape=shape,
            parameters=parameters,
            activation=activation,
            **own,
        )

    def shape_of(self, index: int) -> Shape:
        """Returns the output shape of a layer, or of the input image."""
        return self.network.image if index == IMAGE else self.network.layers[index].shape

    def resolve(self, key: str, number: int) -> int:
        """Resolves a layer number in an option: absolute, or relative to this layer if negative.

        Raises:
            RecipeError: no earlier layer has this number, or it is a head.
        """
        index = number if number >= 0 else self.index + number
        if not 0 <= index < self.index:
            raise self.section.error(f"expected a layer before this one, number {self.index}, got {number}", key)
        layer = self.network.layers[index]
        if layer.kind in HEADS:
            raise self.section.error(f"expected a feature layer, got the head in line {layer.section.line}", key)
        return index

    def options(self, *keys: str, only: dict[str, float] | None = None) -> None:
        """Checks that the section has only these options, training options, and ``only`` options with their value.

        Raises:
            RecipeError: an option is unknown, or has an unsupported value.
        """
        only = only or {}
        self.section.known({*keys, *only, *TRAINING})
        self.section.only(only)

    def activation(self, default: str) -> str:
        """Returns the name of the layer's activation, one of `ACTIVATIONS`.

        Raises:
            RecipeError: the activation is unknown.
        """
        name = self.section.text("activation", default)
        if name not in ACTIVATIONS:
            raise self.section.error(
                f"expected one of {', '.join(ACTIVATIONS)}, got '{name}'", "activation", hint=nearest(name, ACTIVATIONS)
            )
        return name

    def positive(self, key: str, default: int) -> int:
        """Returns an option that is an integer above 0.

        Raises:
            RecipeError: the value is not.
        """
        return self.section.integer(key, default, minimum=1)
