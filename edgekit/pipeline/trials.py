"""Tries ways to type a model's graph, and judges each by what is left of the outputs on calibration inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np

from edgekit.config import TargetConfig
from edgekit.device.cpu import cpu
from edgekit.graph.evaluator import Evaluator
from edgekit.pipeline.calibrate import Calibration
from edgekit.pipeline.inputs import Inputs
from edgekit.pipeline.loaded_model import LoadedModel
from edgekit.pipeline.precision import TypedGraph, typed_graph
from edgekit.pipeline.reference import Reference
from edgekit.pipeline.selected_rows import noise_of_same_rows, with_noise_of_same_rows
from edgekit.progress import Progress
from edgekit.quantize.compare import OutputNoise, noise_of_outputs, worst_db
from edgekit.quantize.half.check import rounding_graph

__all__ = ["Trial", "Trials"]

Arrays: TypeAlias = "Mapping[str, np.ndarray]"


@dataclass(frozen=True, kw_only=True)
class Trials:
    """What a graph is made from and for, the same in each trial.

    Attributes:
        model: its float graph is typed; it is not modified.
        inputs: inputs to judge on.
        reference: the outputs of the original model for them; without outputs, nothing is judged.
        target: the engine's precision and backend.
        progress: receives stages and notes.
    """

    model: LoadedModel
    inputs: Inputs
    reference: Reference
    target: TargetConfig
    progress: Progress

    def tried(self, calibration: Calibration, count: int) -> Trial:
        """Types the graph, and runs it on the first ``count`` inputs, as its target rounds.

        Raises:
            GraphError: the graph cannot be typed in this precision.
            CalibrationError: a tensor has no range.
            UsageError: a pattern of ``keep_float`` matches no node.
        """
        typed = typed_graph(self.model, calibration, self.target, self.progress)
        if not count:
            return Trial(self, calibration, typed, ())
        with self.progress.stage("checking the noise"):
            evaluator = Evaluator(rounding_graph(typed.graph), threads=cpu().compute_threads)
            return Trial(self, calibration, typed, [evaluator.run(dict(feed)) for feed in self.inputs.feeds[:count]])

    def noise(self, outputs: Sequence[Arrays]) -> list[OutputNoise]:
        """Compares outputs for the first inputs with the reference: as they are, and in the parts that are judged.

        Parts show small scores beside large boxes, and logits small probabilities, which hide an error of large ones.
        Rows that are selected by value are compared as parts alone: their order may be another one.
        """
        expected, forms = self.reference.outputs[: len(outputs)], self.reference.forms
        selected = {name for name, form in forms.items() if form.selected}
        plain, found = (
            [{name: array for name, array in each.items() if name not in selected} for each in some]
            for some in (expected, outputs)
        )
        return [*noise_of_outputs(expected, outputs, forms), *noise_of_outputs(plain, found)]


@dataclass(frozen=True)
class Trial:
    """A typed graph, and what it keeps of the outputs.

    Attributes:
        trials: what it was made from and for.
        calibration: the ranges, and what stays in float.
        typed: the graph.
        outputs: its outputs for the first inputs.
    """

    trials: Trials
    calibration: Calibration
    typed: TypedGraph
    outputs: Sequence[Arrays]

    @cached_property
    def db(self) -> float:
        """The lowest signal-to-noise ratio of an output, or of a part of one; 200 if nothing is judged."""
        all_ = self.trials
        same = noise_of_same_rows(
            all_.model.graph, self.typed.graph, all_.inputs.feeds[: len(self.outputs)], all_.reference.forms
        )
        return worst_db(with_noise_of_same_rows(all_.noise(self.outputs), same))
