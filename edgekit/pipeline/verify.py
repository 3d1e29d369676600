"""Verification: compares each stage of a build, from the graph to the engine, with the original model's outputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import onnx_ir as ir

from edgekit.arguments import argument, either
from edgekit.config import TargetConfig
from edgekit.device.cpu import cpu
from edgekit.engine.backend import backend, build_options_of
from edgekit.engine.bundle.manifest import Verification
from edgekit.errors import AccuracyError, GraphError
from edgekit.graph.evaluator import Evaluator
from edgekit.pipeline.amplification import Run, amplifies_rounding
from edgekit.pipeline.inputs import Inputs
from edgekit.pipeline.loaded_model import LoadedModel
from edgekit.pipeline.precision import TypedGraph
from edgekit.pipeline.reference import Reference
from edgekit.pipeline.selected_rows import noise_of_same_rows, with_noise_of_same_rows
from edgekit.pipeline.values import engine_values, graph_values
from edgekit.progress import Progress
from edgekit.quantize.compare import (
    LIMITS,
    LayerNoise,
    Limits,
    OutputNoise,
    noise_of_outputs,
    refuse_noise,
    worst_noise,
)
from edgekit.quantize.half.check import rounding_graph
from edgekit.quantize.layer_noise import first_collapse, layer_noise, nodes_on_integers, noisiest
from edgekit.specs import Precision, TensorSpec
from edgekit.text import shell_quoted

__all__ = ["Verifier"]

COMPARED_ON_CPU = 2
"""Number of inputs to compare graphs on in ONNX Runtime; engines are compared on all."""
MIN_MAX = Limits(6.0, 0.0, 6.0)
"""Limits of half precision on inputs that were resized to the min or max shapes: they are unlike the data that the
model was trained on, so the error varies. Overflows and wrong shapes cause larger errors."""
LEEWAY_DB = 10.0
"""How much lower INT8's ratio may be at the min or max shapes when it is near 0 dB at the opt shapes."""
QUANTIZED = Limits(20.0, 0.5, 20.0)
"""Limits of a model that came quantized: kernels may round to the integer next to the right one."""
OTHER_ROWS_DB = 3.0
"""Ratios of matched rows differ by this much between a graph and its engine, because each selects rows of its own."""
NAMED_LAYERS = 3

PARTS = "; the first value that differs is '{value}', of {op_type} '{node}'"

Arrays: TypeAlias = "Mapping[str, np.ndarray]"
Parting: TypeAlias = "Callable[[], str]"
Sets: TypeAlias = "Sequence[Sequence[Arrays]]"
"""Outputs or inputs: those of the opt shapes, then those of the min and max shapes."""


