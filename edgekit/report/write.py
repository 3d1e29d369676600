"""Writes the build report of a bundle: ``report.json`` for programs, ``report.html`` for people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekit.measure.reports import (
    BUILD_REPORT_FILE,
    BuildReport,
    LatencyReport,
    build_report_from_measurements,
    json_from_report,
)
from edgekit.report.html.page import html_from_build

__all__ = ["write_build_report"]


def write_build_report(folder: Path, reports: dict[str, LatencyReport], extra: dict[str, Any]) -> BuildReport:
    """Writes both files into ``folder`` and returns the report.

    Args:
        folder: the bundle, which must exist.
        reports: measurements by precision, the reference first: ``{"fp32": …, "int8": …}``.
        extra: further measurements; a name that ends in ``_s``, ``_ms`` or ``_bytes`` is shown with that unit.
    """
    report = build_report_from_measurements(reports, extra)
    (folder / BUILD_REPORT_FILE).write_bytes(json_from_report(report))
    (folder / "report.html").write_text(html_from_build(report), encoding="utf-8")
    return report
