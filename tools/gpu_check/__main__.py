"""The command line: makes the environment, runs the steps, writes the JSON; uses only the standard library."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tools.gpu_check.page import page_from_result

ROOT = Path(__file__).parents[2]
FORMAT = 1
LAST_LINES = 40

# The steps in order, with their timeouts in seconds.
STEPS = {
    "device": 120,
    "versions": 60,
    "tests": 900,
    "nms": 120,
    "preprocess": 300,
    "decode": 300,
    "frames": 120,
    "attention": 180,
    "attention in tensorrt": 300,
    "sanitizer": 900,
    "tensorrt fp32": 600,
    "tensorrt fp16": 600,
    "tensorrt int8": 600,
    "tensorrt-rtx fp32": 600,
    "tensorrt-rtx fp16": 600,
    "tensorrt-rtx int8": 600,
    "rtx on this gpu": 600,
    "runtime cache": 600,
}
NO_DEVICE = 3


def main(arguments: list[str] | None = None) -> int:
    options = _options(arguments)
    result: dict[str, Any] = {
        "format": FORMAT,
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": options.commit or _commit(),
        "system": f"{platform.system()} {platform.release()}",
        "arch": platform.machine(),
        "python": platform.python_version(),
        "quick": options.quick,
        "device": None,
        "steps": {},
    }
    with tempfile.TemporaryDirectory(prefix="gpu_check-") as folder:
        python = sys.executable
        if options.wheels:
            python, result["steps"]["environment"] = _environment(options.wheels, Path(folder))
        for name in options.only or STEPS:
            result["steps"][name] = _step(python, name, Path(folder), quick=options.quick)
            if name == "device":
                result["device"] = result["steps"][name].get("figures")
            _write(options.output, result)
            if name == "device" and result["device"] is None:
                print(f"no device: {result['steps'][name]['error']}", file=sys.stderr)
                return NO_DEVICE
    failed = [name for name, step in result["steps"].items() if not step["ok"]]
    print(f"{options.output}: {len(result['steps']) - len(failed)} steps passed", file=sys.stderr)
    for name in failed:
        print(f"  {name}: {result['steps'][name]['error'].splitlines()[0]}", file=sys.stderr)
    return 1 if failed else 0


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.gpu_check", description="Checks EdgeKit on the GPU here.")
    parser.add_argument("--output", type=Path, required=True, help="the JSON file; a page is written beside it")
    parser.add_argument("--wheels", type=Path, help="make an environment from the wheels in this folder")
    parser.add_argument("--only", action="append", choices=STEPS, help="run only this step; repeatable")
    parser.add_argument("--quick", action="store_true", help="use few runs, as a smoke test")
    parser.add_argument("--commit", default="", help="commit of the checkout, if it has no .git")
    return parser.parse_args(arguments)


def _step(python: str, name: str, folder: Path, *, quick: bool) -> dict[str, Any]:
    """Runs a step in its own process, and records its result, exception, signal or timeout."""
    print(f"== {name}", file=sys.stderr, flush=True)
    output = folder / f"{name.replace(' ', '-')}.json"
    log = output.with_suffix(".log")
    command = [python, "-m", "tools.gpu_check.step", name, str(output), *(["--quick"] if quick else [])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
    start = time.perf_counter()
    with log.open("wb") as stream:
        try:
            code = subprocess.run(
                command, cwd=ROOT, env=environment, stdout=stream, stderr=stream, timeout=STEPS[name], check=False
            ).returncode
            died = "" if code >= 0 else f"killed by {signal.Signals(-code).name}"
        except subprocess.TimeoutExpired:
            died = f"not done after {STEPS[name]} s"
    seconds = round(time.perf_counter() - start, 3)
    try:
        found = json.loads(output.read_text())
    except (OSError, ValueError):
        found = {"ok": False, "error": died or "the step wrote no result"}
    lines = log.read_text(errors="replace").splitlines()[-LAST_LINES:]
    found |= {"seconds": seconds} | ({} if found["ok"] else {"log": lines})
    places = {str(folder): "TEMPORARY", str(ROOT): "CHECKOUT", sys.prefix: "ENVIRONMENT", str(Path.home()): "HOME"}
    return _without_places(found, places)


def _without_places(found: Any, places: dict[str, str]) -> Any:
    """Replaces paths of the machine, because results are published."""
    if isinstance(found, str):
        for place, name in places.items():
            found = found.replace(place, name)
    elif isinstance(found, list):
        found = [_without_places(item, places) for item in found]
    elif isinstance(found, dict):
        found = {key: _without_places(value, places) for key, value in found.items()}
    return found


def _environment(wheels: Path, folder: Path) -> tuple[str, dict[str, Any]]:
    """Makes a virtual environment from all wheels in a folder; returns the current interpreter if that fails."""
    start = time.perf_counter()
    names = sorted({wheel.name.split("-", 1)[0] for wheel in wheels.glob("*.whl")} - {"edgekit_compiler"})
    python = folder / "venv" / "bin" / "python"
    try:
        if not names:
            raise OSError(f"{wheels}: expected wheels, found none")
        install = [str(python), "-m", "pip", "install", "--no-index", "--no-deps", "--find-links", str(wheels), *names]
        for command in ([sys.executable, "-m", "venv", str(folder / "venv")], install):
            subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as e:
        words = getattr(e, "stderr", "") or getattr(e, "stdout", "") or str(e)
        return sys.executable, {"ok": False, "error": words.strip(), "seconds": round(time.perf_counter() - start, 3)}
    figures = {"wheels": names}
    return str(python), {"ok": True, "figures": figures, "seconds": round(time.perf_counter() - start, 3)}


def _commit() -> str:
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def _write(output: Path, result: dict[str, Any]) -> None:
    """Writes the results; called after each step, so that they survive if the machine goes away."""
    output.parent.mkdir(parents=True, exist_ok=True)
    for path, text in (
        (output, json.dumps(result, indent=2) + "\n"),
        (output.with_suffix(".md"), page_from_result(result)),
    ):
        part = path.with_name(f".{path.name}.part")
        part.write_text(text)
        part.replace(path)


if __name__ == "__main__":
    sys.exit(main())
