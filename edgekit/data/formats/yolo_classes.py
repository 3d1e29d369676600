"""Reads the class numbers of YOLO lines, which begin at 0."""

from __future__ import annotations

from edgekit.errors import DataError

__all__ = ["ClassNumbers"]

_MAX_CLASSES = 10_000
"""Number of classes that a set without names may have, so that a number in px is not taken for one."""


class ClassNumbers:
    """The class numbers of a data set, and whether they begin at 1.

    They do if 0 is not among them, and the number behind the last class is that of a hundredth of the lines or more: a
    single one is a mistake.
    """

    def __init__(self, names: tuple[str, ...] | None) -> None:
        """Sets the class names; None if they are not known."""
        self._count = _MAX_CLASSES if names is None else len(names)
        self._lines = self._behind = 0
        self._has_0 = False
        self._first = ""

    def label(self, text: str, where: str) -> int:
        """Returns the class of a line.

        Args:
            text: the line's first field.
            where: location of the line, for messages.

        Raises:
            DataError: it is not the number of a class.
        """
        # Some programs write 3.0 for 3.
        digits = text.partition(".")[0] if text.rstrip("0").endswith(".") else text
        number = int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 9 else -1
        self._lines += 1
        self._has_0 |= number == 0
        if number == self._count:
            self._behind += 1
            self._first = self._first or where
        if not 0 <= number < self._count:
            raise DataError(
                f"{where}: expected a class from 0 to {self._count - 1}, got '{text[:40]}'", hint=_hint(text)
            )
        return number

    def require_from_0(self) -> None:
        """Raises a `DataError` if the numbers begin at 1, since then all boxes would have another class's name."""
        if self._has_0 or not self._behind or self._behind * 100 < self._lines:
            return
        raise DataError(
            f"{self._first}: expected classes from 0 to {self._count - 1}, got '{self._count}', and 0 in no line: the "
            "numbers seem to begin at 1",
            hint="subtract 1 from the class of each line, or add the missing name to those of the classes",
        )


def _hint(text: str) -> str:
    if "," in text:
        return "separate the numbers with spaces"
    return "" if text[:1].isdigit() or text.startswith("-") else "label files have the number of a class, not its name"
