"""An invalid value with a hint, and choices that suggest the nearest one."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    _Choice = click.Choice[str]
else:
    _Choice = click.Choice  # generic from click 8.2 on

__all__ = ["Choice", "HintedError"]


class HintedError(click.BadParameter):
    """An invalid value of an option; ``hint`` says how to fix it."""

    def __init__(self, message: str, hint: str, ctx: click.Context | None, param: click.Parameter | None) -> None:
        super().__init__(message, ctx, param)
        self.hint = hint


class Choice(_Choice):
    """One of several words; an error suggests the nearest one."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter as e:
            close = difflib.get_close_matches(str(value), self.choices, n=2)
            if not close:
                raise
            raise HintedError(e.message, f"did you mean {' or '.join(close)}?", ctx, param) from None
