"""The command ``edgekit run``: runs an engine on an image, a folder of images, a text, or arrays in a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgekit.cli.output import JsonOutput, json_options
from edgekit.cli.terminal import note

if TYPE_CHECKING:
    from edgekit.engine.bundle.manifest import Manifest
    from edgekit.runtime.session import Session
    from edgekit.runtime.tasks.task import InputKind

__all__ = ["run"]

EPILOG = """\b
Examples:
  edgekit run tiny photo.jpg --save boxes.jpg
  edgekit run tiny photos/ --json > detections.json
  edgekit run resnet photo.jpg --top 3
  edgekit run speller --text 1742
  edgekit run other input.npy --save outputs.npz
"""
INPUT_ARRAYS = (".npy", ".npz")
TEXTS = (".txt", ".text", "")
TAKEN = {
    "images": "an image or a folder of images",
    "texts": "--text TEXT, or a file with one text per line",
    "arrays": "arrays in a .npy or .npz file",
}


@click.command(epilog=EPILOG, short_help="Run an engine on images, texts or arrays.")
@click.argument("engine", type=click.Path(path_type=Path))
@click.argument("source", metavar="[IMAGE|DIR|TEXTS|ARRAYS]", required=False, type=click.Path(path_type=Path))
@click.option("--text", metavar="TEXT", help="Text to translate, instead of a file with one text per line.")
@click.option(
    "--save",
    type=click.Path(path_type=Path),
    metavar="OUT",
    help="Draw boxes, masks or key points into OUT: a file for one image, a folder for several. For texts, a .txt "
    "file; for arrays, an .npz file, or .npy for one output.",
)
@click.option("--force", is_flag=True, help="Let --save replace the source.")
@json_options("the results (of detectors in COCO's format)")
@click.option("--top", type=click.IntRange(min=1), default=5, show_default=True, help="Number of classes to show.")
@click.option("--score-threshold", type=float, metavar="X", help="Keep detections with a score above X.")
@click.option("--iou-threshold", type=float, metavar="X", help="Drop boxes that overlap a better one by more than X.")
@click.option(
    "--multi-label/--one-label",
    default=None,
    help="Report every class of a box with a score above --score-threshold, or the best one.  [default: as the model's "
    "family does, mostly one]",
)
@click.option(
    "--labels",
    metavar="FILE",
    help="Class names: a file with one per line, a data YAML or COCO JSON.  [default: the engine's own]",
)
@click.option("--threads", type=click.IntRange(min=0), default=0, help="Threads to run on; 0 lets the backend choose.")
def run(
    engine: Path,
    source: Path | None,
    text: str | None,
    save: Path | None,
    force: bool,
    json: JsonOutput,
    top: int,
    score_threshold: float | None,
    iou_threshold: float | None,
    multi_label: bool | None,
    labels: str | None,
    threads: int,
) -> None:
    """Run ENGINE on an image, on every image of a folder, on a text, or on arrays in a .npy or .npz file."""
    from edgekit.engine.bundle.manifest import read_manifest
    from edgekit.runtime.session import session_from_bundle
    from edgekit.runtime.tasks.choose import task_of
    from edgekit.runtime.tasks.task import ImageTask, TextTask

    if save is not None:
        _check_save(save, source, read_manifest(engine), force=force)
    _check_source(source, text)
    names: tuple[str, ...] = ()
    if labels is not None:
        from edgekit.data.label_files import labels_from_file

        names = labels_from_file(Path(labels))
    options = {
        "top": top,
        "score_threshold": score_threshold,
        "iou_threshold": iou_threshold,
        "multi_label": multi_label,
    }
    with session_from_bundle(engine, threads=threads, labels=names) as session:
        for each in session.manifest.notes:
            note(each)
        task = task_of(session.manifest)
        takes = task.takes(session.manifest)
        if text is not None and takes != "texts":
            raise _no_text(session, takes)
        if text is None and source is None:
            raise _nothing_to_run_on(session, takes)
        are_arrays = text is None and source is not None and source.suffix.lower() in INPUT_ARRAYS
        if isinstance(task, TextTask) and not are_arrays:
            from edgekit.cli.run.texts import run_texts

            run_texts(session, task, source, text, save, json_output=json)
            return
        assert source is not None
        if isinstance(task, ImageTask) and takes == "images" and not are_arrays:
            from edgekit.cli.run.images import run_images

            own = {name: options[name] for name in task.options}
            run_images(session, task, source, save, own, force=force, json_output=json, note=note)
        else:
            from edgekit.cli.run.arrays import run_arrays

            run_arrays(session, source, save, json_output=json)


def _check_save(save: Path, source: Path | None, manifest: Manifest, *, force: bool) -> None:
    """Checks the name of the file to write, before the engine is loaded."""
    from edgekit.cli.run.saved import ARRAYS, check_image, check_suffix, not_drawn
    from edgekit.runtime.tasks.choose import task_of
    from edgekit.runtime.tasks.task import ImageTask, TextTask

    task = task_of(manifest)
    if source is not None and source.suffix.lower() in INPUT_ARRAYS:
        check_suffix(save, ARRAYS if len(manifest.outputs) == 1 else ARRAYS[:1], "arrays")
    elif isinstance(task, TextTask):
        check_suffix(save, TEXTS, "texts")
    elif isinstance(task, ImageTask) and task.takes(manifest) == "images":
        if not task.draws:
            raise not_drawn(save, task)
        if source is not None and not source.is_dir():
            check_image(save, source, force=force)
    else:
        check_suffix(save, ARRAYS if len(manifest.outputs) == 1 else ARRAYS[:1], "arrays")


def _check_source(source: Path | None, text: str | None) -> None:
    """Checks that there is one source, and that it exists, before the engine is loaded."""
    from edgekit.cli.options.paths import names_beside
    from edgekit.errors import DataError, UsageError, nearest

    if source is None:
        return
    if text is not None:
        raise UsageError(f"expected --text or a file, got both: {text!r} and {source}")
    try:
        source.stat()
    except (FileNotFoundError, NotADirectoryError) as e:
        hint = nearest(str(source), names_beside(source), listed=False)
        raise DataError(f"{source}: expected a file or a folder, got no such file", hint=hint) from e
    except (OSError, ValueError):
        return  # without access, or no valid name: reading it raises the reason


def _no_text(session: Session, takes: InputKind) -> Exception:
    from edgekit.errors import UsageError
    from edgekit.runtime.tasks.choose import tasks

    expected = " or ".join(task.engine for task in tasks().values() if task.kind == "texts")
    return UsageError(
        f"--text: expected {expected}, got an engine for task '{session.manifest.task}'", hint=f"give it {TAKEN[takes]}"
    )


def _nothing_to_run_on(session: Session, takes: InputKind) -> Exception:
    from edgekit.errors import UsageError

    return UsageError(f"'{session.manifest.name}': expected {TAKEN[takes]}, got no input")
