"""Runs ``tests/gpu`` and counts the results."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def run_tests() -> dict[str, Any]:
    """Returns the numbers of passed, failed and skipped tests, and the messages of those that did not pass.

    Raises:
        RuntimeError: pytest ran no tests.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", "tests/gpu"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        print(done.stdout, done.stderr)
        try:
            return counted(ElementTree.parse(report).getroot())
        except OSError:
            last = (done.stdout + done.stderr).strip().splitlines() or [f"exit status {done.returncode}"]
            raise RuntimeError(f"pytest ran no tests: {last[-1]}") from None


def counted(report: ElementTree.Element) -> dict[str, Any]:
    """Returns the results of a JUnit report; failures are its problems."""
    counts: Counter[str] = Counter()
    messages: dict[str, dict[str, str]] = {"failed": {}, "skipped": {}}
    for case in report.iter("testcase"):
        outcome, message = _outcome(case)
        counts[outcome] += 1
        if message:
            messages[outcome][str(case.get("name"))] = message
    problems = [f"{name}: {message}" for name, message in messages["failed"].items()]
    if not counts["passed"]:
        problems.append("no test has passed")
    return {**counts, "skips": messages["skipped"], "problems": problems}


def _outcome(case: ElementTree.Element) -> tuple[str, str]:
    for tag, outcome in (("failure", "failed"), ("error", "failed"), ("skipped", "skipped")):
        found = case.find(tag)
        if found is not None:
            return outcome, found.get("message") or "it gives no reason"
    return "passed", ""
