"""The command ``edgekit run``: runs an engine on pictures, videos, cameras, texts, or arrays in a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgekit.cli.options.parameters import Real, threads_option
from edgekit.cli.options.paths import InputPath, OutputPlace
from edgekit.cli.output import json_options
from edgekit.limits import MAX_COUNT, MAX_SECONDS

__all__ = ["run"]

EPILOG = """\b
Examples:
  edgekit run tiny photo.jpg --save boxes.jpg
  edgekit run tiny photos/ --json > results.json
  edgekit run tiny street.mp4 --save out.mp4 --track --jsonl > frames.jsonl
  edgekit run tiny rtsp://127.0.0.1:8554/cam --duration 10
  edgekit run resnet photo.jpg --top 3
  edgekit run speller --text 1742
  edgekit run other input.npy --save outputs.npz
"""


@click.command(epilog=EPILOG, short_help="Run an engine on images, videos, texts or arrays.")
@click.argument("engine", type=click.Path(path_type=Path))
@click.argument("sources", metavar="[SOURCE]...", nargs=-1, type=click.Path())
@click.option("--recursive", is_flag=True, help="Search the subfolders of folders too.")
@click.option("--text", metavar="TEXT", help="Text to translate, instead of a file with one text per line.")
@click.option(
    "--save",
    type=OutputPlace(),
    metavar="OUT",
    help="Draw boxes, masks or key points into OUT: a file for one image or video, a folder for several. For texts, a "
    ".txt file; for arrays, an .npz file, or .npy for one output.",
)
@click.option("--save-txt", type=OutputPlace(), metavar="DIR", help="Write YOLO's text files to DIR.")
@click.option("--force", is_flag=True, help="Let --save replace the source, and --save-txt text files.")
@json_options("the results (one list: COCO's for images, an object for each frame for videos)", lines=True)
@click.option(
    "--jsonl",
    is_flag=True,
    help="Print an object for each image or frame, one a line, as soon as there is a result (JSON Lines); "
    "--json-file F.jsonl writes them to F.",
)
@click.option(
    "--ids",
    type=InputPath(dir_okay=False),
    metavar="F",
    help="Take image ids from COCO's annotations in F, for --json and --jsonl.",
)
@click.option("--show", is_flag=True, help="Show the images in a window.")
@click.option("--track", is_flag=True, help="Follow objects from frame to frame, with ByteTrack.")
@click.option("--duration", type=Real(min=0, max=MAX_SECONDS, min_open=True), metavar="S", help="Stop after S seconds.")
@click.option(
    "--batch",
    type=click.IntRange(1, MAX_COUNT),
    metavar="N",
    help="Run N images at once.  [default: the engine's own, or 1]",
)
@click.option(
    "--top",
    type=click.IntRange(1, MAX_COUNT),
    metavar="N",
    help="Number of classes to show.  [default: 5]",
)
@click.option("--score-threshold", type=Real(0, 1), metavar="X", help="Keep detections with a score above X.")
@click.option(
    "--iou-threshold",
    type=Real(0, 1),
    metavar="X",
    help="Drop boxes that overlap a better one by more than X.",
)
@click.option(
    "--multi-label/--one-label",
    default=None,
    help="Report every class of a box with a score above --score-threshold, or the best one.  [default: one-label, "
    "unless the recipe says otherwise]",
)
@click.option(
    "--labels",
    metavar="FILE",
    help="Class names: a file with one per line, a data YAML or COCO JSON.  [default: the engine's own]",
)
@threads_option("Threads to run on; 0 lets the backend choose.")
def run(engine: Path, sources: tuple[str, ...], **options: Any) -> None:
    """Run ENGINE on images, videos, cameras, a text, or arrays in a .npy or .npz file.

    SOURCE is a file, a glob, a folder, a text file with one source per line, - for standard input, camera:0, rtsp://...,
    http://..., or gst:PIPELINE for GStreamer.
    """
    from edgekit.cli.run.start import Options, run_engine

    run_engine(engine, sources, Options(**options))
