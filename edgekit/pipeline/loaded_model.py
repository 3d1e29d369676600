"""The value that loading a model returns, and the steps that all kinds of models share."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import msgspec
import onnx_ir as ir

from edgekit.arguments import argument, either
from edgekit.config import ModelConfig
from edgekit.data.input_statistics import InputStatistics
from edgekit.engine.bundle import manifest as bundle
from edgekit.errors import UsageError
from edgekit.graph.evaluator import Evaluator
from edgekit.graph.original import Original
from edgekit.graph.random_weights import has_random_weights
from edgekit.graph.sizes import MinMaxInputs, min_max_inputs, stats_at
from edgekit.graph.stats import GraphStats
from edgekit.progress import Progress
from edgekit.recipe.heads import outputs_of
from edgekit.recipe.preprocess import merged
from edgekit.recipe.schema import Postprocess, Preprocess, Quantize
from edgekit.specs import ShapeRange, TensorSpec

__all__ = ["LoadedModel", "checked_sizes", "fitting", "input_preprocess", "measured_stats"]

GRAY = "preprocess={'color': 'gray', 'mean': [0], 'std': [1]}"
GUESSED = (
    "input '{name}' is assumed to be an image: {color}, from 0 to {white}, stretched to fit. If the model was trained "
    "with other preprocessing, set it with {option}, such as {such}"
)


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """An optimized and checked graph, with the facts about its model that later stages need.

    Attributes:
        name: name of the bundle and its reports.
        graph: the float graph, or a quantized graph if ``quantized``.
        inputs: inputs of the graph.
        quantized: the model was already quantized when it was loaded.
        stats: parameters, multiply-accumulates and bytes of the graph.
        task: the recipe's task; ``tensor`` without a recipe.
        origin: the model's source, for the manifest.
        preprocess: how images become inputs; None if the model takes no images.
        postprocess: how outputs become detections.
        labels: names of classes.
        input_statistics: statistics of the inputs that the weights were trained on; None if they are unknown.
        expects: what the model's images look like, in words; empty if it takes any.
        policy: the recipe's INT8 policy; None without a recipe.
        num_values: exclusive upper bound of an input of integers, by input name, if it is known; for an ONNX file, the
            number of rows that it selects from.
        shapes: min, opt and max shapes of the inputs with dynamic dimensions.
        min_max: the min and max inputs, which numerical checks use besides the opt inputs.
        recognized: what the outputs of an ONNX file look like, with the evidence, and a line on the preprocessing;
            empty if nothing was recognized.
        export_error: largest relative difference between graph and module; None for ONNX files.
        original: the model as it came, for checks.
        evaluator: runs ``graph``, if ONNX Runtime has loaded it already.
    """

    name: str
    graph: ir.Model
    inputs: tuple[TensorSpec, ...]
    quantized: bool
    stats: GraphStats
    task: str
    origin: bundle.Source
    preprocess: Preprocess | None = None
    postprocess: Postprocess | None = None
    labels: tuple[str, ...] = ()
    input_statistics: InputStatistics | None = None
    expects: str = ""
    policy: Quantize | None = None
    num_values: Mapping[str, int] = field(default_factory=dict)
    shapes: Mapping[str, ShapeRange] = field(default_factory=dict)
    min_max: MinMaxInputs = MinMaxInputs()
    recognized: str = ""
    export_error: float | None = None
    original: Original
    evaluator: Evaluator | None = None

    @property
    def head_outputs(self) -> frozenset[str]:
        """Names of the outputs that the detector's head reads; empty if there is none."""
        return frozenset(outputs_of(self.postprocess.head)) if self.postprocess is not None else frozenset()

    @cached_property
    def trained(self) -> bool:
        """Whether the outputs mean something: as the recipe says, or else as the weights look."""
        weights = self.origin.weights
        return not has_random_weights(self.graph) if weights is None else weights.trained

    def close(self) -> None:
        """Frees the memory of what ran the model for checks; the graph stays."""
        self.original.close()
        if self.evaluator is not None:
            self.evaluator.close()


