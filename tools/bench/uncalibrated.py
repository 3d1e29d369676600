"""Measures the ways in which INT8 quantizes a model, as in the tables of docs/calibration.md.

``python -m tools.bench.uncalibrated MODEL.onnx INPUTS [BUILD OPTIONS]``: INPUTS is a folder of ``.npz`` files, on which
all engines are calibrated and compared. Prints processor time of one thread, and the signal-to-noise ratio of the worst
output against ONNX Runtime on the file.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROUNDS = 21
WAYS = {
    "cpu": ("--fp32", "--int8 --static", "--int8 --dynamic", "--int8 --weights-only"),
    "openvino": ("--fp32", "--int8", "--int8 --weights-only"),
}


def main(model: str, inputs: str, *options: str) -> None:
    """See the module."""
    with tempfile.TemporaryDirectory() as folder:
        engines: dict[str, tuple[str, str]] = {}
        for target, ways in WAYS.items():
            for way in ways:
                place = Path(folder) / f"{target}{way}".replace(" ", "")
                command = [sys.executable, "-m", "edgekit", "-q", "build", model, *way.split(), "--target", target]
                command += ["--threads", "1", "--calib", inputs, "--no-profile", "-o", str(place), *options]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode == 0:
                    engines[f"{target} {way}"] = ("edgekit", str(place))
                else:
                    print(f"{target} {way}: {done.stderr.strip().splitlines()[0]}")
        turns = [sys.executable, "-m", "tools.bench.foreign_turns", model, inputs, str(ROUNDS), json.dumps(engines)]
        found = json.loads(subprocess.run(turns, capture_output=True, text=True, check=True).stdout)
    print("| engine | ms | dB |\n| --- | --- | --- |")
    for name, figures in found.items():
        if "error" in figures:
            print(f"| {name} | {figures['error']} | |")
        else:
            print(f"| {name} | {sorted(figures['ms'])[len(figures['ms']) // 2]:.3g} | {figures['db']:.1f} |")


if __name__ == "__main__":
    main(*sys.argv[1:])
