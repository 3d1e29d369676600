"""Options: dataclass fields with their command-line spelling, help text, parser and writer.

An option is declared once, as a field of a config struct. The click options, the rebuild command and the record in the
manifest are derived from these fields.
"""

from __future__ import annotations

import dataclasses
import operator
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, Literal, TypeGuard

from edgekit.arguments import argument
from edgekit.errors import UsageError, nearest
from edgekit.limits import MAX_SEED, MAX_SIZE, MAX_THREADS
from edgekit.option.objects import InPython
from edgekit.text import shown

__all__ = [
    "Option",
    "given_flags",
    "given_number",
    "given_options",
    "given_path",
    "given_real",
    "given_seed",
    "given_sizes",
    "given_threads",
    "given_values",
    "option",
    "option_value",
    "option_fields",
    "option_words",
    "plain_number",
]

_KEY = "edgekit.option"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Option:
    """How one field of a config appears on the command line.

    Attributes:
        help: one sentence for ``--help``.
        name: the field's name.
        flag: the option's spelling, such as ``--calib-method``.
        short: a second spelling of one letter, such as ``-o``.
        aliases: older spellings, which still work and are not shown.
        metavar: placeholder for the value in the help text.
        kind: ``text``, ``path``, ``place`` (a path to write to), ``integer``, ``flag`` (off by default), ``switch``
            (``--x/--no-x``), ``choice`` (one flag for each of ``choices``, such as ``--int8``), or ``data`` (text, or
            objects in Python, which ``convert`` checks).
        choices: the allowed values; for the kind ``choice``, each with its own help text.
        minimum: the smallest integer.
        maximum: the largest integer.
        repeated: the option may be given several times.
        parse: converts the command-line text, or the list of texts if ``repeated``, to the value that a Python caller
            would pass; raises ``ValueError`` with a message that begins with "expected".
        write: converts the field's value to command-line texts: one, or several if ``repeated``.
        convert: converts a caller's value to the field's value; raises `UsageError`.
        heading: heading in ``--help``, if it is not that of the config.
        shown_default: the default in words, for ``--help``, if the field's value does not say it.
        always: recorded in the manifest and the rebuild command even if it has its default value.
        recorded: recorded there at all.
    """

    help: str
    name: str = ""
    flag: str = ""
    short: str = ""
    aliases: tuple[str, ...] = ()
    metavar: str | None = None
    kind: Literal["text", "path", "place", "integer", "flag", "switch", "choice", "data"] = "text"
    choices: Mapping[str, str] | None = None
    minimum: int | None = None
    maximum: int | None = None
    repeated: bool = False
    parse: Callable[[Any], Any] | None = None
    write: Callable[[Any], Sequence[str]] | None = None
    convert: Callable[[Any], Any] | None = None
    heading: str = ""
    shown_default: str = ""
    always: bool = False
    recorded: bool = True


