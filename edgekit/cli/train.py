"""``edgekit train``: trains a model on a data set and writes a weights file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli.options.completion import complete_data, complete_models, complete_weights
from edgekit.cli.options.hinted import Choice
from edgekit.cli.options.parameters import Real, threads_option
from edgekit.cli.options.paths import OutputFile
from edgekit.cli.output import JsonOutput, json_options
from edgekit.cli.terminal import console, echo, show_next
from edgekit.limits import MAX_COUNT, MAX_SEED
from edgekit.text import json_bytes, shell_words

if TYPE_CHECKING:
    from edgekit.training.fit import Epoch

__all__ = ["train"]

OPTIMIZERS = ("sgd", "momentum", "adagrad", "rmsprop", "adam", "adamw")
SCHEDULES = ("constant", "step", "cosine", "onecycle", "inverse-sqrt")
AUGMENTATIONS = ("flip", "crop", "scale", "color", "mosaic")

EPILOG = """\b
Examples:
  edgekit train lenet --data digits
  edgekit train resnet18 --data photos/ --weights imagenet -o mine.safetensors
  edgekit train lenet --data digits --resume
"""


@click.command(epilog=EPILOG, short_help="Train a model on a data set.")
@click.argument("model", shell_complete=complete_models)
@click.option(
    "--data",
    shell_complete=complete_data,
    metavar="SET|PATH",
    help="Data set: digits, scenes, spelling, or files of a known format.",
)
@click.option(
    "--column", metavar="NAME", help="Target column of a CSV table.  [default: label, class or target, else the last]"
)
@click.option(
    "-o",
    "--output",
    type=OutputFile(".safetensors"),
    metavar="FILE",
    help="Weights file to write.  [default: MODEL.safetensors]",
)
@click.option(
    "--labels",
    metavar="FILE",
    help="Class names of MODEL: a file with one per line, a data YAML or COCO JSON.  [default: the recipe's, or SET's]",
)
@click.option(
    "--weights", shell_complete=complete_weights, metavar="FILE|NAME", help="Initial weights.  [default: random]"
)
@click.option("--resume", is_flag=True, help="Resume an interrupted training run from its last checkpoint.")
@click.option("--force", is_flag=True, help="Replace the weights file if it exists.")
@click.option("--optimizer", type=Choice(OPTIMIZERS), help="Optimizer.")
@click.option("--lr", type=Real(0, 1e6, min_open=True), metavar="X", help="Learning rate.")
@click.option("--schedule", type=Choice(SCHEDULES), help="Learning rate schedule.")
@click.option(
    "--warmup", type=click.IntRange(0, MAX_COUNT), metavar="N", help="Number of warm-up batches of the schedule."
)
@click.option("--epochs", type=click.IntRange(1, MAX_COUNT), metavar="N", help="Number of epochs.")
@click.option("--batch", type=click.IntRange(1, MAX_COUNT), metavar="N", help="Batch size.")
@click.option("--weight-decay", type=Real(0, 1e6), metavar="X", help="Weight decay.")
@click.option("--clip", type=Real(0, 1e9), metavar="X", help="Max norm of the gradients; 0 turns it off.")
@click.option("--label-smoothing", type=Real(0, 1), metavar="X", help="Label smoothing.")
@click.option(
    "--augment",
    metavar="LIST",
    help=f"Image augmentations, such as flip,color: any of {', '.join(AUGMENTATIONS)}; or none.",
)
@click.option("--seed", type=click.IntRange(0, MAX_SEED), metavar="N", help="Random seed.")
@threads_option("Number of threads; 0 measures a few steps and takes the fastest.")
@click.option("--html", type=OutputFile(".html", ".htm"), metavar="FILE", help="Write the curves as an HTML page.")
@json_options("the figures of every epoch")
def train(
    model: str,
    data: str | None,
    column: str | None,
    labels: str | None,
    output: Path | None,
    weights: str | None,
    resume: bool,
    seed: int | None,
    threads: int,
    force: bool,
    html: Path | None,
    json: JsonOutput,
    **options: Any,
) -> None:
    """Train MODEL on a data set and write its weights, which `edgekit build --weights` accepts.

    MODEL is a name from `edgekit models`, a recipe file or a Darknet cfg file. Options default to the values of the
    model's recipe; with --resume, to those of the interrupted run.
    """
    from edgekit.cli.output import write_file
    from edgekit.cli.progress import progress_on_stderr
    from edgekit.errors import needs_extra
    from edgekit.report.html.training import html_from_epochs

    with needs_extra("training a model", "train"):
        from edgekit.training.train import train_model

    changes = {name: value for name, value in options.items() if value is not None}
    if "augment" in changes:
        changes["augment"] = _names(changes["augment"])
    with progress_on_stderr() as progress:
        trained = train_model(
            model,
            output=output,
            data=data,
            column=column,
            labels=labels,
            weights=weights,
            seed=seed,
            resume=resume,
            force=force,
            threads=threads,
            changes=changes,
            on_epoch=(lambda epoch, of: None) if json.printed else _print,
            progress=progress,
        )
    if html is not None:
        title = f"{Path(model).stem} on {trained.data}"
        write_file(html, html_from_epochs(trained.epochs, title, str(trained.weights)).encode())
    if json.wanted:
        content = {
            "weights": str(trained.weights),
            "data": trained.data,
            "column": trained.column,
            "evaluated_on": trained.split,
            "labels": trained.labels,
            "epochs": trained.epochs,
        }
        json.write(json_bytes(content, indent=2))
    if json.printed:
        return
    echo()
    echo(f"evaluated on the {trained.split} split")
    echo(f"{trained.weights}", title="weights:", title_color="green")
    calibrated = ["--calib", trained.data, *(["--calib-column", trained.column] if trained.column else [])]
    show_next([shell_words(["edgekit", "build", model, "--weights", str(trained.weights), *calibrated])])


def _names(text: str) -> list[str]:
    names = [] if text == "none" else text.split(",")
    for name in names:
        if name not in AUGMENTATIONS:
            raise click.BadParameter(
                f"expected any of {', '.join(AUGMENTATIONS)}, or none, got '{name}'", param_hint="'--augment'"
            )
    return names


def _print(epoch: Epoch, of: int) -> None:
    """Prints the figures of an epoch on one line."""
    from rich.text import Text

    from edgekit.evaluation.evaluate import FIGURES

    texts = [
        f"{FIGURES[name].title} {100 * value:.2f} %" if FIGURES[name].is_share else f"{FIGURES[name].title} {value:.4g}"
        for name, value in epoch.figures.items()
    ]
    line = Text.assemble(
        f"epoch {epoch.epoch:>{len(str(of))}}/{of}   lr {epoch.lr:<8.3g}   loss {epoch.loss:<8.4g}   "
        f"test loss {epoch.test_loss:<8.4g}   ",
        ("   ".join(texts), "bold"),
        f"   {epoch.seconds:.1f} s",
    )
    console().print(line, soft_wrap=True)
