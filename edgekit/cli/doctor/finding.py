"""One finding of `edgekit doctor`."""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = ["Finding"]

Status = Literal["ok", "missing", "caution", "fact"]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One finding.

    Attributes:
        group: ``machine``, ``backends`` or ``build``.
        name: what was checked.
        status: ``ok``; ``missing``: ``hint`` is the command that installs it; ``caution``: ``hint`` is the reason;
            ``fact``: information only.
        value: what was found.
        hint: what to do, or the consequence.
    """

    group: Literal["machine", "backends", "build"]
    name: str
    status: Status
    value: str
    hint: str = ""
