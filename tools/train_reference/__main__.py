"""The command line: trains, builds and measures every case, and prints the table of docs/train-evaluate.md."""

from __future__ import annotations

import datetime
import json
import platform
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import click
import msgspec
import torch

from edgekit.cli.progress import progress_on_stderr
from edgekit.evaluation.evaluate import FIGURES, evaluate_bundle
from edgekit.measure.machine import this_machine
from edgekit.pipeline.build import build
from edgekit.progress import Progress
from edgekit.recipe.schema import load_recipe
from edgekit.training.fit import Epoch
from edgekit.training.train import train_model

MAX_SECONDS = 600.0
LIBRARIES = ("edgekit", "torch", "onnxruntime", "scikit-learn", "pycocotools")


@dataclass(frozen=True)
class Case:
    """A model, its figure, and its targets.

    Attributes:
        model: the recipe, which has the data set and the training options.
        figure: a key of `edgekit.evaluation.evaluate.FIGURES`.
        at_least: min figure of FP32, 0 to 1.
        may_lose: max loss of INT8, in percentage points.
    """

    model: str
    figure: str
    at_least: float
    may_lose: float


CASES = (
    Case("lenet", "accuracy", 0.98, 0.3),
    Case("transformer-tiny", "sequence_accuracy", 0.99, 0.5),
    Case("yolov3-tiny-scenes", "map50", 0.85, 1.0),
)


@click.command(help="Train, build and measure the reference models that need no download.")
@click.option(
    "--only",
    multiple=True,
    type=click.Choice([case.model for case in CASES]),
    help="Train only this model; repeatable.",
)
@click.option("--threads", default=2, show_default=True, help="Number of training threads.")
@click.option(
    "--keep",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder for weights and engines. Weights that are already there are measured without training.",
)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="File to write the results to.")
def train_reference(only: tuple[str, ...], threads: int, keep: Path | None, json_file: Path | None) -> None:
    """Exits with 1 if a model misses a target."""
    torch.set_num_threads(threads)
    results = []
    with ExitStack() as stack:
        folder = keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        progress = stack.enter_context(progress_on_stderr())
        for case in CASES:
            if case.model in (only or (case.model,)):
                results.append(_result(case, folder, threads, progress))
                if json_file is not None:
                    json_file.write_text(json.dumps(results, indent=2) + "\n")
    click.echo(markdown_from_results(results))
    sys.exit(0 if all(result["reached"] for result in results) else 1)


def _result(case: Case, folder: Path, threads: int, progress: Progress) -> dict[str, Any]:
    data = load_recipe(case.model).train.data
    trained = _trained(case, folder, progress)
    engines = {}
    for precision in ("fp32", "int8"):
        engine = build(
            case.model,
            precision=precision,
            target="cpu",
            weights=folder / f"{case.model}.safetensors",
            calib=data if precision == "int8" else None,
            output=folder / f"{case.model}-{precision}",
            profile=False,
            progress=progress,
        )
        engines[precision] = evaluate_bundle(engine, data=data, progress=progress)
    fp32, int8 = (engines[precision].figures[case.figure] for precision in ("fp32", "int8"))
    lost = round(100 * (fp32 - int8), 6)
    return {
        "model": case.model,
        "data": data,
        "figure": case.figure,
        "at_least": case.at_least,
        "may_lose": case.may_lose,
        "fp32": fp32,
        "int8": int8,
        "lost": lost,
        "seconds": trained["seconds"],
        "reached": fp32 >= case.at_least and lost <= case.may_lose and trained["seconds"] <= MAX_SECONDS,
        "examples": engines["fp32"].examples,
        "epochs": trained["epochs"],
        "threads": trained["threads"],
        "machine": trained["machine"],
        "versions": trained["versions"],
        "date": trained["date"],
    }


def _trained(case: Case, folder: Path, progress: Progress) -> dict[str, Any]:
    """Trains the model, or uses the weights and the training record in the folder."""
    weights, record = folder / f"{case.model}.safetensors", folder / f"{case.model}.json"
    if weights.exists() and record.exists():
        found: dict[str, Any] = json.loads(record.read_text())
        return found
    start = time.monotonic()
    trained = train_model(case.model, output=weights, on_epoch=_tell, progress=progress)
    content = {
        "seconds": round(time.monotonic() - start, 1),
        "epochs": [msgspec.to_builtins(epoch) for epoch in trained.epochs],
        "threads": torch.get_num_threads(),
        "machine": msgspec.to_builtins(this_machine()),
        "versions": {name: _version(name) for name in LIBRARIES} | {"python": platform.python_version()},
        "date": datetime.date.today().isoformat(),
    }
    record.write_text(json.dumps(content, indent=2) + "\n")
    return content


def _tell(epoch: Epoch, of: int) -> None:
    figures = ", ".join(f"{name} {value:.4f}" for name, value in epoch.figures.items())
    click.echo(f"epoch {epoch.epoch}/{of}: loss {epoch.loss:.4g}, test loss {epoch.test_loss:.4g}, {figures}", err=True)


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "from a checkout"


def markdown_from_results(results: list[dict[str, Any]]) -> str:
    """Renders the table; a figure that misses its target is shown with the target."""
    lines = [
        "| model | data | trained in | measured by | FP32 | INT8 | lost |",
        "| --- | --- | ---: | --- | ---: | ---: | ---: |",
    ]
    for result in results:
        title = FIGURES[result["figure"]].title
        reached = _unless(result["fp32"] >= result["at_least"], f"≥ {100 * result['at_least']:.0f} %")
        kept = _unless(result["lost"] <= result["may_lose"], f"≤ {result['may_lose']:g}")
        quick = _unless(result["seconds"] <= MAX_SECONDS, f"≤ {MAX_SECONDS:.0f} s")
        lines.append(
            f"| `{result['model']}` | {result['data']}, {result['examples']} | {result['seconds']:.0f} s{quick} "
            f"| {title} | {100 * result['fp32']:.2f} %{reached} | {100 * result['int8']:.2f} % "
            f"| {result['lost']:.2f} points{kept} |"
        )
    return "\n".join(lines)


def _unless(reached: bool, wanted: str) -> str:
    return "" if reached else f" (MISSED: {wanted})"


if __name__ == "__main__":
    train_reference()
