"""The console of the command line; made by `edgekit.cli.terminal.console`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NoReturn

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from edgekit.text import visible

__all__ = ["SafeConsole"]


class SafeConsole(Console):
    """A rich console whose texts cannot control the terminal.

    Args:
        stderr: print to standard error.
        width: columns; None: those of the terminal.
        plain: no colours.
    """

    def __init__(self, *, stderr: bool, width: int | None, plain: bool) -> None:
        super().__init__(
            stderr=stderr,
            width=width,
            markup=False,
            emoji=False,
            highlight=False,
            color_system=None if plain else "auto",
        )

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Renders any object; its texts are made visible, rich's own control codes stay."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=visible(segment.text))

    def render_str(self, text: str, **options: Any) -> Text:
        """Converts a string to a text, whose width is that of what is shown."""
        return super().render_str(visible(text), **options)

    def print(self, *objects: Any, crop: bool = False, **options: Any) -> None:
        """Prints objects; a line that is longer than the terminal is continued in the next one, not cut."""
        super().print(*objects, crop=crop, **options)

    def on_broken_pipe(self) -> NoReturn:
        """Leaves the end of the program to `edgekit.cli.main`, as for every other output."""
        raise BrokenPipeError
