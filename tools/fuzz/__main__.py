from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tools.fuzz.record import Outcome, record
from tools.fuzz.targets import TARGETS

GRACE_SECONDS = 120.0
"""How much more of the processor than its time a child may use: for imports, and an input in a library's own code."""
IDLE_SECONDS = 600.0
"""How long a child may wait without computing: other programs do not keep it from the processor for so long."""


def campaign(
    name: str, seconds: float, seed: int, findings: Path, *, coverage: bool, corpus: Path | None = None
) -> Outcome:
    """Fuzzes one target in a child process.

    A child that ends before its time is a finding. Ctrl-C or SIGTERM stops the campaign, which keeps what it did.

    Args:
        name: the target.
        seconds: how much of the processor's time it takes.
        seed: start of the random numbers.
        findings: folder for inputs that failed.
        coverage: choose inputs by coverage, with atheris.
        corpus: folder in which atheris keeps inputs that reached new code, so that the next campaign begins with them.
    """
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        command = [
            sys.executable,
            "-m",
            "tools.fuzz.worker",
            name,
            str(place),
            f"--seconds={seconds}",
            f"--seed={seed}",
        ]
        if coverage:
            command += ["--coverage", f"--corpus={(corpus or place / 'corpora') / name}"]
        ended, stopped = "", False
        try:
            ended = how_it_ended(command, place / "log", seconds + GRACE_SECONDS)
        except KeyboardInterrupt:
            stopped = True
        result = place / "result.json"
        found: dict[str, Any] = (
            json.loads(result.read_text())
            if result.exists()
            else {"runs": 0, "seconds": 0.0, "findings": [], "newest": None}
        )
        if ended:
            found["findings"].append(ended)
            if (place / "current").exists():
                shutil.copy(place / "current", place / f"{name}-ended")
        for file in place.glob(f"{name}-*"):
            findings.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, findings / f"{file.name}-seed{seed}")
        return Outcome(**found, stopped=stopped)


def how_it_ended(command: list[str], log: Path, limit_s: float, idle_s: float = IDLE_SECONDS) -> str:
    """Runs a command, and ends it if it computes or waits for too long; returns what went wrong, or an empty text.

    Args:
        command: program and arguments.
        log: file for what it prints.
        limit_s: how much of the processor's time it may use; time in which other programs compute does not count.
        idle_s: how long it may wait without using any.
    """
    with log.open("w") as file:
        child = subprocess.Popen(command, stdout=file, stderr=file)
        used, since = 0.0, time.monotonic()
        try:
            while used <= limit_s and time.monotonic() - since <= idle_s:
                try:
                    status = child.wait(1)
                    return f"the process ended with {status}: {_end_of(log)}" if status else ""
                except subprocess.TimeoutExpired:
                    before, used = used, _processor_seconds(child.pid)
                since = time.monotonic() if used > before else since
            return "the process does not end"
        finally:
            child.kill()
            child.wait()


def _end_of(log: Path) -> str:
    return log.read_text(errors="replace")[-300:]


def _processor_seconds(process: int) -> float:
    """Returns how much of the processor's time a process has used; see ``man 5 proc_pid_stat``."""
    after_name = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.fuzz", description="Fuzz the readers of files.")
    parser.add_argument("target", nargs="?", choices=sorted(TARGETS), metavar="TARGET", help=", ".join(sorted(TARGETS)))
    parser.add_argument("--all", action="store_true", help="all targets, one after the other")
    parser.add_argument("--seconds", type=float, default=60, help="the processor's time for a target; default: 60")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--findings", type=Path, default=Path("findings"), help="folder to write failing inputs to")
    parser.add_argument("--corpus", type=Path, help="folder in which atheris keeps what it found for the next campaign")
    parser.add_argument("--record", type=Path, help="JSON file to add the runs and seconds of each target to")
    parser.add_argument("--no-coverage", action="store_true", help="mutate without atheris, even if it is installed")
    options = parser.parse_args()
    if options.all == (options.target is not None):
        parser.error("expected a TARGET or --all")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    coverage = not options.no_coverage and importlib.util.find_spec("atheris") is not None
    total = 0
    for name in sorted(TARGETS) if options.all else [options.target]:
        outcome = campaign(
            name, options.seconds, options.seed, options.findings, coverage=coverage, corpus=options.corpus
        )
        if options.record:
            record(options.record, name, outcome)
        print(f"{name}: {outcome.runs:,} runs in {outcome.seconds:.0f} s, {len(outcome.findings)} findings", flush=True)
        for text in outcome.findings:
            print(f"  {text}", flush=True)
        total += len(outcome.findings)
        if outcome.stopped:
            return 128 + signal.SIGINT
    return 1 if total else 0


if __name__ == "__main__":
    raise SystemExit(main())
