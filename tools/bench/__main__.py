"""The command line: one command per part, ``all``, and ``table``."""

from __future__ import annotations

import datetime
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
import msgspec

from edgekit.device.cpu import cpu
from edgekit.measure.machine import this_machine
from edgekit.storage import write_atomic
from tools.bench import (
    accuracy,
    attention,
    building,
    calibration,
    detect,
    foreign,
    growth,
    latency,
    nms,
    preprocess,
    profiler,
    table,
    video,
)
from tools.bench.workshop import Workshop

RESULTS = Path(__file__).parent / "results"
PARTS: dict[str, Callable[[Workshop], dict[str, Any] | Iterator[dict[str, Any]]]] = {
    "latency": latency.measure_latency,
    "openvino": latency.measure_openvino,
    "calibration": calibration.measure_calibration,
    "build": building.measure_build,
    "accuracy": accuracy.measure_accuracy,
    "detect": detect.measure_detect,
    "preprocess": preprocess.measure_preprocess,
    "video": video.measure_video,
    "nms": nms.measure_nms,
    "attention": attention.measure_attention,
    "profiler": profiler.measure_profiler,
    "growth": growth.measure_growth,
    "foreign": foreign.measure_foreign,
}


@click.command(help="Benchmark PARTS of EdgeKit against its peers: " + ", ".join([*PARTS, "all", "table"]) + ".")
@click.argument("parts", nargs=-1, required=True, type=click.Choice([*PARTS, "all", "table"]))
@click.option(
    "--peers",
    multiple=True,
    type=click.Path(path_type=Path, exists=True),
    envvar="EDGEKIT_BENCH_PEERS",
    help="Python interpreter of an environment with a peer; repeatable.",
)
@click.option(
    "--models",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    envvar="EDGEKIT_BENCH_MODELS",
    help="Folder of the models of the part 'foreign', as `python -m tools.bench.foreign_models FOLDER` makes it.",
)
@click.option("--only", multiple=True, metavar="NAME", help="Model of the part 'foreign' to measure; repeatable.")
@click.option(
    "--nodes",
    multiple=True,
    type=click.IntRange(min=100),
    help="Number of nodes of a graph of the part 'growth'; repeatable.  [default: 3,000 and 12,000]",
)
@click.option("--no-times", is_flag=True, help="Of the part 'foreign', measure noise alone; earlier times are kept.")
@click.option("--threads", type=click.IntRange(min=1), help="Number of threads.  [default: one per core]")
@click.option("--work", type=click.Path(path_type=Path, file_okay=False), help="Folder that keeps the peers' graphs.")
@click.option(
    "--output", type=click.Path(path_type=Path, file_okay=False), default=RESULTS, help="Folder for the results."
)
@click.option("--quick", is_flag=True, help="Use few images and runs, as a smoke test.")
def bench(
    parts: tuple[str, ...],
    peers: tuple[Path, ...],
    models: Path | None,
    only: tuple[str, ...],
    nodes: tuple[int, ...],
    no_times: bool,
    threads: int | None,
    work: Path | None,
    output: Path,
    quick: bool,
) -> None:
    """Measures, writes one JSON file per part, and prints all results as Markdown."""
    wanted = [name for name in PARTS if name in parts or "all" in parts]
    output.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        folder = work or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edgekit-bench-")))
        folder.mkdir(parents=True, exist_ok=True)
        shop = Workshop(
            folder.resolve(),
            peers,
            threads=threads or cpu().compute_threads,
            quick=quick,
            models=models,
            only=only,
            nodes=nodes,
            times=not no_times,
            results=output,
        )
        for name in wanted:
            started = time.perf_counter()
            found = PARTS[name](shop)
            # Long parts give what they have so far, so that a run which is cut off keeps it.
            for result in [found] if isinstance(found, dict) else found:
                text = json.dumps({"name": name, **result, **_circumstances(shop)}, indent=2)
                write_atomic(output / f"{name}.json", (text + "\n").encode())
            click.echo(f"{name}: {time.perf_counter() - started:.0f} s", err=True)
    results = [json.loads(file.read_text()) for name in PARTS if (file := output / f"{name}.json").exists()]
    text = table.markdown_from_results(results)
    (output / "table.md").write_text(text)
    click.echo(text)


def _circumstances(shop: Workshop) -> dict[str, Any]:
    return {
        "machine": msgspec.to_builtins(this_machine()),
        "versions": shop.versions(),
        "threads": shop.threads,
        "quick": shop.quick,
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
    }


if __name__ == "__main__":
    bench(prog_name="python -m tools.bench")