def checked_sizes(graph: ir.Model, shapes: Mapping[str, ShapeRange], progress: Progress) -> MinMaxInputs:
    """Returns the min and max inputs for numerical checks; notes those that are skipped."""
    found = min_max_inputs(graph, shapes) if shapes else MinMaxInputs()
    if found.skipped:
        text = "; ".join(map(str, found.skipped))
        progress.note(f"the largest inputs are too expensive for numerical checks: skipped {text}")
    return found


def measured_stats(graph: ir.Model, shapes: Mapping[str, ShapeRange], *, one_image: bool = False) -> GraphStats:
    """Returns the statistics of the graph at the sizes that it is measured at: opt, but a detector at batch size 1."""
    single = {name: (1, *shape.opt[1:]) for name, shape in shapes.items() if one_image and shape.min[0] == 1}
    return stats_at(graph, {name: shape.opt for name, shape in shapes.items()} | single)


def input_preprocess(config: ModelConfig, specs: Sequence[TensorSpec], progress: Progress) -> Preprocess | None:
    """Returns the preprocessing: the user's fields on top of a guess from the input's shape; None if there is none."""
    guess = _guessed(specs[0]) if len(specs) == 1 else None
    if config.preprocess is not None:
        if len(specs) != 1:
            names = ", ".join(spec.name for spec in specs)
            raise UsageError(f"{argument('preprocess')}: expected a model with one image input, got the inputs {names}")
        return fitting(merged(guess or Preprocess(), config.preprocess), specs[0])
    if guess is not None:
        color = "grey" if guess.color == "gray" else guess.color.upper()
        white, such = (255, "color=bgr") if specs[0].dtype == "uint8" else (1, "mean=… and std=…")
        name = specs[0].name
        progress.note(GUESSED.format(name=name, color=color, white=white, such=such, option=argument("preprocess")))
    return guess


def _guessed(spec: TensorSpec) -> Preprocess | None:
    """Guesses the preprocessing of an input of floats or bytes with four dimensions and 1 or 3 channels, or None."""
    rgb, gray = Preprocess(), Preprocess(color="gray", mean=(0.0,), std=(1.0,))
    for guess in (rgb, gray):
        with contextlib.suppress(UsageError):
            return fitting(guess, spec)
    return None


def fitting(preprocess: Preprocess, spec: TensorSpec) -> Preprocess:
    """Returns ``preprocess`` with the layout that fits the channels in the input's shape.

    An input of bytes gets pixels as they are: the divisor becomes 1.
    """
    places = {"nchw": (0, preprocess.channels, 0, 0), "nhwc": (0, 0, 0, preprocess.channels)}
    if spec.dtype == "uint8":
        preprocess = _as_pixels(preprocess, spec)
    if spec.dtype in ("float32", "uint8") and len(spec.shape) == 4:
        for layout in sorted(places, key=lambda layout: layout != preprocess.layout):
            if all(wanted in (0, size) for wanted, size in zip(places[layout], spec.shape, strict=True)):
                return msgspec.structs.replace(preprocess, layout=layout)
    channels = "1 channel" if preprocess.channels == 1 else f"{preprocess.channels} channels"
    raise UsageError(
        f"preprocessing with color={preprocess.color}: expected an input of float32 or uint8 with 4 dimensions and "
        f"{channels}, got {spec}",
        hint=f"for one channel: {either('--preprocess color=gray --preprocess mean=0 --preprocess std=1', GRAY)}"
        if preprocess.channels == 3
        else "",
    )


def _as_pixels(preprocess: Preprocess, spec: TensorSpec) -> Preprocess:
    if any(preprocess.mean) or any(number != 1 for number in preprocess.std):
        raise UsageError(
            f"input '{spec.name}': expected mean=0 and std=1, since it takes pixels of uint8 as they are, got "
            f"mean={list(preprocess.mean)} and std={list(preprocess.std)}",
            hint="the model normalizes pixels itself",
        )
    return msgspec.structs.replace(preprocess, divisor=1.0)
