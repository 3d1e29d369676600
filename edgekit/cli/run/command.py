"""``edgekit run``: an engine on a picture, a folder of pictures, a text, or arrays in a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from edgekit.runtime.session import Session

__all__ = ["run"]

EPILOG = """\b
Examples:
  edgekit run tiny photo.jpg --save boxes.jpg
  edgekit run tiny photos/ --json > detections.json
  edgekit run resnet photo.jpg --top 3
  edgekit run speller --text 1742
  edgekit run other input.npy --save outputs.npz
"""
ARRAYS = (".npy", ".npz")


@click.command(epilog=EPILOG, short_help="Run an engine on images, texts or arrays.")
@click.argument("engine", type=click.Path(path_type=Path))
@click.argument("source", metavar="[IMAGE|DIR|TEXTS|ARRAYS]", required=False, type=click.Path(path_type=Path))
@click.option("--text", metavar="TEXT", help="A text to translate, instead of a file with one a line.")
@click.option(
    "--save",
    type=click.Path(path_type=Path),
    metavar="OUT",
    help="Draw the boxes into OUT: a file for one picture, a folder for several; for arrays, an .npz file.",
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print JSON, of detectors COCO's results, and nothing else, on standard output.",
)
@click.option("--top", type=click.IntRange(min=1), default=5, show_default=True, help="Classes to show of a picture.")
@click.option("--score-threshold", type=float, metavar="X", help="Keep detections that score above X.")
@click.option("--iou-threshold", type=float, metavar="X", help="Drop boxes that overlap a better one by more than X.")
@click.option("--threads", type=click.IntRange(min=0), default=0, help="Threads to run on; 0 lets the backend choose.")
def run(
    engine: Path,
    source: Path | None,
    text: str | None,
    save: Path | None,
    as_json: bool,
    top: int,
    score_threshold: float | None,
    iou_threshold: float | None,
    threads: int,
) -> None:
    """Run ENGINE on a picture, on every picture of a folder, on a text, or on arrays in a .npy or .npz file."""
    from edgekit.runtime.session import session_from_bundle

    with session_from_bundle(engine, threads=threads) as session:
        for note in session.manifest.notes:
            _note(note)
        if text is not None and session.manifest.task != "translate":
            raise _no_translator(session)
        if text is not None or (source is not None and _are_texts(session, source)):
            from edgekit.cli.run.texts import run_texts

            run_texts(session, source, text, save, as_json=as_json)
            return
        if source is None:
            raise _nothing_to_run_on(session)
        task = "arrays" if source.suffix.lower() in ARRAYS else session.manifest.task
        if task == "detect":
            from edgekit.cli.run.images import detect_pictures

            thresholds = {"score_threshold": score_threshold, "iou_threshold": iou_threshold}
            detect_pictures(session, source, save, thresholds, as_json=as_json, note=_note)
        elif task == "classify" and session.manifest.preprocess is not None:
            from edgekit.cli.run.images import classify_pictures

            classify_pictures(session, source, save, top=top, as_json=as_json, note=_note)
        else:
            from edgekit.cli.run.arrays import run_arrays

            run_arrays(session, source, save, as_json=as_json)


def _are_texts(session: Session, source: Path) -> bool:
    return session.manifest.task == "translate" and source.suffix.lower() not in ARRAYS


def _no_translator(session: Session) -> Exception:
    from edgekit.errors import UsageError

    return UsageError(
        f"--text: expected a translator, got an engine for task '{session.manifest.task}'",
        hint=f"give it {_taken(session)}",
    )


def _nothing_to_run_on(session: Session) -> Exception:
    from edgekit.errors import UsageError

    return UsageError(f"'{session.manifest.name}': expected {_taken(session)}, got nothing to run it on")


def _taken(session: Session) -> str:
    takes = {
        "detect": "a picture or a folder of pictures",
        "classify": "a picture or a folder of pictures",
        "translate": "--text TEXT, or a file with a text a line",
    }
    return takes.get(session.manifest.task, "arrays in a .npy or .npz file")


def _note(text: str) -> None:
    click.echo(f"{click.style('note:', fg='yellow', bold=True)} {text}", err=True)
