"""``edgekit build``: a model in, an engine out, with the numbers that say what it gained."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli.options.parameters import (
    batch_sizes,
    engine_options,
    input_shapes,
    model_or_cfg,
    picture_shape,
    preprocess_fields,
)

if TYPE_CHECKING:
    from edgekit.engine.bundle.manifest import Manifest

__all__ = ["build"]

EPILOG = """\b
Examples:
  edgekit build yolov3-tiny --int8 --weights coco -o tiny
  edgekit build yolov3-voc.cfg --weights yolov3-voc.weights
  edgekit build detector.onnx --int8 --calib photos/ --calib-method mse
  edgekit build my.package:make_model --fp32 --input 1x3x224x224
  edgekit build yolov3 --fp16 --target tensorrt-rtx --batch 1:4:16
  edgekit build reader.onnx --input x:1x3x48x32:320:2048
"""


@click.command(epilog=EPILOG, short_help="Compile a model into an engine, and measure it.")
@click.argument("model", required=False)
@model_or_cfg
@click.option("--int8", "precision", flag_value="int8", default="int8", help="8-bit integers; the default.")
@click.option("--fp16", "precision", flag_value="fp16", help="16-bit floats, on GPUs.")
@click.option("--bf16", "precision", flag_value="bf16", help="16-bit floats with the range of 32, on GPUs.")
@click.option("--fp32", "precision", flag_value="fp32", help="32-bit floats.")
@click.option(
    "--target",
    metavar="NAME",
    help="Backend that the engine is for: cpu, openvino, tensorrt, tensorrt-rtx, null. Without it, tensorrt where it "
    "and a GPU are found, else cpu.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="DIR", help="Folder to write the engine to.")
@click.option("--weights", metavar="FILE|NAME", help="Darknet, PyTorch or safetensors file, or a published set: coco.")
@click.option("--calib", metavar="DIR|SET", help="Pictures to calibrate on: a folder, or the name of a set.")
@click.option(
    "--calib-method",
    type=click.Choice(["minmax", "percentile", "entropy", "mse"]),
    help="How ranges are chosen from what was seen.",
)
@click.option("--calib-images", type=click.IntRange(min=1), metavar="N", help="Calibrate on N pictures at most.")
@click.option("--calib-column", metavar="NAME", help="Of a CSV table, the column that is no input; the last one else.")
@click.option(
    "--keep-float", multiple=True, metavar="PATTERN", help="Nodes that stay in float, as in 'head*'; repeatable."
)
@click.option(
    "--shape",
    callback=picture_shape,
    metavar="HxW|NxCxHxW",
    help="Shape of the input picture; MIN:OPT:MAX in the place of a number is chosen at run time, as in "
    "320:416:640x320:416:640.",
)
@click.option(
    "--input",
    callback=input_shapes,
    multiple=True,
    metavar="[NAME:]SHAPE",
    help="Shape of an input of your own model, such as 1x3x224x224 or images:1x3x224x224; repeatable. What is "
    "MIN:OPT:MAX is chosen at run time, as the width in x:1x3x48x32:320:2048. Inputs of modules are float32 unless it "
    "says ids:int64:1x128.",
)
@click.option(
    "--preprocess",
    callback=preprocess_fields,
    multiple=True,
    metavar="FIELD=VALUE",
    help="How pictures become inputs, field by field as in a recipe; repeatable.",
)
@click.option(
    "--batch",
    callback=batch_sizes,
    metavar="N|MIN:OPT:MAX",
    help="Inputs at once, the first dimension of all inputs: a number, or a range, as in 1:4:16.",
)
@click.option("--opset", type=click.IntRange(min=1), metavar="N", help="Version of ONNX's operators to export to.")
@click.option("--seed", type=int, default=0, show_default=True, help="What random weights and inputs are drawn with.")
@click.option("--threads", type=click.IntRange(min=0), default=0, help="Threads to run on; 0 lets the backend choose.")
@click.option("--profile/--no-profile", default=True, help="Measure FP32 beside the engine; on by default.")
@click.option("--plan-only", is_flag=True, help="Leave the engine to `edgekit compile`, on the board; for tensorrt.")
@click.option("--half-io", is_flag=True, help="Inputs and outputs in half precision too.")
@engine_options
def build(model: str, **options: Any) -> None:
    """Compile MODEL into an engine, and measure it.

    MODEL is a name out of `edgekit models`, a Darknet cfg file, an ONNX file, or package.module:factory for a PyTorch
    module of your own. The engine is a folder: the compiled model, the graph it was made from, a manifest, and a
    report.
    """
    from edgekit.cli.progress import progress_on_stderr
    from edgekit.pipeline.build import build as build_engine

    with progress_on_stderr() as progress:
        bundle = build_engine(model, progress=progress, **options)
    _show(bundle)


def _show(bundle: Path) -> None:
    """The report, the place, and what to type next."""
    from rich.console import Console

    from edgekit.engine.backend import backend
    from edgekit.engine.bundle.manifest import read_manifest
    from edgekit.measure.reports import build_report_from_bundle
    from edgekit.report.terminal import notes_panel, terminal_from_build

    console = Console(highlight=False)
    manifest = read_manifest(bundle)
    report = build_report_from_bundle(bundle)
    if report is not None:
        console.print(terminal_from_build(report))
    elif manifest.notes:
        console.print(notes_panel(manifest.notes))
    console.print()
    console.print(f"[bold green]{'engine' if manifest.engine else 'graph'}:[/] {bundle}", soft_wrap=True)
    place = shlex.quote(str(bundle))
    here, there = [], []
    if backend(manifest.backend).on_gpu:
        here.append(f"edgekit inspect {place}")
    if not manifest.engine:
        there.append(f"edgekit compile {place} --target {manifest.backend}")
    (here if _runs_here(manifest) else there).extend(
        [f"edgekit run {place} {_example_of(manifest)}", f"edgekit profile {place} --html report.html"]
    )
    for title, commands in (("next:", here), ("next, on the machine that the engine is for:", there)):
        if commands:
            console.print(f"[dim]{title}[/]")
        for command in commands:
            console.print(f"  {command}", soft_wrap=True, markup=False)


def _runs_here(manifest: Manifest) -> bool:
    from edgekit.engine.backend import backend
    from edgekit.errors import BackendUnavailable, EngineMismatch

    try:
        backend(manifest.backend).require_device(manifest.compute_capabilities)
    except (BackendUnavailable, EngineMismatch):
        return False
    return bool(manifest.engine)


def _example_of(manifest: Manifest) -> str:
    """What `edgekit run` may be given for that engine."""
    if manifest.task == "detect":
        return "photo.jpg --save boxes.jpg"
    if manifest.task == "classify" and manifest.preprocess is not None:
        return "photo.jpg"
    if manifest.task == "translate":
        return "--text 1742" if "7" in manifest.labels else "texts.txt"
    return f"input{'.npy' if len(manifest.inputs) == 1 else 's.npz'} --save outputs.npz"
