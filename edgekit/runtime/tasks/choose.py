"""Finds the tasks: every module of this package that declares a ``TASK``."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any

import edgekit.runtime.tasks
from edgekit.engine.bundle.manifest import Manifest
from edgekit.errors import RunError

if TYPE_CHECKING:  # its module imports this one
    from edgekit.runtime.tasks.task import EngineTask

__all__ = ["declared_in", "require_task", "task_of", "tasks"]


@functools.cache
def tasks() -> dict[str, EngineTask]:
    """Returns all tasks by name."""
    return {task.name: task for task in declared_in(edgekit.runtime.tasks, "TASK")}


def task_of(manifest: Manifest) -> EngineTask:
    """Returns the task of an engine; an unknown task becomes ``tensor``, which takes and returns arrays."""
    return tasks().get(manifest.task, tasks()["tensor"])


def require_task(task: EngineTask, manifest: Manifest) -> None:
    """Checks that an engine is for a task.

    Raises:
        RunError: the engine is for another task.
    """
    if manifest.task != task.name:
        raise RunError(
            f"'{manifest.name}': expected {task.engine}, got an engine for task '{manifest.task}'",
            hint=task_of(manifest).method,
        )


def declared_in(package: ModuleType, name: str) -> Iterator[Any]:
    """Yields the attribute ``name`` of each module in a package that has it, in the order of the module names."""
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        found = getattr(importlib.import_module(module.name), name, None)
        if found is not None:
            yield found
