from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tools.fuzz.targets import TARGETS

GRACE_SECONDS = 120.0
"""How much longer than its time a child may take: imports, and an input that is in a library's own code."""


def campaign(name: str, seconds: float, seed: int, findings: Path, *, coverage: bool) -> tuple[int, list[str]]:
    """Fuzzes one target in a child process; returns the number of runs and the findings.

    A child that ends is a finding, and is started again for the rest of the time.
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
        try:
            child = subprocess.run(
                [*command, *(["--coverage"] if coverage else [])],
                capture_output=True,
                text=True,
                errors="replace",
                timeout=seconds + GRACE_SECONDS,
                check=False,
            )
            ended = "" if child.returncode == 0 else f"the process ended with {child.returncode}: {child.stderr[-300:]}"
        except subprocess.TimeoutExpired:
            ended = "the process does not end"
        result = place / "result.json"
        found: dict[str, Any] = json.loads(result.read_text()) if result.exists() else {"runs": 0, "findings": []}
        if ended and (place / "current").exists():
            shutil.copy(place / "current", place / f"{name}-ended")
            found["findings"].append(ended)
        for file in place.glob(f"{name}-*"):
            findings.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, findings / f"{file.name}-seed{seed}")
        return found["runs"], found["findings"]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.fuzz", description="Fuzz the readers of files.")
    parser.add_argument("target", nargs="?", choices=sorted(TARGETS), metavar="TARGET", help=", ".join(sorted(TARGETS)))
    parser.add_argument("--all", action="store_true", help="all targets, one after the other")
    parser.add_argument("--seconds", type=float, default=60, help="time for a target; default: 60")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--findings", type=Path, default=Path("findings"), help="folder to write failing inputs to")
    parser.add_argument("--no-coverage", action="store_true", help="mutate without atheris, even if it is installed")
    options = parser.parse_args()
    if options.all == (options.target is not None):
        parser.error("expected a TARGET or --all")
    coverage = not options.no_coverage and importlib.util.find_spec("atheris") is not None
    total = 0
    for name in sorted(TARGETS) if options.all else [options.target]:
        runs, found = campaign(name, options.seconds, options.seed, options.findings, coverage=coverage)
        print(f"{name}: {runs:,} runs in {options.seconds:g} s, {len(found)} findings", flush=True)
        for text in found:
            print(f"  {text}", flush=True)
        total += len(found)
    return 1 if total else 0


if __name__ == "__main__":
    raise SystemExit(main())
