"""Results as Markdown, for docs/benchmarks.md."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["markdown_from_results"]


def _megabytes(value: float) -> str:
    return f"{value / 1e6:,.0f} MB"


COLUMNS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "agreement": ("agreement", "{:.3f}".format),
    "sqnr_db": ("signal to noise", "{:.1f} dB".format),
    "median_ms": ("median", "{:.1f} ms".format),
    "short_ms": ("median", "{:.2f} ms".format),
    "median_us": ("median", "{:,.0f} µs".format),
    "preprocess_ms": ("preprocess", "{:.1f} ms".format),
    "postprocess_ms": ("postprocess", "{:.1f} ms".format),
    "both_ms": ("both", "{:.1f} ms".format),
    "seconds": ("time", "{:.1f} s".format),
    "difference": ("differs by", "{:.1%}".format),
    "exponent": ("exponent", "{:.2f}".format),
    "ratio": ("relative to {relative_to}", "{:.3f} ×".format),
    "speed": ("the better of EdgeKit's relative to {relative_to}", "{:.2f} ×".format),
    "ahead_db": ("ahead of the best peer by", "{:+.1f} dB".format),
    "typed_db": ("TensorRT's graph relative to cpu", "{:+.1f} dB".format),
    "f1_cpu": ("F1 of boxes, cpu", "{:.3f}".format),
    "f1_openvino": ("F1 of boxes, openvino", "{:.3f}".format),
    "ratio_to_onnxruntime": ("relative to ONNX Runtime's INT8", "{:.3f} ×".format),
    "peak_bytes": ("peak memory, largest process", _megabytes),
    "sum_bytes": ("all processes", _megabytes),
    "detections": ("detections", str),
    "differing": ("boxes kept by only one of it and EdgeKit", str),
    "date": ("measured", str),
}
AT_LEAST = {"agreement", "ahead_db", "typed_db", "f1_cpu", "f1_openvino"}


def markdown_from_results(results: list[dict[str, Any]]) -> str:
    """Renders one table per result, with the machine, the versions and the date below it."""
    parts = [_part(result) for result in results]
    return "\n".join(parts)


def _part(result: dict[str, Any]) -> str:
    if "skipped" in result:
        return f"**{result['name']}**: not measured: {result['skipped']}\n"
    rows = result["rows"]
    own: dict[str, tuple[str, Callable[[Any], str]]] = {
        key: (heading, str) for key, heading in result.get("columns", {}).items()
    }
    columns = {**own, **COLUMNS}
    keys = [key for key in columns if any(row.get(key) is not None for row in rows.values())]
    heads = [columns[key][0].format(**result) for key in keys]
    lines = [f"**{result['title']}**", "", _line(["", *heads]), _line(["---", *["---:"] * len(keys)])]
    for name, row in rows.items():
        limits = result["target"].get(name, {})
        cells = [_cell(columns[key][1], key, row.get(key), limits.get(key)) for key in keys]
        lines.append(_line([f"**{name}**" if limits else name, *cells]))
    return "\n".join([*lines, "", _small_print(result), ""])


def _cell(words: Callable[[Any], str], key: str, value: Any, limit: float | None) -> str:
    if value is None:
        return "–"
    text = words(value)
    if limit is None:
        return text
    met = value >= limit if key in AT_LEAST else value <= limit
    return text if met else f"{text} (MISSED: {'≥' if key in AT_LEAST else '≤'} {words(limit)})"


def _small_print(result: dict[str, Any]) -> str:
    machine = result["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    busy = max((row.get("others") or 0 for row in result["rows"].values()), default=0)
    parts = [
        f"{machine['cpu']}, {result['threads']} threads ({', '.join(machine['features'])})",
        f"Python {machine['python']}, {versions}",
        result["date"],
    ]
    if result["quick"]:
        parts.append("QUICK: too few runs to be believed")
    if busy > 0.05:
        parts.append(
            f"others used up to {100 * busy:.0f} % of the processors meanwhile: measure again on a quiet machine"
        )
    return f"<sub>{'; '.join(parts)}.</sub>"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
