"""Measures engines in turns: interleaved, in random order, each turn in a new process.

A machine that warms up or gets busy then slows all of them equally. Where the pages of a process lie in memory makes it
up to 4 % faster or slower than another process of the same program for its whole life (measured with YOLOv3-416 in
INT8), so each turn is a new process, and a ratio is computed over many turns.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np

from edgekit.arguments import is_on_command_line
from edgekit.errors import RunError
from edgekit.measure.contenders import Contender
from edgekit.measure.turn import TurnRequest, TurnResponse
from edgekit.progress import Progress, Warnings
from edgekit.scratch import scratch_folder
from edgekit.text import json_bytes

__all__ = ["measure_by_turns"]

LAST_LINES = 8


def measure_by_turns(
    contenders: Sequence[Contender],
    feeds: Sequence[Mapping[str, np.ndarray]],
    *,
    rounds: int,
    seconds: float,
    threads: int = 0,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[list[TurnResponse]]:
    """Measures each contender once per round; the order within a round is random.

    Args:
        contenders: engines and ONNX files.
        feeds: the inputs of each contender by name.
        rounds: number of rounds.
        seconds: duration of the measured runs of a turn.
        threads: threads of each; 0 leaves it to the backend.
        seed: seed of the order.
        progress: receives the progress.

    Returns:
        The turns of each contender, in the order of the rounds.

    Raises:
        RunError: a turn failed.
    """
    order = random.Random(seed)
    turns: list[list[TurnResponse]] = [[] for _ in contenders]
    with scratch_folder() as folder:
        files = []
        for index, arrays in enumerate(feeds):
            files.append(folder / f"{index}.npz")
            np.savez(files[-1], allow_pickle=False, **arrays)
        shown = progress or Warnings()
        with shown.stage("measuring by turns", total=rounds * len(contenders), unit="turns") as advance:
            for _ in range(rounds):
                # In random order: an engine runs slower after one that heats the CPU.
                for index in order.sample(range(len(contenders)), len(contenders)):
                    contender = contenders[index]
                    request = TurnRequest(
                        parent=os.getpid(),
                        kind="onnx" if contender.kind == "onnx" else "engine",
                        path=contender.path,
                        feeds=str(files[index]),
                        threads=threads,
                        seconds=seconds,
                        on_command_line=is_on_command_line(),
                    )
                    turns[index].append(_turn(contender.name, request, folder))
                    advance(1)
    return turns


def _turn(name: str, request: TurnRequest, folder: Path) -> TurnResponse:
    asked, answered = folder / "request.json", folder / "response.json"
    asked.write_bytes(json_bytes(request))
    answered.unlink(missing_ok=True)
    command = [sys.executable, "-m", "edgekit.measure.turn", str(asked), str(answered)]
    # Vendors' libraries write to standard output, which is kept for JSON.
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if not answered.exists():
        tail = "\n".join(done.stdout.decode(errors="replace").strip().splitlines()[-LAST_LINES:])
        raise RunError(f"{name}: the process of a turn ended with exit code {done.returncode}\n{tail}")
    response = msgspec.json.decode(answered.read_bytes(), type=TurnResponse)
    if response.error:
        raise RunError(f"{name}: {response.error}", hint=response.hint)
    return response
