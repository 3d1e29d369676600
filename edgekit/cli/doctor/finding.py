"""One line of what `edgekit doctor` has found."""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = ["Finding"]

Status = Literal["ok", "missing", "caution", "fact"]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the survey.

    Attributes:
        group: ``machine``, ``backends`` or ``build``.
        name: what was looked at.
        status: ``ok``; ``missing``, and ``hint`` installs it; ``caution``, and ``hint`` says why; or a mere ``fact``.
        value: what was found.
        hint: what to do, or what follows.
    """

    group: Literal["machine", "backends", "build"]
    name: str
    status: Status
    value: str
    hint: str = ""
