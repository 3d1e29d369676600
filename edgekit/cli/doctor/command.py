"""``edgekit doctor``: shows what this machine can build and run, and what is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from edgekit.cli.output import JsonOutput, json_options
from edgekit.cli.terminal import console as terminal
from edgekit.text import json_bytes

if TYPE_CHECKING:
    from rich.console import RenderableType

    from edgekit.cli.doctor.survey import Survey

__all__ = ["doctor"]

MARKS = {"ok": "[green]✓[/]", "missing": "[red]✗[/]", "caution": "[yellow]![/]", "fact": "[dim]·[/]"}
GROUPS = {"machine": "Machine", "backends": "Backends", "build": "Build tools"}


@click.command(short_help="Show what this machine can build and run.")
@json_options("the findings, or with --peaks the peaks,")
@click.option(
    "--peaks", is_flag=True, help="Show the peaks of the CPU instead: arithmetic and bandwidth, measured once."
)
@click.option("--recalibrate", is_flag=True, help="Measure the peaks again; takes some seconds.")
def doctor(json: JsonOutput, peaks: bool, recalibrate: bool) -> None:
    """Show what this machine can build and run, and how to install what is missing."""
    if peaks or recalibrate:
        _show_peaks(json, recalibrate)
        return
    from edgekit.cli.doctor.survey import survey

    found = survey()
    if json.wanted:
        json.write(json_bytes(found, indent=2))
    if json.printed:
        return

    console = terminal()
    for part in _parts(found):
        console.print(part)


def _show_peaks(json: JsonOutput, recalibrate: bool) -> None:
    from edgekit.cli.progress import progress_on_stderr
    from edgekit.measure.peaks import machine_peaks
    from edgekit.report.estimate_table import terminal_from_peaks

    with progress_on_stderr() as progress:
        found = machine_peaks(recalibrate=recalibrate, progress=progress)
    if json.wanted:
        json.write(json_bytes(found, indent=2))
    if not json.printed:
        terminal().print(terminal_from_peaks(found))


def _parts(found: Survey) -> list[RenderableType]:
    from rich.table import Table
    from rich.text import Text

    parts: list[RenderableType] = []
    for group, heading in GROUPS.items():
        grid = Table.grid(padding=(0, 1))
        grid.add_column(width=1)
        grid.add_column(width=14)
        grid.add_column(overflow="fold")
        for finding in found.findings:
            if finding.group == group:
                value = Text(finding.value)
                if finding.hint:
                    value.append(f"\n{finding.hint}", style="cyan" if finding.status == "missing" else "yellow")
                grid.add_row(Text.from_markup(MARKS[finding.status]), finding.name, value)
        parts += [Text(heading, style="bold"), grid, Text()]
    return parts + [Text(line, style="bold") for line in found.verdict]
