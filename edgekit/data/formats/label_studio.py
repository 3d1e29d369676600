"""Recognizes the names that Label Studio gives to images: eight digits and ``-`` before the name of the file."""

from __future__ import annotations

import re

__all__ = ["hint_on_prefix"]

# A UUID begins with eight digits too.
_PREFIXED = re.compile(r"(?:^|[/\\])[0-9a-f]{8}-(?!(?:[0-9a-f]{4}-){3}[0-9a-f]{12}\b)[^/\\]+$")


def hint_on_prefix(name: str) -> str:
    """Returns a hint on an image that is not there if its name or path is one of Label Studio's, else an empty one."""
    if not _PREFIXED.search(name.strip()):
        return ""
    return (
        "Label Studio puts eight hexadecimal digits and '-' before names: use the images of its export, or rename yours"
    )
