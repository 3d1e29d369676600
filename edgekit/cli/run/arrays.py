"""``edgekit run`` for engines that take arrays: reads and writes ``.npy`` and ``.npz`` files."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.cli.output import JsonOutput, write_file
from edgekit.cli.terminal import console as terminal
from edgekit.data.array_files import ARRAY_SUFFIXES, Arrays, arrays_from_file
from edgekit.errors import RunError
from edgekit.report.tables import FigureTable
from edgekit.runtime.inputs import checked
from edgekit.runtime.session import Session

__all__ = ["run_arrays"]


def run_arrays(session: Session, source: Path, save: Path | None, *, json_output: JsonOutput) -> None:
    """Runs the session on the arrays in ``source`` and prints a summary of the outputs.

    Args:
        session: the engine.
        source: ``.npy`` for an engine with one input, ``.npz`` with an array for each input, or an image if the
            engine has a preprocessing.
        save: ``.npz`` file to write the outputs to, or ``.npy`` file for the only one.
        json_output: where to write the summary as JSON.
    """
    outputs = session.run(_feeds(session, source))
    if save is not None:
        write_file(save, _content(save, outputs))
    summary = {name: _summary(array) for name, array in outputs.items()}
    if json_output.wanted:
        json_output.write(json.dumps(summary, indent=1))
    if not json_output.printed:
        _print_table(summary)


def _content(save: Path, outputs: dict[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    if save.suffix.lower() == ".npy":
        np.save(buffer, next(iter(outputs.values())))
    else:
        np.savez(buffer, allow_pickle=False, **outputs)
    return buffer.getvalue()


def _feeds(session: Session, source: Path) -> dict[str, np.ndarray]:
    if source.suffix.lower() not in ARRAY_SUFFIXES:
        if session.manifest.preprocess is not None:
            return session.preprocess(source)[0]
        raise RunError(
            f"{source}: expected a .npy or .npz file, because '{session.manifest.name}' takes arrays",
            hint="inputs: " + "; ".join(str(spec) for spec in session.inputs),
        )

    def named(arrays: Arrays) -> dict[str, np.ndarray]:
        if isinstance(arrays, dict):
            return arrays
        if len(session.inputs) != 1:
            names = ", ".join(spec.name for spec in session.inputs)
            raise RunError(
                f"{source}: expected an array for each of the inputs {names}, got one array",
                hint="save them in one .npz file",
            )
        return {session.inputs[0].name: arrays}

    return named(arrays_from_file(source, lambda zeros: checked(named(zeros), tuple(session.inputs), session.manifest)))


def _summary(array: np.ndarray) -> dict[str, Any]:
    summary: dict[str, Any] = {"dtype": array.dtype.name, "shape": list(array.shape)}
    if array.size and array.dtype.kind in "fiub":
        values = array.astype(np.float64)
        summary |= {"min": float(values.min()), "mean": float(values.mean()), "max": float(values.max())}
    return summary


def _print_table(summary: dict[str, dict[str, Any]]) -> None:
    table = FigureTable()
    table.add_column("output", style="bold")
    for column in ("dtype", "shape", "min", "mean", "max"):
        table.add_column(column, justify="right")
    for name, row in summary.items():
        numbers = [f"{row[column]:.4g}" if column in row else "" for column in ("min", "mean", "max")]
        table.add_row(name, row["dtype"], "x".join(map(str, row["shape"])) or "scalar", *numbers)
    terminal().print(table)