def option(default: Any, help: str, **changes: Any) -> Any:
    """Declares a dataclass field as an option; ``changes`` are fields of `Option`."""
    metadata = {_KEY: Option(help=help, **changes)}
    if isinstance(default, Mapping):
        return dataclasses.field(default_factory=lambda: dict(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def option_fields(config: Any) -> Iterator[tuple[dataclasses.Field[Any], Option]]:
    """Yields the fields of a config or config class that are options, in the order of their declaration."""
    for field in dataclasses.fields(config):
        declared = field.metadata.get(_KEY)
        if declared is not None:
            flag = declared.flag or f"--{field.name.replace('_', '-')}"
            yield field, dataclasses.replace(declared, name=field.name, flag=flag)


def option_value(field: dataclasses.Field[Any], declared: Option, value: Any, *, within: str = "") -> Any:
    """Checks and converts the value that a caller gives for an option.

    Args:
        field: the field of the config.
        declared: its option.
        value: the caller's value.
        within: see `argument`.

    Returns:
        The field's value.

    Raises:
        UsageError: the value has the wrong type, or is not one of the choices.
    """
    default = _default(field)
    if value is None and default is None:
        return None
    expected = _expected(declared, value)
    if expected:
        name = argument(declared.name, flag=declared.flag, within=within)
        hint = nearest(value, declared.choices, listed=False) if declared.choices and isinstance(value, str) else ""
        raise UsageError(f"{name}: expected {expected}, got {shown(value)}", hint=hint)
    if declared.kind == "integer":
        return operator.index(value)
    return value if declared.convert is None else declared.convert(value)


def _expected(declared: Option, value: Any) -> str:
    """Says what an option expects; empty if the value is of that kind, or if the option's ``convert`` checks it."""
    if declared.kind == "integer":
        if not _is_number(value, declared.minimum, declared.maximum):
            return f"a whole number{_range(declared.minimum, declared.maximum)}"
    elif declared.kind in ("flag", "switch"):
        return "" if isinstance(value, bool) else "True or False"
    elif declared.kind in ("choice", "data"):
        return ""
    elif declared.choices:
        return "" if isinstance(value, str) and value in declared.choices else _one_of(declared.choices)
    elif declared.repeated and declared.parse is None:
        texts = isinstance(value, Iterable) and not isinstance(value, str)
        return "" if texts and all(isinstance(item, str) for item in value) else "a list of texts"
    elif declared.parse is None and not isinstance(value, (str, os.PathLike)):
        return "a text or a path" if declared.kind == "text" else "a path"
    elif declared.parse is None and "\0" in str(value):
        return "a name without a zero byte"
    return ""


def _one_of(choices: Iterable[str]) -> str:
    *first, last = map(repr, choices)
    return f"{', '.join(first)} or {last}" if first else last


def given_path(name: str, value: Any) -> Path:
    """Returns an argument of a Python function that is a path.

    Raises:
        UsageError: it is neither text nor a path, or has a zero byte.
    """
    if not isinstance(value, (str, os.PathLike)):
        raise UsageError(f"{argument(name)}: expected a text or a path, got {shown(value)}")
    if "\0" in str(value):
        raise UsageError(f"{argument(name)}: expected a name without a zero byte, got {shown(value)}")
    return Path(value)


def given_number(name: str, value: Any, minimum: int = 0, maximum: int | None = None) -> int:
    """Returns an argument of a Python function that is a whole number.

    Raises:
        UsageError: it is not, or it is below ``minimum`` or above ``maximum``.
    """
    if not _is_number(value, minimum, maximum):
        raise UsageError(f"{argument(name)}: expected a whole number{_range(minimum, maximum)}, got {shown(value)}")
    return operator.index(value)


def given_threads(value: Any) -> int:
    """Returns an argument ``threads`` of a Python function, see `MAX_THREADS`.

    Raises:
        UsageError: it is no whole number, or below 0 or above the most.
    """
    return given_number("threads", value, 0, MAX_THREADS)


def given_seed(value: Any) -> int:
    """Returns an argument ``seed`` of a Python function, see `MAX_SEED`.

    Raises:
        UsageError: it is no whole number, or below 0 or above the largest.
    """
    return given_number("seed", value, 0, MAX_SEED)


def given_real(
    name: str, value: Any, minimum: float, maximum: float, *, open: bool = False, unit: str = "", flag: str = ""
) -> float:
    """Returns an argument of a Python function that is a number; one of numpy or PyTorch too.

    Args:
        name: the parameter.
        value: its value.
        minimum: the smallest number.
        maximum: the largest number.
        open: ``minimum`` itself is too small.
        unit: unit of both, for the message, such as `` s``.
        flag: the option's spelling on the command line; default: made from the name.

    Raises:
        UsageError: it is no number, not finite, or out of range.
    """
    number = plain_number(value)
    if not _is_real(number) or not minimum <= number <= maximum or (open and number == minimum):
        most = f"{maximum:,}{unit}"
        expected = f"more than {minimum:,}{unit}, and {most} at most" if open else f"{minimum:,} to {most}"
        raise UsageError(f"{argument(name, flag=flag)}: expected {expected}, got {shown(value)}")
    return float(number)


def plain_number(value: Any) -> Any:
    """Returns numbers of numpy or PyTorch, and arrays of them, as numbers and lists of Python; others unchanged."""
    if hasattr(value, "shape") and hasattr(value, "tolist"):
        return value.tolist()
    return [plain_number(each) for each in value] if isinstance(value, (list, tuple)) else value


def _is_real(value: object) -> TypeGuard[int | float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def given_flags(**flags: Any) -> None:
    """Checks arguments of a Python function that are True or False, by name.

    Raises:
        UsageError: one is neither.
    """
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise UsageError(f"{argument(name)}: expected True or False, got {shown(value)}")


def given_sizes(name: str, value: Any) -> Mapping[str, Sequence[int]]:
    """Returns an argument of a Python function that has shapes by name; None is no shapes.

    Raises:
        UsageError: it is no mapping of names to whole numbers up to `MAX_SIZE`.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(k, str) and _is_shape(v) for k, v in value.items()):
        raise UsageError(f"{argument(name)}: expected shapes by name, such as {{'x': (1, 3)}}, got {shown(value)}")
    return {key: tuple(map(operator.index, sizes)) for key, sizes in value.items()}


def _is_shape(value: Any) -> bool:
    is_sequence = isinstance(value, Sequence) and not isinstance(value, (str, bytes))
    return is_sequence and all(_is_number(size, 0, MAX_SIZE) for size in value)


def _is_number(value: Any, minimum: int | None, maximum: int | None) -> bool:
    if isinstance(value, bool):
        return False
    try:
        number = operator.index(value)
    except TypeError:  # also from arrays of several numbers, though they are `SupportsIndex`
        return False
    return (minimum is None or number >= minimum) and (maximum is None or number <= maximum)


def _range(minimum: int | None, maximum: int | None) -> str:
    if minimum is None:
        return ""
    return f" of {minimum} or more" if maximum is None else f" from {minimum} to {maximum}"


def given_options(config: Any) -> list[Option]:
    """Returns the options of a config that are always recorded or differ from their defaults."""
    return [
        found
        for field, found in option_fields(config)
        if found.recorded and (found.always or getattr(config, field.name) != _default(field))
    ]


def given_values(config: Any) -> dict[str, Any]:
    """Returns the values of `given_options` by name, for a record in a JSON file; paths and objects as text."""
    values = {found.name: getattr(config, found.name) for found in given_options(config)}
    return {name: str(value) if isinstance(value, (PurePath, InPython)) else value for name, value in values.items()}


def option_words(config: Any) -> list[str]:
    """Returns the command-line arguments that set a config's options; defaults are left out."""
    words: list[str] = []
    for found in given_options(config):
        words += _words(found, getattr(config, found.name))
    return words


def _default(field: dataclasses.Field[Any]) -> Any:
    factory = field.default_factory
    return field.default if factory is dataclasses.MISSING else factory()


def _words(found: Option, value: Any) -> list[str]:
    if found.kind == "choice":
        return [f"--{value}"]
    if found.kind == "flag":
        return [found.flag]
    if found.kind == "switch":
        return [found.flag if value else f"--no-{found.flag.removeprefix('--')}"]
    if value is None:
        return []
    if found.write is not None:
        texts = found.write(value)
    else:
        texts = list(map(str, value)) if found.repeated else [str(value)]
    return [word for text in texts for word in (found.flag, text)]
