"""The command ``edgekit demo``: builds a small detector and runs it on a shipped photo."""

from __future__ import annotations

from pathlib import Path

import click

from edgekit.cli.terminal import console, echo
from edgekit.text import shell_words

__all__ = ["demo"]

MODEL = "yolov3-tiny"
PHOTO = "coffee.jpg"
RANDOM_WEIGHTS = (
    "the download failed, so the demo uses random weights: latency and size are real, boxes are meaningless. Run it "
    "again with a network connection, or give a downloaded file: --weights FILE"
)

EPILOG = """\b
Examples:
  edgekit demo
  edgekit demo my-demo --weights yolov3-tiny.weights
"""


@click.command(epilog=EPILOG, short_help="Build a small detector and run it on a shipped photo.")
@click.argument("folder", metavar="[DIR]", default="edgekit-demo", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--weights",
    metavar="FILE|NAME",
    default="coco",
    show_default=True,
    help="Weights of yolov3-tiny; random ones if the default cannot be downloaded.",
)
def demo(folder: Path, weights: str) -> None:
    """Build a small detector in INT8 and run it on a photo that EdgeKit ships.

    The demo writes to DIR, by default edgekit-demo, and prints each command before it runs it. The weights, 35 MB,
    are downloaded once. Without a network, the demo uses random weights, whose boxes are meaningless.
    """
    photo, engine, boxes = folder / "photo.jpg", folder / "tiny", folder / "boxes.jpg"
    _copy_photo(photo)
    trained = _has_weights(weights)
    _run("build", MODEL, "--int8", *(["--weights", weights] if trained else []), "-o", str(engine))
    _run("run", str(engine), str(photo), "--save", str(boxes))
    echo()
    echo(f"{boxes}", title="result:", title_color="green")
    echo(f"{engine / 'report.html'}", title="report:", title_color="green")
    if not trained:
        echo("To get real outputs without a download, train a model (needs scikit-learn):")
        echo("  edgekit train lenet --data digits")


def _copy_photo(photo: Path) -> None:
    from edgekit.cli.output import write_file
    from edgekit.errors import UsageError
    from edgekit.recipe.schema import shipped

    source = shipped("calibration") / "sample" / PHOTO
    if photo.exists() and photo.read_bytes() != source.read_bytes():
        raise UsageError(f"{photo}: expected no file, or the photo of the demo, got another", hint="choose another DIR")
    write_file(photo, source.read_bytes())
    echo(f"{photo}", title="photo:", title_color="green")


def _has_weights(name: str) -> bool:
    """Whether the weights are available; downloads a published set."""
    from edgekit.cli.progress import progress_on_stderr
    from edgekit.errors import ModelError
    from edgekit.models.weights.download import weights_file
    from edgekit.recipe.schema import load_recipe

    recipe = load_recipe(MODEL)
    with progress_on_stderr() as progress:
        try:
            weights_file(name, recipe, progress=progress)
        except ModelError as e:
            progress.note(e.message)
            progress.note(RANDOM_WEIGHTS)
            return False
    return True


def _run(*words: str) -> None:
    """Prints an EdgeKit command and runs it in this process."""
    from rich.text import Text

    from edgekit.cli.main import cli

    command = Text.assemble("\n", ("$", "dim"), " ", (shell_words(["edgekit", *words]), "bold"))
    console().print(command, soft_wrap=True)
    cli.main(args=list(words), prog_name="edgekit", standalone_mode=False)
