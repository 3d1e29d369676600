"""The tables of the benchmarks, from the results that tools/bench has written."""

from __future__ import annotations

import json
from pathlib import Path

from tools.bench.table import markdown_from_results

__all__ = ["markdown_from_benchmarks"]

RESULTS = Path(__file__).parents[1] / "bench" / "results"
PARTS = (
    *("latency", "openvino", "calibration", "build", "accuracy", "detect"),
    *("nms", "preprocess", "video", "attention", "profiler", "growth", "foreign"),
)


def markdown_from_benchmarks() -> str:
    """A section a part that was measured, each with its script, machine, versions and date."""
    return "\n".join(_section(part) for part in PARTS if (RESULTS / f"{part}.json").exists())


def _section(part: str) -> str:
    result = json.loads((RESULTS / f"{part}.json").read_text(encoding="utf-8"))
    title: str = result["title"]
    if not title.startswith("yolo"):
        title = title[:1].upper() + title[1:]
    _, _, table = markdown_from_results([result]).partition("\n\n")
    return f"## {title}\n\n`python -m tools.bench {part}`\n\n{table}"
