"""Formats numbers and facts for people; shared by the terminal tables and the HTML pages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edgekit.measure.units import milliseconds, milliseconds_change
from edgekit.specs import EXACT_DB, specs_text

if TYPE_CHECKING:
    from edgekit.engine.bundle.manifest import Verification
    from edgekit.measure.conditions import Conditions
    from edgekit.measure.confidence import PercentileBound
    from edgekit.measure.engine_estimate import EngineEstimate
    from edgekit.measure.machine import Machine
    from edgekit.measure.power import Power
    from edgekit.measure.reports import BuildReport, LatencyReport
    from edgekit.measure.roofline import Roofline

__all__ = [
    "BACKEND_NAMES",
    "bound_in_words",
    "bytes_in_words",
    "counts_in_words",
    "decibels",
    "disturbances_of",
    "engine_rows",
    "environment_rows",
    "fact_rows",
    "least_milliseconds",
    "machine_rows",
    "milliseconds",
    "milliseconds_change",
    "percentile_name",
    "percentile_note",
    "products_in_words",
    "rate",
    "ratio",
    "roofline_in_words",
    "short_figure",
    "title",
    "verdict",
    "verification_rows",
]

BACKEND_NAMES = {
    "cpu": "ONNX Runtime",
    "openvino": "OpenVINO",
    "null": "null backend",
    "tensorrt": "TensorRT",
    "tensorrt-rtx": "TensorRT-RTX",
}

FACT_LABELS = {
    "activations": "activations",
    "agreement": "agreement by stage",
    "build_s": "build time",
    "calibration_images": "calibration inputs",
    "calibration_method": "calibration method",
    "calibration_set": "calibration set",
    "calibration_skipped": "inputs skipped",
    "export_error": "largest export error",
    "macs": "multiply-accumulates",
    "sqnr_db": "signal to noise",
    "verified_db": "signal to noise by stage",
}


def least_milliseconds(value_ms: float) -> str:
    """Formats a bound or an estimate: as `milliseconds`, but with two digits where that would have one or none."""
    if value_ms >= 0.01 or not value_ms:
        return milliseconds(value_ms)
    return f"{value_ms:.2g}" if value_ms >= 1e-4 else "<0.0001"


def decibels(ratio_db: float) -> str:
    """Formats a signal-to-noise ratio: ``31.2 dB``; ``equal`` if nothing differs."""
    if abs(ratio_db) >= EXACT_DB:
        return "equal" if ratio_db > 0 else "infinities or NaN"
    return f"{ratio_db:.1f} dB"


def percentile_name(percentile: float) -> str:
    """Formats a percentile: ``p99``, ``p99.9``."""
    return f"p{percentile:g}"


def bound_in_words(bound: PercentileBound) -> str:
    """Formats a bound: ``p99 <= 12.4 ms (99 % confidence, 1,024 runs)``, or how many runs it needs."""
    name = percentile_name(bound.percentile)
    runs = f"{bound.runs:,} run{'' if bound.runs == 1 else 's'}"
    if bound.effective_runs < bound.runs:
        runs += f" that count as {bound.effective_runs:,}, as they depend on each other"
    if bound.upper_ms is None:
        return f"no {name}: {bound.missing_runs:,} more runs are needed ({runs})"
    return f"{name} <= {milliseconds(bound.upper_ms)} ms ({100 * bound.confidence:g} % confidence, {runs})"


def percentile_note(report: LatencyReport) -> list[str]:
    """Returns what can be claimed of the engine alone, as lines: the highest percentile, then those that cannot be."""
    bounds = report.percentiles.get("inference", ())
    claimed = [bound for bound in bounds if bound.upper_ms is not None]
    missing = [bound for bound in bounds if bound.upper_ms is None]
    lines = [bound_in_words(claimed[-1])] if claimed else []
    if missing:
        first = bound_in_words(missing[0])
        others = [f"{percentile_name(bound.percentile)}: {bound.missing_runs:,} more" for bound in missing[1:]]
        lines.append("; ".join([first, *others]))
        lines.append(f"to measure until it can be claimed: --claim {percentile_name(missing[-1].percentile)}")
    return lines


def verdict(report: LatencyReport) -> str:
    """Returns whether the machine was quiet, and what it does not report."""
    if report.disturbances:
        return f"disturbed: {', '.join(dict.fromkeys(item.kind.replace('_', ' ') for item in report.disturbances))}"
    if report.conditions is None:
        # A report of format 1: only the rules of that time were applied to its runs.
        return "no disturbance was found in the runs; the state of the machine was not recorded"
    unread = report.conditions.unreadable
    return "quiet" + (f", as far as it is readable here (not: {', '.join(unread)})" if unread else "")


def condition_rows(conditions: Conditions) -> list[tuple[str, str]]:
    """Returns the state of the machine before and after, as labels and values; without what is not readable."""
    first, last = conditions.before, conditions.after
    seen = (first, *conditions.during, last)
    rows = []
    if first.load is not None and last.load is not None:
        own = f", of which this process {last.own_load:.2f}" if last.own_load >= 0.005 else ""
        rows.append(("load", f"{first.load:.2f} before, {last.load:.2f} after{own}"))
    clocks = [each.clock_mhz for each in seen if each.clock_mhz]
    if clocks:
        top = f" of {last.max_clock_mhz:.0f}" if last.max_clock_mhz else ""
        rows.append(("clock", f"{min(clocks):.0f} to {max(clocks):.0f}{top} MHz"))
    degrees = [each.temperature_c for each in seen if each.temperature_c is not None]
    if degrees:
        rows.append(("temperature", f"{degrees[0]:.0f} to {degrees[-1]:.0f} °C, at most {max(degrees):.0f} °C"))
    if first.throttle_events is not None and last.throttle_events is not None:
        rows.append(("throttling", f"{last.throttle_events - first.throttle_events} events during the runs"))
    for index, gpu in enumerate(last.gpus):
        facts = [
            f"{value:.0f} {unit}"
            for value, unit in ((gpu.temperature_c, "°C"), (gpu.clock_mhz, "MHz"), (gpu.power_w, "W"))
            if value is not None
        ]
        rows.append((f"GPU {index} after", ", ".join(facts)))
    return rows


def environment_rows(report: LatencyReport) -> list[tuple[str, str]]:
    """Returns the facts of the machine, its state around the runs and the verdict, as labels and values."""
    rows = machine_rows(report.machine)
    if report.conditions is not None:
        rows += condition_rows(report.conditions)
    elif report.machine.load is not None:
        rows.append(("load", f"{report.machine.load:.2f} in the minute before the end of the runs"))
    if report.power is not None:
        rows += power_rows(report.power)
    return [*rows, ("verdict", verdict(report))]


def power_rows(power: Power) -> list[tuple[str, str]]:
    """Returns power and energy, as labels and values."""
    if power.mean_w is None or power.idle_w is None or power.mj_per_run is None or power.mj_over_idle_per_run is None:
        return [("power", power.unreadable)]
    slowest = "" if power.slowest_w is None else f"; {power.slowest_w:.2f} W in the slowest tenth of the runs"
    return [
        ("power", f"{power.mean_w:.2f} W during the runs, {power.idle_w:.2f} W idle{slowest}"),
        ("energy", f"{power.mj_per_run:.3g} mJ per run, {power.mj_over_idle_per_run:.3g} mJ over idle"),
        ("power source", power.source),
    ]


def bytes_in_words(length: float) -> str:
    """Formats a number of bytes in powers of 1000, as ``ls --si`` does: ``8.9 MB``."""
    for unit in ("B", "kB", "MB"):
        if length < 999.5:
            return f"{length:.0f} {unit}" if unit == "B" or length >= 99.5 else f"{length:.1f} {unit}"
        length /= 1000
    return f"{length:.2f} GB"


def short_figure(value: float | None) -> str:
    """Formats a number with three digits and a letter for the power of 1000: ``943``, ``1.18M``; empty for zero."""
    if not value:
        return ""
    for letter in ("", "k", "M", "G"):
        if value < 999.5:
            decimals = 0 if value >= 99.95 or (not letter and value == int(value)) else 1 if value >= 9.995 else 2
            return f"{value:.{decimals}f}{letter}"
        value /= 1000
    return f"{value:.2f}T"


def rate(per_second: float, unit: str = "") -> str:
    """Formats a rate: ``30.2 images/s``."""
    decimals = 2 if per_second < 10 else 1 if per_second < 1000 else 0
    return f"{per_second:,.{decimals}f} {unit}/s"


def ratio(value: float) -> str:
    """Formats a ratio: ``2.31 ×``."""
    return f"{value:.2f} ×"


def title(report: LatencyReport | EngineEstimate) -> str:
    """Returns the title of a report: ``INT8 on cpu (ONNX Runtime 1.32.0)``."""
    backend = BACKEND_NAMES.get(report.backend, report.backend)
    return f"{report.precision.upper()} on {report.backend} ({backend} {report.backend_version})"


def unit_of(report: LatencyReport) -> str:
    """Returns the unit of throughput."""
    return "images" if report.task in ("detect", "segment", "pose", "obb") else "inputs"


_TYPES = {"int16": "int8 with 16-bit weights"}
"""Types of layers whose inputs and weights have different ones; the others are what both have."""


def products_in_words(layers: dict[str, int]) -> str:
    """Formats the number of convolutions and matrix products by element type."""
    return f"{counts_in_words(dict(sorted(layers.items()))) or 'none'} (convolutions and matrix products)"


def counts_in_words(layers: Mapping[str, int]) -> str:
    """Formats the number of layers by element type: ``72 in int8, 3 in int8 with 16-bit weights``."""
    return ", ".join(f"{count} in {_TYPES.get(dtype, dtype)}" for dtype, count in layers.items())


def engine_rows(report: LatencyReport) -> list[tuple[str, str]]:
    """Returns the facts of the engine and of the measurement, as labels and values."""
    threads = str(report.threads) if report.threads else "chosen by the backend"
    ranged = [spec for spec in report.inputs if spec.name in report.shapes]
    rows = [
        ("engine", title(report)),
        ("layers", products_in_words(report.layers)),
        ("input", "; ".join(map(str, report.inputs))),
        *([("built for", specs_text(ranged, report.shapes))] if ranged else []),
        ("input data", report.input_source),
        ("runs", f"{report.runs} measured after {report.warmup} warm-up runs"),
        ("threads", threads),
        ("engine size", bytes_in_words(report.engine_bytes)),
        ("peak memory", f"{bytes_in_words(report.memory.peak_bytes)} of this process, Python and libraries included"),
    ]
    if report.memory.engine_bytes is not None:
        rows.append(("engine memory", f"{bytes_in_words(report.memory.engine_bytes)} added by loading and warming up"))
    if report.roofline is not None:
        rows.append(("roofline", roofline_in_words(report.roofline)))
    return rows


def roofline_in_words(found: Roofline) -> str:
    """Returns the bound of a roofline and the share of it that was reached, as a sentence."""
    reached = f", {100 * found.reached:.0f} % of the peaks reached" if found.reached is not None else ""
    least = least_milliseconds(found.bound_ms)
    peaks = f"{found.peaks.kind} peaks of {found.peaks.name}"
    return f"at least {least} ms, mostly bound by {found.bound}{reached} ({peaks})"


def machine_rows(machine: Machine) -> list[tuple[str, str]]:
    """Returns the facts of the machine, as labels and values."""
    rows = [
        ("CPU", f"{machine.cpu} ({machine.arch})"),
        ("cores", f"{machine.cores} physical, {machine.threads} threads for this process"),
        ("INT8 features", ", ".join(machine.features) or "none"),
        ("clock governor", machine.governor or "not readable"),
        ("memory", bytes_in_words(machine.memory_bytes)),
        ("system", machine.system),
        ("Python", f"{machine.python}, numpy {machine.numpy}"),
    ]
    return [("board", machine.board), *rows] if machine.board else rows


def disturbances_of(report: BuildReport) -> list[str]:
    """Returns the disturbances of a build's measurements, each prefixed with its engine."""
    several = len(report.engines) > 1
    return [
        f"{name.upper()}: {item.text}" if several else item.text
        for name, engine in report.engines.items()
        for item in engine.disturbances
    ]


