"""The command line: builds every case, and prints the results, the reasons of failures and the durations."""

from __future__ import annotations

import fnmatch
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from edgekit.engine.backend import backend
from edgekit.engine.bundle.manifest import Manifest, read_manifest
from edgekit.measure.reports import build_report_from_bundle
from tools.zoo.cases import Case, cases
from tools.zoo.light import write_with_weights
from tools.zoo.samples import write_bytes, write_texts

PATIENCE_S = 900
FEW_IMAGES = ("--calib-images", "8")
DTYPES = {"fp32": "float32", "fp16": "float16", "int8": "int8"}
STYLES = {"passed": "green", "failed": "bold red", "skipped": "yellow"}


@dataclass(frozen=True)
class Result:
    """The result of a build: ``passed``, ``failed`` or ``skipped``, the duration in seconds, and a text."""

    name: str
    precision: str
    batch: str
    outcome: str
    seconds: float
    text: str


@click.command(help="Build every recipe and third-party models through the command line.")
@click.option("--target", default="tensorrt-rtx", show_default=True, help="Backend to build for.")
@click.option("--only", default="*", metavar="PATTERN", help="Models to build, such as 'yolo*'.")
@click.option("--recipes", is_flag=True, help="Build only EdgeKit's recipes.")
@click.option("--precision", type=click.Choice(list(DTYPES)), help="Build only in this precision.")
@click.option("--batch", type=click.Choice(["fixed", "open"]), help="Build only with fixed or dynamic (open) sizes.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="File to write the results to.")
def zoo(
    target: str, only: str, recipes: bool, precision: str | None, batch: str | None, json_file: Path | None
) -> None:
    """Exits with 1 if a build failed."""
    results = []
    for case in cases(backend(target).precisions):
        wanted = case.own or not recipes
        wanted &= precision in (None, case.precision) and batch in (None, case.batch)
        if wanted and fnmatch.fnmatch(case.name, only):
            click.echo(f"{case.name} {case.precision} {' '.join(case.options)} ...", err=True)
            results.append(_result(case, target))
            click.echo(f"  {results[-1].outcome}, {results[-1].seconds:.1f} s: {results[-1].text}", err=True)
    if json_file is not None:
        json_file.write_text(json.dumps([asdict(result) for result in results], indent=2) + "\n")
    Console(highlight=False).print(_table(results))
    counts = {outcome: sum(result.outcome == outcome for result in results) for outcome in STYLES}
    click.echo(", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count))
    sys.exit(1 if counts["failed"] else 0)


def _result(case: Case, target: str) -> Result:
    def result(outcome: str, seconds: float, text: str) -> Result:
        return Result(case.name, case.precision, case.batch, outcome, seconds, text)

    if not case.model:
        return result("skipped", 0.0, f"needs the package {case.needs}")
    with tempfile.TemporaryDirectory(prefix="edgekit-zoo-") as folder:
        output = Path(folder) / "engine"
        command = [sys.executable, "-m", "edgekit", "build", *_prepared(case, Path(folder)), f"--{case.precision}"]
        command += ["--target", target, "-o", str(output), *case.options]
        # A build for the CPU has its default options, with measurement and an FP32 engine.
        if backend(target).on_gpu:
            command += ["--no-profile", *(FEW_IMAGES if case.precision == "int8" else ())]
        started = time.perf_counter()
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        except subprocess.TimeoutExpired:
            return result("failed", PATIENCE_S, "timed out")
        seconds = time.perf_counter() - started
        if done.returncode != 0:
            return result("failed", seconds, _last_words(done.stderr))
        manifest = read_manifest(output)
        wrong = _wrong(case, manifest, output)
        noise = _noise(manifest, output)
    layers = ", ".join(f"{count} in {dtype}" for dtype, count in manifest.layers.items())
    return result("failed" if wrong else "passed", seconds, wrong or layers + noise)


def _prepared(case: Case, folder: Path) -> list[str]:
    """Returns the model argument, and the calibration option if photos do not suit the model."""
    model = case.model
    if case.light:
        model = str(folder / f"{case.name}.onnx")
        write_with_weights(Path(case.model), Path(model))
    if not case.samples:
        return [model]
    samples = folder / "samples"
    if case.samples == "bytes":
        write_bytes(samples)
    else:
        width, height = map(int, case.samples.split("x"))
        write_texts(samples, width=width, height=height)
    return [model, "--calib", str(samples)]


def _wrong(case: Case, manifest: Manifest, output: Path) -> str:
    """Returns the first difference from the request, or an empty string."""
    if not manifest.engine or not (output / manifest.engine).stat().st_size:
        return "no engine"
    if not manifest.layers.get(DTYPES[case.precision]):
        return f"no layer is in {DTYPES[case.precision]}: {manifest.layers}"
    if case.batch == "open" and not manifest.shapes:
        return "no dynamic size"
    return ""


def _noise(manifest: Manifest, output: Path) -> str:
    """Returns the SQNR of INT8, if it was measured or computed."""
    report = build_report_from_bundle(output)
    measured = (report.facts.get("sqnr_db") or {}) if report is not None else {}
    if measured:
        return f"; signal to noise {min(measured.values()):.1f} dB"
    told = [note.rpartition(": ")[2] for note in manifest.notes if note.startswith(("INT8 signal", "INT8's signal"))]
    return f"; signal to noise {told[0]}" if told else ""


def _last_words(stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error:")]
    return (errors or lines or ["no output"])[-1].removeprefix("error: ")


def _table(results: list[Result]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("model", "precision", "batch", "outcome"):
        table.add_column(column, no_wrap=column == "outcome")
    table.add_column("seconds", justify="right")
    table.add_column("layers, or why not", overflow="fold")
    for result in results:
        seconds = f"{result.seconds:.1f}" if result.seconds else ""
        outcome = Text(result.outcome, style=STYLES[result.outcome])
        table.add_row(result.name, result.precision, result.batch, outcome, seconds, Text(result.text))
    return table


if __name__ == "__main__":
    zoo()
