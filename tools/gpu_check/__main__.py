"""The command line: makes the environment, runs one step after the other, writes the JSON; standard library alone."""

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

ROOT = Path(__file__).parents[2]
FORMAT = 1
LAST_LINES = 40

# In order; each of them for so many seconds at most.
STEPS = {
    "device": 120,
    "versions": 60,
    "tests": 900,
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
    print(f"{options.output}: {len(result['steps']) - len(failed)} steps are well", file=sys.stderr)
    for name in failed:
        print(f"  {name}: {result['steps'][name]['error'].splitlines()[0]}", file=sys.stderr)
    return 1 if failed else 0


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.gpu_check", description="Checks EdgeKit on the GPU here.")
    parser.add_argument("--output", type=Path, required=True, help="the JSON file")
    parser.add_argument("--wheels", type=Path, help="make an environment of the wheels in this folder")
    parser.add_argument("--only", action="append", choices=STEPS, help="this step alone; may come several times")
    parser.add_argument("--quick", action="store_true", help="few runs: does it work?")
    parser.add_argument("--commit", default="", help="of the checkout, where it has no .git")
    return parser.parse_args(arguments)


def _step(python: str, name: str, folder: Path, *, quick: bool) -> dict[str, Any]:
    """Runs a step in a process of its own; what it does to that process is recorded."""
    print(f"== {name}", file=sys.stderr, flush=True)
    answer = folder / f"{name.replace(' ', '-')}.json"
    log = answer.with_suffix(".log")
    command = [python, "-m", "tools.gpu_check.step", name, str(answer), *(["--quick"] if quick else [])]
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
        found = json.loads(answer.read_text())
    except (OSError, ValueError):
        found = {"ok": False, "error": died or "it wrote no answer"}
    lines = log.read_text(errors="replace").splitlines()[-LAST_LINES:]
    found |= {"seconds": seconds} | ({} if found["ok"] else {"log": lines})
    places = {str(folder): "TEMPORARY", str(ROOT): "CHECKOUT", sys.prefix: "ENVIRONMENT", str(Path.home()): "HOME"}
    return _without_places(found, places)


def _without_places(found: Any, places: dict[str, str]) -> Any:
    """Results are published; where things lie on the machine is nobody's business."""
    if isinstance(found, str):
        for place, name in places.items():
            found = found.replace(place, name)
    elif isinstance(found, list):
        found = [_without_places(item, places) for item in found]
    elif isinstance(found, dict):
        found = {key: _without_places(value, places) for key, value in found.items()}
    return found


def _environment(wheels: Path, folder: Path) -> tuple[str, dict[str, Any]]:
    """A virtual environment with all projects whose wheels lie in the folder; the present one where that fails."""
    start = time.perf_counter()
    names = sorted({wheel.name.split("-", 1)[0] for wheel in wheels.glob("*.whl")} - {"edgekit"})
    python = folder / "venv" / "bin" / "python"
    try:
        if not names:
            raise OSError(f"{wheels}: no wheels in it")
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
    """After every step, so that a machine that goes away leaves what was found until then."""
    output.parent.mkdir(parents=True, exist_ok=True)
    part = output.with_name(f".{output.name}.part")
    part.write_text(json.dumps(result, indent=2) + "\n")
    part.replace(output)


if __name__ == "__main__":
    sys.exit(main())