@dataclass(kw_only=True)
class Verifier:
    """Compares the stages of one build with the original model, and keeps what it finds.

    Attributes:
        model: the loaded model.
        inputs: the inputs to compare on.
        reference: the outputs of the original model for them.
        target: the engine's precision and backend.
        allow_noise: an output beyond its limit is a note, not an error.
        progress: receives stages and notes.
        found: the lowest signal-to-noise ratio of each stage in dB, at the opt shapes.
        agreement: the lowest share of equal integers or selected rows of each stage, at the opt shapes.
        noise: the outputs of the last stage, part by part.
    """

    model: LoadedModel
    inputs: Inputs
    reference: Reference
    target: TargetConfig
    progress: Progress
    allow_noise: bool = False
    found: dict[str, float] = field(default_factory=dict)
    agreement: dict[str, float] = field(default_factory=dict)
    noise: tuple[OutputNoise, ...] = ()

    def verify_graph(self) -> None:
        """Compares the optimized graph, in ONNX Runtime on the CPU, with the original model.

        Raises:
            AccuracyError: it differs by more than rounding; names the first node that does.
            GraphError: ONNX Runtime cannot run the graph, while the original runs.
        """
        with self.progress.stage("checking the graph against the original"):
            got = self._outputs(self.model.evaluator or _evaluator(self.model.graph))
        limits = QUANTIZED if self.model.quantized else LIMITS[Precision.FP32]
        original = self.model.original.run
        self._judge("optimized graph", got, limits, Precision.FP32, self._where_the_graph_parts, right=original)

    def verify_typed(self, typed: TypedGraph, *, measured: bool) -> None:
        """Compares the typed graph, in ONNX Runtime on the CPU, with the original model.

        Half precision is always compared here, INT8 only if its engine does not run on this machine.

        Args:
            typed: the graph of the engine.
            measured: whether the engine will be compared on this machine.

        Raises:
            AccuracyError: an output is beyond the limits of the precision; names the worst output.
        """
        precision = self.target.precision
        if typed.kept_in_float is None or (precision is Precision.INT8 and (measured or not self._on_gpu)):
            return
        name = f"{str(precision).upper()} graph"
        with self.progress.stage(f"checking the {name} on the CPU"):
            got = self._outputs(_evaluator(rounding_graph(typed.graph)))
        self._judge(name, got, LIMITS[precision], precision, _nowhere, typed)
        worst = worst_noise(self.noise)
        if worst is not None and not measured:
            self.progress.note(
                f"{str(precision).upper()} signal-to-noise ratio, computed on the CPU: {worst.sqnr_db:.1f} dB at "
                f"{worst.where}"
            )
        self._warn(typed, precision)

    def verify_engine(self, precision: Precision, outputs: Sets, typed: TypedGraph | None) -> None:
        """Compares the outputs of an engine with those of the original model.

        Args:
            precision: the engine's.
            outputs: its outputs for ``inputs.feeds``, and for each of ``inputs.min_max_feeds``.
            typed: its graph; None for the FP32 engine that an INT8 engine is compared with.

        Raises:
            AccuracyError: an output is beyond the limits of the precision; names the worst output.
        """
        if not backend(self.target.target).computes:
            return
        limits = QUANTIZED if self.model.quantized else LIMITS[precision]
        parting = self._where_the_engine_parts if precision is Precision.FP32 else _nowhere
        stage = f"{str(precision).upper()} engine for {self.target.target}"
        noisy = None if precision is Precision.FP32 else typed
        self._judge(stage, outputs, limits, precision, parting, noisy, right=self._in_graph)
        if typed is not None and not self.model.quantized:
            self._warn(typed, precision)

    def verification(self) -> Verification | None:
        """Returns what was found, for the manifest; None if nothing was compared."""
        if not self.found and not self.agreement:
            return None
        return Verification(
            reference=self.reference.name,
            inputs=len(self.reference.outputs),
            sqnr_db=dict(self.found),
            agreement=dict(self.agreement),
        )

    @property
    def _on_gpu(self) -> bool:
        return backend(self.target.target).on_gpu

    def _floor(self, precision: Precision) -> Limits:
        """Limits at the min and max shapes, given what the opt shapes have."""
        if precision is not Precision.INT8:
            return LIMITS[precision] if precision is Precision.FP32 else MIN_MAX
        worst = worst_noise(self.noise)
        usual_db = worst.sqnr_db if worst is not None and worst.sqnr_db is not None else 0.0
        return Limits(min(0.0, usual_db - LEEWAY_DB), 0.0, 0.0)

    def _outputs(self, evaluator: Evaluator) -> Sets:
        feeds = (self.inputs.feeds, *self.inputs.min_max_feeds)
        return [[_run(evaluator, feed) for feed in each[:COMPARED_ON_CPU]] for each in feeds]

    def _judge(
        self,
        stage: str,
        got: Sets,
        limits: Limits,
        precision: Precision,
        parting: Parting,
        typed: TypedGraph | None = None,
        right: Run | None = None,
    ) -> None:
        """Compares the outputs of a stage.

        Args:
            stage: its name, with an article in messages.
            got: its outputs.
            limits: its limits at the opt shapes.
            precision: its precision.
            parting: finds the first node that parts from the original; called only to explain an error.
            typed: the graph of the stage, if it has noise.
            right: computes the outputs that a float stage should have; called only if it has others.
        """
        if not self.reference.outputs:
            return
        expected = (self.reference.outputs, *self.reference.min_max_outputs)
        sizes: Iterable[Sequence[TensorSpec]] = ((), *self.model.min_max.sizes)
        for specs, wanted, outputs in zip(sizes, expected, got, strict=False):
            noise = noise_of_outputs(wanted[: len(outputs)], outputs, self.reference.forms)
            if not specs:
                noise = noise if typed is None else self._with_noise_of_same_rows(noise, typed)
                self._keep(stage, noise)
            given = f" given {'; '.join(map(str, specs))}" if specs else ""
            floor = self._floor(precision) if specs else limits
            self._refuse(noise, floor, f"the {stage}{given}", precision, parting, right)
            worst = worst_noise(noise)
            if specs and worst is not None and (worst.sqnr_db or 0.0) < 0:
                self.progress.note(
                    f"the {stage}{given}: {worst.sqnr_db:.1f} dB at {worst.where}, which is lost in noise"
                )

    def _with_noise_of_same_rows(self, noise: tuple[OutputNoise, ...], typed: TypedGraph) -> tuple[OutputNoise, ...]:
        """Judges rows that are selected by value by their numbers: those of the typed graph for the reference's rows.

        An engine selects rows of its own. If it keeps less than its graph does when rows are matched, the difference
        is subtracted: kernels are wrong.
        """
        feeds, forms = self.inputs.feeds[:COMPARED_ON_CPU], self.reference.forms
        same = noise_of_same_rows(self.model.graph, typed.graph, feeds, forms)
        if not same:
            return noise
        outputs = self._outputs(_evaluator(rounding_graph(typed.graph)))
        own = noise_of_outputs(self.reference.outputs[: len(feeds)], outputs[0], forms)
        engine, of_graph = (worst_noise(e for e in each if forms[e.output].selected) for each in (noise, own))
        lost_db = 0.0 if engine is None or of_graph is None else (of_graph.sqnr_db or 0.0) - (engine.sqnr_db or 0.0)
        return with_noise_of_same_rows(noise, same, beyond_db=lost_db if lost_db > OTHER_ROWS_DB else 0.0)

    def _keep(self, stage: str, noise: tuple[OutputNoise, ...]) -> None:
        self.noise = noise
        worst = worst_noise(noise)
        if worst is not None and worst.sqnr_db is not None:
            self.found[stage] = round(worst.sqnr_db, 1)
        if shares := [each.agreement for each in noise if each.agreement is not None]:
            self.agreement[stage] = round(min(shares), 4)

    def _refuse(
        self,
        noise: Sequence[OutputNoise],
        limits: Limits,
        what: str,
        precision: Precision,
        parting: Parting,
        right: Run | None,
    ) -> None:
        feeds = self.inputs.feeds[:COMPARED_ON_CPU]
        hint = _hint(precision, quantized=self.model.quantized)
        try:
            refuse_noise(noise, limits, what=what, reference=self.reference.name, hint=hint)
        except AccuracyError as e:
            if self.allow_noise:
                self.progress.note(e.message)
            elif precision is not Precision.FP32 and not self.model.trained and not any(each.shapes for each in noise):
                # Outputs of random weights mean nothing, so quantization cannot spoil them, but for their shapes.
                self.progress.note(f"{e.message}; this is no error because the weights are random")
            elif (
                precision is Precision.FP32
                and right is not None
                and amplifies_rounding(right, feeds, self.reference.forms, noise, limits)
            ):
                self.progress.note(
                    f"{e.message}; this is no error because the model keeps no more of its own outputs when its inputs "
                    f"change by the rounding of float32. Inputs of your own task ({argument('calib', like='DIR')}) may "
                    "show more"
                )
            else:
                raise AccuracyError(e.message + parting(), hint=e.hint) from e

    def _in_graph(self, feeds: Sequence[Arrays]) -> Sequence[Arrays]:
        evaluator = _evaluator(self.model.graph)
        return [_run(evaluator, feed) for feed in feeds]

    def _where_the_graph_parts(self) -> str:
        """Names the first value of the optimized graph that differs from the original; empty if none of both does."""
        feed, graph = self.inputs.feeds[0], self.model.graph
        inside = self.model.original.inside(feed)
        common = [value.name for node in graph.graph for value in node.outputs if value.name in inside]
        own = Evaluator(graph, also=[name for name in common if name]).run(dict(feed))
        for node in graph.graph:
            for value in node.outputs:
                name = value.name or ""
                if name not in inside or name not in own:
                    continue
                worst = worst_noise(noise_of_outputs([{name: inside[name]}], [{name: own[name]}]))
                if worst is not None and (worst.sqnr_db or 0.0) < LIMITS[Precision.FP32].refused_db:
                    return PARTS.format(value=name, op_type=node.op_type, node=node.name)
        return ""

    def _where_the_engine_parts(self) -> str:
        """Names the first node whose value in the FP32 engine differs from that in the graph."""
        graph, feeds = self.model.graph, self.inputs.feeds[:1]
        options = build_options_of(dataclasses.replace(self.target, precision=Precision.FP32), self.model.shapes)
        with self.progress.stage("looking for the node that differs"):
            values = engine_values(graph, self.target.target, options, feeds)
            layers = layer_noise(graph.graph, graph.graph, graph_values(graph, feeds), values)
        found = first_collapse(layers, LIMITS[Precision.FP32].refused_db)
        return PARTS.format(value=found.value, op_type=found.op_type, node=found.node) if found else ""

    def _warn(self, typed: TypedGraph, precision: Precision) -> None:
        """Notes an output that is close to its limit, with the layers that most of the noise comes from."""
        self._warn_of_integers(precision)
        worst = worst_noise(self.noise)
        limit_db = LIMITS[precision].warned_db
        if worst is None or worst.sqnr_db is None or worst.sqnr_db >= limit_db:
            return
        kept = f"{str(precision).upper()} keeps {worst.sqnr_db:.1f} dB of output {worst.where}"
        if not self.model.trained:
            # That the weights of a module or a recipe are random has a note of its own.
            if self.model.origin.kind == "onnx" and worst.sqnr_db >= LIMITS[precision].refused_db:
                self.progress.note(
                    f"{kept}. The weights look like random numbers, so this says nothing about a trained model"
                )
            return
        text = f"{kept}, and less than {limit_db:.0f} dB is usually visible in the results"
        layers = noisiest(self._layers(typed.graph), NAMED_LAYERS)
        if layers:
            names = [each.node for each in layers]
            options = " ".join(f"--keep-float {shell_quoted(name)}" for name in names)
            text += f". Most of the noise comes from {', '.join(names)}: try {either(options, f'keep_float={names}')}"
        self.progress.note(text)

    def _warn_of_integers(self, precision: Precision) -> None:
        """Notes the output of integers, such as classes or places, of which fewest are as in the original."""
        forms = self.reference.forms
        integers = [each for each in self.noise if each.sqnr_db is None and not forms[each.output].selected]
        shares = [(each.agreement, each) for each in integers if each.agreement is not None]
        share, worst = min(shares, key=lambda each: each[0], default=(1.0, None))
        if worst is None or share >= LIMITS[precision].warned_agreement:
            return
        if not self.model.trained and self.model.origin.kind != "onnx":
            return  # that the weights of a module or a recipe are random has a note of its own
        name = str(precision).upper()
        text = f"{name} keeps {100 * share:.0f} % of the integers of output {worst.where}: close scores exchange them"
        if self.model.trained:
            keep, calib = argument("keep_float", like="PATTERN"), argument("calib", like="DIR")
            text += f". Calibrate on inputs of your own task ({calib}), or keep sensitive layers in float ({keep})"
        else:
            text += ". The weights look like random numbers, so this says nothing about a trained model"
        self.progress.note(text)

    def _layers(self, typed: ir.Model) -> list[LayerNoise]:
        feeds = self.inputs.feeds[:1]
        wide = rounding_graph(typed)
        return layer_noise(
            self.model.graph.graph,
            wide.graph,
            graph_values(self.model.graph, feeds),
            graph_values(wide, feeds),
            integers=nodes_on_integers(typed.graph),
            scaled=True,
        )


