"""The record of campaigns: a JSON file in which those of a reader add up, and the table of it."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["RECORD", "Outcome", "markdown_from_record", "record"]

RECORD = Path(__file__).parent / "campaigns.json"
"""The campaigns that docs/robustness.md has the table of."""


class Outcome(NamedTuple):
    """What a campaign did.

    Attributes:
        runs: inputs that were read.
        seconds: the processor's time that they took.
        findings: what was wrong, a text for each kind.
        newest: at how many of the seconds an input last reached new code; nothing if that was not observed.
        stopped: a signal ended it before its time.
    """

    runs: int
    seconds: float
    findings: list[str]
    newest: float | None
    stopped: bool = False


def record(file: Path, name: str, outcome: Outcome) -> None:
    """Adds a campaign to the sums of its reader; several campaigns may end at once.

    ``{NAME: {"runs": N, "seconds": S, "findings": N, "seconds_since_new": S}}``, the last over all campaigns: one
    without new code adds its whole time.
    """
    with _locked(file.parent):
        sums: dict[str, dict[str, Any]] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        before = sums.get(name, {"runs": 0, "seconds": 0, "findings": 0})
        now = {"runs": outcome.runs, "seconds": round(outcome.seconds), "findings": len(outcome.findings)}
        sums[name] = {key: before[key] + value for key, value in now.items()}
        sums[name]["seconds_since_new"] = _since_new(before.get("seconds_since_new", 0), outcome)
        partial = file.with_suffix(".partial")
        partial.write_text(json.dumps(dict(sorted(sums.items())), indent=1) + "\n", encoding="utf-8")
        partial.replace(file)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _since_new(before: int, outcome: Outcome) -> int:
    if outcome.newest is None:  # not observed: no evidence for either
        return before
    return round(outcome.seconds - outcome.newest) + (0 if outcome.newest else before)


def markdown_from_record(file: Path = RECORD) -> str:
    """A row for each reader."""
    sums: dict[str, dict[str, int]] = json.loads(file.read_text(encoding="utf-8"))
    lines = ["| reader | runs | seconds | seconds since new code | findings |", "| --- | ---: | ---: | ---: | ---: |"]
    for name, row in sums.items():
        numbers = (row[key] for key in ("runs", "seconds", "seconds_since_new", "findings"))
        lines.append(f"| `{name}` | {' | '.join(f'{number:,}' for number in numbers)} |")
    total = [sum(row[key] for row in sums.values()) for key in ("runs", "seconds", "findings")]
    lines.append(f"| all | {total[0]:,} | {total[1]:,} | | {total[2]:,} |")
    return "\n".join(lines)
