"""``edgekit anchors``: the sizes that a data set's boxes have most often, for the heads of a YOLO's recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from edgekit.cli.options.parameters import one_picture_shape

if TYPE_CHECKING:
    import numpy as np

    from edgekit.training.anchors import BoxSizes

__all__ = ["anchors"]

A_HEAD = 3
"""Each head of YOLOv3 and its kin has three anchors; YOLOv2 has one head with all of them."""

EPILOG = """\b
Examples:
  edgekit anchors coco:annotations/train.json --count 9 --shape 416x416
  edgekit anchors yolo:data.yaml --count 5 --json
"""


@click.command("anchors", epilog=EPILOG, short_help="Find anchors that fit the boxes of a data set.")
@click.argument("data", metavar="SET")
@click.option("--count", type=click.IntRange(min=1), default=9, show_default=True, metavar="N", help="How many.")
@click.option(
    "--shape",
    callback=one_picture_shape,
    default="416x416",
    show_default=True,
    metavar="HxW",
    help="Input of the model, in px; pictures keep their aspect ratio in it.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, and nothing else, on standard output.")
def anchors(data: str, count: int, shape: tuple[int, ...], as_json: bool) -> None:
    """Find anchors that fit the boxes of SET, a data set as `edgekit train` takes it, by k-means on their overlap.

    Printed are lines for a recipe's heads, small anchors first: three a head, or all for one head where they do not
    come in threes. Looked at is the part of the set to learn from.
    """
    from edgekit.cli.progress import progress_on_stderr
    from edgekit.data.examples import data_set
    from edgekit.errors import DataError
    from edgekit.training.anchors import anchors_from_sizes, mean_overlap, sizes_from_examples

    height, width = shape[-2:]
    examples = data_set(data, split="train", task="detect")
    with progress_on_stderr() as progress:
        with progress.stage("reading boxes", total=len(examples), unit="pictures") as advance:
            found = sizes_from_examples(examples, (height, width), advance=advance)
        for note in examples.notes:
            progress.note(note)
        if found.skipped:
            progress.note(f"left out {len(found.skipped)} of {len(examples)} pictures: {found.skipped[0]}")
        if len(found.sizes) < count:
            raise DataError(
                f"data set {examples.name}: expected {count} boxes at least, for as many anchors, got "
                f"{len(found.sizes)}",
                hint=f"--count {len(found.sizes)}" if len(found.sizes) else "",
            )
        with progress.stage(f"clustering {len(found.sizes):,} boxes"):
            # Whole px, as recipes and Darknet's cfg files have them: what is printed is what is measured.
            rounded = anchors_from_sizes(found.sizes, count).round().clip(min=1)
    overlap = mean_overlap(found.sizes, rounded)
    if as_json:
        _print_json(rounded, overlap, found, (height, width))
    else:
        _print_lines(rounded, overlap, found, (height, width))


def _print_json(rounded: np.ndarray, overlap: float, found: BoxSizes, shape: tuple[int, int]) -> None:
    import json

    content = {
        "anchors": rounded.astype(int).tolist(),
        "mean_overlap": overlap,
        "shape": shape,
        "boxes": len(found.sizes),
        "pictures": found.images,
        "skipped": found.skipped,
    }
    click.echo(json.dumps(content, indent=2))


def _print_lines(rounded: np.ndarray, overlap: float, found: BoxSizes, shape: tuple[int, int]) -> None:
    pairs = rounded.astype(int).tolist()
    step = A_HEAD if len(pairs) % A_HEAD == 0 else len(pairs)
    click.echo(
        f"mean overlap {overlap:.3f}: {len(found.sizes):,} boxes of {found.images:,} pictures, each with the best of "
        f"{len(pairs)} anchors, in px of {shape[0]}x{shape[1]}"
    )
    click.echo()
    for start in range(0, len(pairs), step):
        click.echo(f"anchors = {pairs[start : start + step]}")
