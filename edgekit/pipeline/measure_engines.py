"""Measures the engine that was built beside FP32, compares both with the original model, and writes the report."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from edgekit.arguments import argument
from edgekit.config import OutputConfig
from edgekit.engine.backend import backend
from edgekit.engine.bundle.manifest import Manifest
from edgekit.errors import BackendUnavailable, EngineMismatch, SpeedError
from edgekit.measure.agreement import Accuracy, agreement_of_outputs, compared_pictures
from edgekit.measure.compare import BuiltEngine, MeasuredEngine, measured_engine
from edgekit.measure.slower_layers import RelativeSpeed
from edgekit.measure.speed import relative_speed
from edgekit.progress import Progress
from edgekit.report.html.build import write_build_report
from edgekit.specs import Precision

if TYPE_CHECKING:
    from edgekit.pipeline.choose_activations import Chosen
    from edgekit.pipeline.precision import TypedGraph
    from edgekit.pipeline.verify import Verifier

__all__ = ["is_for_here", "measure_engines", "require_two_engines"]

CLEARLY_FASTER = 1.1
"""Both engines are measured one after the other first; what changes on the machine meanwhile is less than this."""
PICTURES = 4
"""Number of pictures in the report, with the detections of the original model and of the engine."""


def is_for_here(manifest: Manifest, progress: Progress) -> bool:
    """Whether the engine runs on this GPU; notes the reason if it was built for another."""
    try:
        backend(manifest.backend).require_device(manifest.compute_capabilities)
    except EngineMismatch as e:
        progress.note(f"the engine was not measured: {e.message}")
        return False
    return True


def require_two_engines(engines: Sequence[BuiltEngine], *, here: bool) -> None:
    """Raises an error unless the engine can be measured beside FP32.

    Args:
        engines: the FP32 engine, if there is one, and the engine.
        here: whether engines are measured on this machine.

    Raises:
        BackendUnavailable: it cannot.
    """
    if here and len(engines) > 1:
        return
    raise BackendUnavailable(
        f"{argument('require_faster', True)}: expected an engine that is measured beside FP32, got "
        + ("a model that is already quantized" if here else "one that cannot run on this machine"),
        hint=f"leave out {argument('require_faster', True)}",
    )


def measure_engines(
    engines: Sequence[BuiltEngine], chosen: Chosen, verifier: Verifier, output: OutputConfig, *, started: float
) -> None:
    """Compares the engines with the original model; measures them and writes the report, unless the config says not to.

    Args:
        engines: the FP32 engine, if there is one, and the engine.
        chosen: the engine, and what it was built from.
        verifier: compares outputs, and keeps what it finds.
        output: whether the engine is measured.
        started: when the build started, by `time.perf_counter`.

    Raises:
        AccuracyError: an output is beyond the limits of the precision.
        SpeedError: the engine has to be faster than FP32, and is not.
    """
    measured = _verified(engines, chosen.typed, verifier, latency=output.profile)
    if not output.profile:
        return
    facts = _facts(chosen, verifier) | {"build_s": time.perf_counter() - started}
    manifest = chosen.engine.manifest
    if manifest.activations is not None:
        facts |= {"activations": str(manifest.activations)}
    speed = _compared_speed(engines, measured, verifier, output)
    _write_report(chosen.engine, measured, facts, verifier, speed)


def _verified(
    engines: Sequence[BuiltEngine], typed: TypedGraph, verifier: Verifier, *, latency: bool
) -> list[MeasuredEngine]:
    """Runs the engines one after the other, and compares each with the original model."""
    inputs = (verifier.inputs.feeds, *verifier.inputs.min_max_feeds)
    measured = []
    for built in engines:
        found = measured_engine(
            built, inputs, latency=latency, threads=verifier.target.threads, progress=verifier.progress
        )
        verifier.verify_engine(found.precision, found.outputs, typed if built is engines[-1] else None)
        measured.append(found)
    return measured


def _compared_speed(
    engines: Sequence[BuiltEngine], measured: Sequence[MeasuredEngine], verifier: Verifier, output: OutputConfig
) -> RelativeSpeed | None:
    """Measures the engine and its FP32 reference by turns, unless the engine is clearly faster.

    Raises:
        SpeedError: the engine has to be faster, and is not.
    """
    medians_ms = [each.report.latency_ms.p50 for each in measured if each.report is not None]
    if len(medians_ms) < 2 or (medians_ms[0] > CLEARLY_FASTER * medians_ms[-1] and not output.require_faster):
        return None
    speed = relative_speed(
        engines[-1],
        engines[0],
        verifier.inputs.feeds[0],
        threads=verifier.target.threads,
        progress=verifier.progress,
    )
    if output.require_faster and speed.ratio.value >= 1:
        raise SpeedError(
            f"expected an engine that is faster than {speed.reference.upper()}, got one that is not: {speed}",
            hint=f"leave out {argument('require_faster', True)}, or build it with {argument('precision', 'fp32')}",
        )
    if speed.is_slower:
        verifier.progress.note(str(speed))
    return speed


def _write_report(
    engine: BuiltEngine,
    measured: Sequence[MeasuredEngine],
    facts: dict[str, Any],
    verifier: Verifier,
    speed: RelativeSpeed | None,
) -> None:
    """Writes the report of the build: latencies, and how far the last engine agrees with the original model."""
    folder, manifest = engine
    reference, feeds = verifier.reference, verifier.inputs.feeds
    reports = {str(each.precision): each.report for each in measured if each.report is not None}
    accuracy, pictures = None, []
    if reference.outputs and backend(manifest.backend).computes:
        outputs = measured[-1].outputs[0]
        agreement = agreement_of_outputs(reference.outputs, outputs, manifest)
        accuracy = Accuracy(reference=reference.name, noise=verifier.noise, agreement=agreement)
        pictures = compared_pictures(feeds, reference.outputs, outputs, manifest, PICTURES)
        facts = facts | {"sqnr_db": accuracy.sqnr_db or None, "verified_db": dict(verifier.found) or None}
    write_build_report(folder, reports, facts, accuracy, pictures, speed)


def _facts(chosen: Chosen, verifier: Verifier) -> dict[str, Any]:
    """Returns the facts that the report shows besides the measurements."""
    model, typed, table = verifier.model, chosen.typed, chosen.calibration.table
    facts: dict[str, Any] = {"macs": model.stats.macs, "export_error": model.export_error}
    if table is not None and verifier.target.precision is Precision.INT8:
        facts |= {
            "calibration_set": table.set,
            "calibration_method": table.method,
            "calibration_images": table.images,
            "calibration_skipped": len(table.skipped),
        }
    return facts if typed.kept_in_float is None else {**facts, "layers_kept_in_float": typed.kept_in_float}
