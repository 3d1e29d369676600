"""A child process ends with the command that started it, also if that is killed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from edgekit.measure.turn import TurnRequest
from edgekit.text import json_bytes

CHILD = """
import os, time
from edgekit.engine.parent import end_with_parent
end_with_parent(os.getppid())
print("ready", flush=True)
time.sleep(600)
"""
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {CHILD!r}])"


def test_a_child_ends_with_its_killed_parent() -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, env=environment) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"ready\n"
        parent.kill()
        assert parent.communicate(timeout=30)[0] == b""  # the end of the output, which the child has open too


def test_the_process_of_a_turn_ends_without_its_parent(tmp_path: Path) -> None:
    np.savez(tmp_path / "feeds.npz", x=np.zeros(1))
    request = TurnRequest(
        parent=1,
        kind="engine",
        path="none",
        feeds=str(tmp_path / "feeds.npz"),
        threads=0,
        seconds=1.0,
        on_command_line=True,
    )
    (tmp_path / "request.json").write_bytes(json_bytes(request))
    command = [sys.executable, "-m", "edgekit.measure.turn", str(tmp_path / "request.json"), str(tmp_path / "response")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run(command, env=environment, check=False).returncode == 1
    assert not (tmp_path / "response").exists()
