"""``edgekit anchors``: computes anchors for the heads of a YOLO recipe from the boxes of a data set."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from edgekit.cli.options.completion import complete_data
from edgekit.cli.options.parameters import image_shape
from edgekit.cli.output import JsonOutput, json_options
from edgekit.cli.terminal import echo
from edgekit.limits import MAX_COUNT

if TYPE_CHECKING:
    import numpy as np

    from edgekit.training.anchors import BoxSizes

__all__ = ["anchors"]

ANCHORS_PER_HEAD = 3
"""Each head of YOLOv3 and later has three anchors; the only head of YOLOv2 has all of them."""

EPILOG = """\b
Examples:
  edgekit anchors coco:annotations/train.json --count 9 --shape 416x416
  edgekit anchors yolo:data.yaml --count 5 --json
"""


@click.command("anchors", epilog=EPILOG, short_help="Find anchors that fit the boxes of a data set.")
@click.argument("data", metavar="SET", shell_complete=complete_data)
@click.option(
    "--count", type=click.IntRange(1, MAX_COUNT), default=9, show_default=True, metavar="N", help="Number of anchors."
)
@click.option(
    "--shape",
    callback=image_shape,
    default="416x416",
    show_default=True,
    metavar="HxW",
    help="Input size of the model in px; images keep their aspect ratio.",
)
@json_options("the anchors")
def anchors(data: str, count: int, shape: tuple[int, ...], json: JsonOutput) -> None:
    """Find anchors that fit the boxes of SET, by k-means clustering on their IoU.

    SET is a data set as for `edgekit train`; its training split is used. Prints the anchors as lines for the heads of
    a recipe, small anchors first: three per head, or all for one head if N is not a multiple of three.
    """
    from edgekit.cli.progress import progress_on_stderr
    from edgekit.data.examples import data_set
    from edgekit.errors import DataError
    from edgekit.training.anchors import anchors_from_sizes, mean_overlap, sizes_from_examples

    height, width = shape[-2:]
    examples = data_set(data, split="train", task="detect")
    with progress_on_stderr() as progress:
        with progress.stage("reading boxes", total=len(examples), unit="images") as advance:
            found = sizes_from_examples(examples, (height, width), advance=advance)
        for note in examples.notes:
            progress.note(note)
        if found.skipped:
            progress.note(f"skipped {len(found.skipped)} of {len(examples)} images: {found.skipped[0]}")
        if len(found.sizes) < count:
            raise DataError(
                f"data set {examples.name}: expected at least {count} boxes for {count} anchors, got "
                f"{len(found.sizes)}",
                hint=f"--count {len(found.sizes)}" if len(found.sizes) else "",
            )
        with progress.stage(f"clustering {len(found.sizes):,} boxes"):
            # In whole px, as in recipes and Darknet's cfg files, so that the overlap is that of the printed anchors.
            rounded = anchors_from_sizes(found.sizes, count).round().clip(min=1)
    overlap = mean_overlap(found.sizes, rounded)
    if json.wanted:
        json.write(_json_from(rounded, overlap, found, (height, width)))
    if not json.printed:
        _print_lines(rounded, overlap, found, (height, width))


def _json_from(rounded: np.ndarray, overlap: float, found: BoxSizes, shape: tuple[int, int]) -> str:
    import json

    content = {
        "anchors": rounded.astype(int).tolist(),
        "mean_overlap": overlap,
        "shape": shape,
        "boxes": len(found.sizes),
        "pictures": found.images,
        "skipped": found.skipped,
    }
    return json.dumps(content, indent=2)


def _print_lines(rounded: np.ndarray, overlap: float, found: BoxSizes, shape: tuple[int, int]) -> None:
    pairs = rounded.astype(int).tolist()
    step = ANCHORS_PER_HEAD if len(pairs) % ANCHORS_PER_HEAD == 0 else len(pairs)
    echo(
        f"mean IoU {overlap:.3f} of {len(found.sizes):,} boxes in {found.images:,} images with the best of "
        f"{len(pairs)} anchors, in px of a {shape[0]}x{shape[1]} input"
    )
    echo()
    for start in range(0, len(pairs), step):
        echo(f"anchors = {pairs[start : start + step]}")
