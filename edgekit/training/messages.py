"""Names of training options in messages."""

from __future__ import annotations

from typing import Any

from edgekit.arguments import argument

__all__ = ["train_argument"]


def train_argument(name: str, *value: Any, shell: str | None = None) -> str:
    """Returns an option of training as the user writes it: ``--lr 0.1``, or ``changes={'lr': 0.1}`` in Python."""
    return argument(name, *value, shell=shell, within="changes")