def _nowhere() -> str:
    return ""


def _hint(precision: Precision, *, quantized: bool) -> str:
    keep = argument("keep_float", like="PATTERN")
    if precision is not Precision.FP32 and quantized:
        return (
            "the file came quantized, so its ranges and its float layers stay as they are: compare on inputs of your "
            f"own task ({argument('calib', like='DIR')}), or build the float model that it was made from"
        )
    if precision is Precision.INT8:
        return (
            f"calibrate on inputs of your own task ({argument('calib', like='DIR')}), try another "
            f"{argument('calib_method')}, or keep sensitive layers in float ({keep})"
        )
    if precision is Precision.FP32:
        command = either("`edgekit debug`", "edgekit.debug")
        return (
            f"please report it, with the smallest graph that differs, which {command} saves, or use "
            f"{argument('allow_noise', True)}"
        )
    return f"keep the layers before it in float ({keep}), or build it with {argument('precision', 'fp32')}"


def _evaluator(graph: ir.Model) -> Evaluator:
    return Evaluator(graph, threads=cpu().compute_threads, packed=False)


def _run(evaluator: Evaluator, feed: Arrays) -> dict[str, np.ndarray]:
    try:
        return evaluator.run(dict(feed))
    except GraphError as e:
        sizes = "; ".join(f"{name}: {array.dtype} {array.shape}" for name, array in feed.items())
        options = f"{argument('input')} or {argument('shape')}"
        hint = f"the inputs were {sizes}; if these sizes are wrong, set others with {options}"
        raise GraphError(e.message, hint=hint) from e
