"""Folders that an export writes, and replaces only if nobody changed them."""

from __future__ import annotations

import hashlib
from collections.abc import Set
from pathlib import Path

import edgekit
from edgekit.engine.bundle.manifest import Manifest
from edgekit.errors import UsageError

__all__ = ["labels_text", "require_one_line_labels", "require_own_folder", "sealed"]


def sealed(config: str) -> str:
    """Returns a configuration after a line with its hash, which shows later whether the file was edited."""
    digest = hashlib.sha256(config.encode()).hexdigest()
    return f"# Written by EdgeKit {edgekit.__version__}; sha256 of what follows: {digest}\n{config}"


def require_own_folder(place: Path, *, config: str, ours: Set[str], other: str) -> list[str]:
    """Checks that the folder is missing, empty, or an unchanged export of EdgeKit.

    Args:
        place: the folder.
        config: name of the file with the hash.
        ours: names of the files that an export may write.
        other: a hint to choose another folder.

    Returns:
        A note on the export that is replaced, if there is one.

    Raises:
        UsageError: the folder has other files in it, or was edited.
    """
    if not place.exists():
        return []
    if not place.is_dir():
        raise UsageError(f"cannot write a model to {place}: it is a file", hint=other)
    present = {p.relative_to(place).as_posix() for p in place.rglob("*") if not p.is_dir()}
    if not present:
        return []
    if strangers := sorted(present - ours):
        raise UsageError(
            f"{place} has files that EdgeKit did not write: {', '.join(strangers[:3])}; nothing was changed",
            hint=f"move them away, or {other}",
        )
    if not _is_ours(place / config):
        raise UsageError(
            f"{place / config} was edited after EdgeKit wrote it; nothing was changed",
            hint=f"move the model away, or {other}",
        )
    return [f"the model that was exported to {place} before was replaced"]


def _is_ours(config: Path) -> bool:
    try:
        first, _, rest = config.read_text(encoding="utf-8").partition("\n")
    except (OSError, UnicodeDecodeError):
        return False
    digest = hashlib.sha256(rest.encode()).hexdigest()
    return first.startswith("# Written by EdgeKit") and first.endswith(digest)


def require_one_line_labels(bundle: Path, manifest: Manifest, file: str) -> None:
    """Raises `UsageError` if a label has several lines, which a file with one label per line cannot hold."""
    for label in manifest.labels:
        if label and label.splitlines() != [label]:
            raise UsageError(
                f"{bundle}: expected labels of one line, which {file} needs, got {label!r}",
                hint="build the engine again with other labels",
            )


def labels_text(manifest: Manifest) -> str:
    """Returns the contents of a file with one label per line."""
    return "".join(f"{label}\n" for label in manifest.labels)
