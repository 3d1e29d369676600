"""``edgekit build``: compiles a model into an engine and measures what it gains."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import click

from edgekit.cli.options.completion import complete_models
from edgekit.cli.options.declare import GroupedCommand, backend_options, options_from
from edgekit.cli.options.parameters import model_or_cfg
from edgekit.cli.output import JsonOutput, json_options
from edgekit.cli.terminal import console as terminal
from edgekit.cli.terminal import echo, show_next
from edgekit.config import CalibrationConfig, ModelConfig, OutputConfig, TargetConfig
from edgekit.text import json_bytes, shell_quoted

if TYPE_CHECKING:
    from edgekit.engine.bundle.manifest import Manifest

__all__ = ["build"]

PrecisionName: TypeAlias = 'Literal["int8", "fp16", "bf16", "fp32"]'

EPILOG = """\b
Examples:
  edgekit build yolov3-tiny --int8 --weights coco -o tiny
  edgekit build yolov3-voc.cfg --weights yolov3-voc.weights
  edgekit build detector.onnx --int8 --calib photos/ --calib-method mse
  edgekit build my.package:make_model --fp32 --input 1x3x224x224
  edgekit build yolov3 --fp16 --target tensorrt-rtx --batch 1:4:16
  edgekit build reader.onnx --input x:1x3x48x32:320:2048
"""


@click.command(cls=GroupedCommand, epilog=EPILOG, short_help="Compile a model into an engine and measure it.")
@click.argument("model", required=False, shell_complete=complete_models)
@model_or_cfg
@options_from(ModelConfig, "Model")
@options_from(CalibrationConfig, "Calibration")
@options_from(TargetConfig, "Target")
@backend_options
@options_from(OutputConfig, "Output")
@json_options("the engine's manifest and report")
def build(model: str, json: JsonOutput, precision: PrecisionName = "int8", **options: Any) -> None:
    """Compile MODEL into an engine and measure it.

    MODEL is a name from `edgekit models`, a Darknet cfg file, an ONNX file, or package.module:factory for your own
    PyTorch module. The engine is a folder with the compiled model, its graph, a manifest and a report.
    """
    from edgekit.cli.progress import progress_on_stderr
    from edgekit.pipeline.build import build as build_engine

    with progress_on_stderr() as progress:
        bundle = build_engine(model, precision=precision, progress=progress, **options)
    if json.wanted:
        json.write(_json_from(bundle))
    if not json.printed:
        _show(bundle)


def _json_from(bundle: Path) -> bytes:
    from edgekit.engine.bundle.manifest import read_manifest
    from edgekit.measure.reports import build_report_from_bundle

    content = {
        "engine": str(bundle),
        "manifest": read_manifest(bundle),
        "report": build_report_from_bundle(bundle),
    }
    return json_bytes(content, indent=2)


def _show(bundle: Path) -> None:
    """Prints the report, the folder, and the next commands."""
    from edgekit.engine.backend import backend
    from edgekit.engine.bundle.manifest import read_manifest
    from edgekit.measure.reports import build_report_from_bundle
    from edgekit.report.terminal import label_grid, notes_panel, terminal_from_build
    from edgekit.report.wording import verification_rows
    from edgekit.runtime.tasks.choose import task_of

    console = terminal()
    manifest = read_manifest(bundle)
    report = build_report_from_bundle(bundle)
    if report is not None:
        console.print(terminal_from_build(report))
    else:
        console.print(label_grid(verification_rows(manifest.verification)))
        if manifest.notes:
            console.print(notes_panel(manifest.notes))
    console.print()
    echo(str(bundle), title="engine:" if manifest.engine else "graph:", title_color="green")
    place = shell_quoted(str(bundle))
    here, there = [], []
    if backend(manifest.backend).on_gpu:
        here.append(f"edgekit inspect {place}")
    if not manifest.engine:
        there.append(f"edgekit compile {place} --target {manifest.backend}")
    (here if _runs_here(manifest) else there).extend(
        [f"edgekit run {place} {task_of(manifest).example(manifest)}", f"edgekit profile {place} --html report.html"]
    )
    show_next(here)
    show_next(there, title="next, on the target machine:")


def _runs_here(manifest: Manifest) -> bool:
    from edgekit.engine.backend import backend
    from edgekit.errors import BackendUnavailable, EngineMismatch

    try:
        backend(manifest.backend).require_device(manifest.compute_capabilities)
    except (BackendUnavailable, EngineMismatch):
        return False
    return bool(manifest.engine)
