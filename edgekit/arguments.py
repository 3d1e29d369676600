"""Names of arguments in messages: ``--calib photos`` on the command line, ``calib='photos'`` in Python.

A message names an argument with `argument`, and never writes ``--calib`` itself, so that it can be understood by who
reads it. The command line says so once, with `on_command_line`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["argument", "either", "in_shell", "is_on_command_line", "on_command_line"]

_MISSING: Any = object()

_ON_COMMAND_LINE = False


@contextlib.contextmanager
def on_command_line(yes: bool = True) -> Iterator[None]:
    """Makes the messages inside the block name arguments as the command line does, in all threads of the process."""
    global _ON_COMMAND_LINE
    before, _ON_COMMAND_LINE = _ON_COMMAND_LINE, yes
    try:
        yield
    finally:
        _ON_COMMAND_LINE = before


def is_on_command_line() -> bool:
    """Whether messages name arguments as the command line does."""
    return _ON_COMMAND_LINE


def either(command_line: str, python: str) -> str:
    """Returns the wording for the command line or the one for Python."""
    return command_line if _ON_COMMAND_LINE else python


def in_shell(command: str) -> str:
    """Returns a command that has no equal in Python: as it is on the command line, called a shell's in Python."""
    return either(command, f"in a shell: {command}")


def argument(
    name: str, value: Any = _MISSING, *, like: str = "", flag: str = "", shell: str | None = None, within: str = ""
) -> str:
    """Returns an argument as the user writes it, such as ``--shape 320x320`` or ``shape=(320, 320)``.

    Args:
        name: the parameter's name in Python.
        value: its value in Python; without one, only the name is returned.
        like: a placeholder in place of a value, such as ``DIR``.
        flag: the option's spelling on the command line; default: made from the name.
        shell: the value on the command line, if it cannot be made from ``value``.
        within: the parameter in Python that has this one as an item, such as ``engine``.
    """
    if _ON_COMMAND_LINE:
        return _as_option(name, value, like, flag or f"--{name.replace('_', '-')}", shell)
    if value is _MISSING and not like:
        return f"{within}['{name}']" if within else name
    text = like or repr(_plain(value))
    return f"{within}={{'{name}': {text}}}" if within else f"{name}={text}"


def _as_option(name: str, value: Any, like: str, flag: str, shell: str | None) -> str:
    if name == "precision" and value is not _MISSING and flag == "--precision":
        return f"--{value}"  # each precision is an option of its own
    if value is True:
        return flag
    if value is False:
        return f"--no-{flag.removeprefix('--')}"
    text = like if value is _MISSING else _as_word(value) if shell is None else shell
    return f"{flag} {text}".rstrip()


def _as_word(value: Any) -> str:
    if isinstance(value, Mapping):
        ((key, item),) = value.items()
        return f"{key}:{_as_word(item)}" if key else _as_word(item)
    if isinstance(value, tuple) and type(value) is not tuple:  # a named tuple, such as a range of sizes
        return str(value)
    return "x".join(map(_as_word, value)) if isinstance(value, (tuple, list)) else str(value)


def _plain(value: Any) -> Any:
    """Replaces named tuples by plain ones, and enumerations by their text, so that a caller can paste the value."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return tuple(map(_plain, value))
    return str(value) if isinstance(value, str) or hasattr(value, "__fspath__") else value
