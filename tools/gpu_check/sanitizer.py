"""Runs the checks of the kernels under NVIDIA's compute-sanitizer, which finds wrong addresses and missing barriers."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
CHECKS = ("nms", "preprocess", "decode")
TOOLS = ("memcheck", "racecheck")
SECONDS = 120


def check_sanitizer(program: str = "compute-sanitizer", checks: tuple[str, ...] = CHECKS) -> dict[str, Any]:
    """Returns what each tool says of each check; or that this machine has none of them."""
    if shutil.which(program) is None:
        return {"compute-sanitizer": "not installed; it is part of the CUDA toolkit"}
    found: dict[str, Any] = {"problems": []}
    with tempfile.TemporaryDirectory(prefix="sanitizer-") as folder:
        for tool in TOOLS:
            for check in checks:
                said = _said(program, tool, check, Path(folder))
                found[f"{tool} {check}"] = said
                if not re.search(r"\b0 (errors|hazards)", said):
                    found["problems"].append(f"{tool} of {check}: {said}")
    return found


def _said(program: str, tool: str, check: str, folder: Path) -> str:
    """Returns the summary of one run, or its last line if there is none."""
    step = [sys.executable, "-m", "tools.gpu_check.step", check, str(folder / "result.json"), "--quick"]
    try:
        done = subprocess.run(
            [program, "--tool", tool, *step], cwd=ROOT, capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return f"not done after {SECONDS} s"
    lines = (done.stdout + done.stderr).strip().splitlines()
    summaries = [line for line in lines if "SUMMARY" in line]
    return (summaries or lines or [f"exit status {done.returncode}"])[-1].lstrip("= ")
