"""Protects engines that exist from being replaced by an engine of another model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekit.arguments import argument
from edgekit.engine.bundle.manifest import manifest_fields
from edgekit.errors import UsageError

__all__ = ["replaced_engine"]


def replaced_engine(output: Path, *, name: str, precision: str, target: str, force: bool) -> str:
    """Returns a note on the engine that a new one at ``output`` replaces; empty if there is none.

    An engine of the same model in another precision or for another target can be built again; the note names both.

    Args:
        output: the folder of the new engine.
        name: the new engine's model.
        precision: its precision.
        target: its backend.
        force: replace any engine.

    Raises:
        UsageError: the engine at ``output`` is of another model, and ``force`` is False.
    """
    found = manifest_fields(output)
    if not found:
        return ""
    there, new = _text(found.get("name"), found.get("precision"), found.get("backend")), _text(name, precision, target)
    if found.get("name") != name and not force:
        raise UsageError(
            f"{output}: expected no engine, or one of {name}, got one of {found.get('name')}",
            hint=f"choose another {argument('output')}, or replace it with {argument('force', True)}",
        )
    by = f" by {new}" if there != new else ""
    return f"the engine at {output} of {found.get('created', 'an unknown time')}, {there}, was replaced{by}"


def _text(name: Any, precision: Any, target: Any) -> str:
    return f"{name} in {str(precision).upper()} for {target}"
