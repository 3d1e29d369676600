"""``edgekit run`` for engines that take texts: a text on the command line, or a file with one text per line."""

from __future__ import annotations

import json
from pathlib import Path

from rich import box
from rich.table import Table
from rich.text import Text

from edgekit.cli.output import JsonOutput, write_file
from edgekit.cli.terminal import console as terminal
from edgekit.cli.terminal import echo
from edgekit.errors import DataError
from edgekit.runtime.session import Session
from edgekit.runtime.tasks.task import TextTask

__all__ = ["run_texts"]


def run_texts(
    session: Session,
    task: TextTask,
    source: Path | None,
    text: str | None,
    save: Path | None,
    *,
    json_output: JsonOutput,
) -> None:
    """Runs the session on each text and shows the results.

    Args:
        session: the engine.
        task: the engine's task.
        source: a file with one text per line; None if ``text`` is given.
        text: the text.
        save: file to write the results to, one per line.
        json_output: where to write texts and results as JSON.
    """
    texts = [text] if text is not None else _lines(source)
    pairs = [(line, task.predict(session, line)) for line in texts]
    if save is not None:
        write_file(save, "".join(f"{result}\n" for _, result in pairs).encode())
    if json_output.wanted:
        rows = [{"source": a, task.result: b} for a, b in pairs]
        json_output.write(json.dumps(rows, indent=1, ensure_ascii=False))
    if json_output.printed:
        return
    if save is None and text is not None:
        echo(pairs[0][1])
    elif save is None:
        _print_table(pairs, task.result)


def _lines(source: Path | None) -> list[str]:
    assert source is not None
    try:
        lines = source.read_text(encoding="utf-8-sig").splitlines()
    except OSError as e:
        raise DataError(f"{source}: expected a text file, got: {e.strerror}") from e
    except UnicodeDecodeError as e:
        raise DataError(f"{source}: expected a text in UTF-8, got: {e}") from e
    if not lines:
        raise DataError(f"{source}: expected one text per line, got an empty file")
    return lines


def _print_table(pairs: list[tuple[str, str]], result: str) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("source", style="bold", overflow="fold")
    table.add_column(result, overflow="fold")
    for source, translation in pairs:
        table.add_row(Text(source), Text(translation))
    terminal().print(table)