def fact_rows(report: BuildReport) -> list[tuple[str, str]]:
    """Returns the other measurements of a build, as labels and values; an unknown one is labelled with its name."""
    return [(_fact_label(name), _fact_value(name, value)) for name, value in report.facts.items() if value is not None]


def verification_rows(found: Verification | None) -> list[tuple[str, str]]:
    """Returns what each stage of a build keeps of the original model, as a label and a value; empty if unknown."""
    if found is None:
        return []
    agreement = {name: f"{100 * share:.1f} %" for name, share in found.agreement.items()}
    facts = {"verified_db": found.sqnr_db, "agreement": agreement}
    return [(_fact_label(name), _fact_value(name, values)) for name, values in facts.items() if values]


def _fact_label(name: str) -> str:
    stem = name
    for suffix in ("_bytes", "_ms", "_s"):
        stem = stem.removesuffix(suffix)
    return FACT_LABELS.get(name, stem.replace("_", " "))


def _fact_value(name: str, value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_fact_value(name, item)}" for key, item in value.items())
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if name.endswith("_bytes"):
        return bytes_in_words(value)
    if name.endswith("_ms"):
        return f"{milliseconds(value)} ms"
    if name.endswith("_s"):
        return f"{value:.1f} s"
    if name.endswith("_db"):
        return decibels(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"
