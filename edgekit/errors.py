"""Every error that EdgeKit raises on purpose.

EdgeKitError              exit 1; has .hint
├── UsageError            exit 2; unknown recipe, option, data set: names the nearest match
│   └── RecipeError       names file, field or line, and what was expected
├── ModelError            weights that do not fit the model: names the first tensor, expected and got
├── ExportError           names the operator and the module it came from
├── GraphError            a graph that is not valid, or has an operator the target cannot take
├── CalibrationError      no images, NaN in tensor X after image Y, a table for another model
├── DataError             a picture or a file of a data set that cannot be read
├── TrainError            a loss that is no number, a checkpoint of another training: names the step
├── BackendUnavailable    exit 3; what is missing and the command that installs it
├── BuildError            the builder's own last words, its exit code or signal
├── EngineMismatch        built for another GPU, backend or model, or edited since: how to rebuild
├── RunError              wrong input: expected and got, shape and dtype, by name
└── AccuracyError         exit 4; measured, reference, tolerance

A message has the order: what, expected, got, fix. The fix goes in ``hint`` when it is a command or an
action; the terminal prints it on a line of its own.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterable, Iterator

from edgekit.extras import install_command

__all__ = [
    "AccuracyError",
    "BackendUnavailable",
    "BuildError",
    "CalibrationError",
    "DataError",
    "EdgeKitError",
    "EngineMismatch",
    "ExportError",
    "GraphError",
    "ModelError",
    "RecipeError",
    "RunError",
    "TrainError",
    "UsageError",
    "nearest",
    "needs_extra",
]


class EdgeKitError(Exception):
    """What every error of EdgeKit derives from.

    Args:
        message: what went wrong, what was expected, what was got.
        hint: what to do about it, or an empty string.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class UsageError(EdgeKitError):
    """A name or an option that does not exist, or options that exclude each other."""

    exit_code = 2


class RecipeError(UsageError):
    """A recipe, or a Darknet cfg file, that is not valid: names file, field or line, and what was expected."""


class ModelError(EdgeKitError):
    """Weights that do not fit the model."""


class ExportError(EdgeKitError):
    """A module that could not be turned into a graph, or whose graph computes something else."""


class GraphError(EdgeKitError):
    """A graph that is not valid, or that the target cannot take."""


class CalibrationError(EdgeKitError):
    """Ranges that could not be measured."""


class DataError(EdgeKitError):
    """A picture or a file of a data set that cannot be read."""


class TrainError(EdgeKitError):
    """A training that cannot go on."""


class BackendUnavailable(EdgeKitError):
    """A backend whose libraries or hardware are not here."""

    exit_code = 3


class BuildError(EdgeKitError):
    """A backend's builder that failed or died."""


class EngineMismatch(EdgeKitError):
    """An engine that was built for something else than what is here, or was changed since."""


class RunError(EdgeKitError):
    """An input that the engine does not take, or an engine that failed while running."""


class AccuracyError(EdgeKitError):
    """A result that is further from its reference than allowed."""

    exit_code = 4


@contextlib.contextmanager
def needs_extra(what: str, extra: str) -> Iterator[None]:
    """Raises a failed import inside the block as `BackendUnavailable`, with the command that installs the extra.

    Args:
        what: what needs the imports, as in "building an engine".
        extra: the extra that installs the packages, such as ``build``.

    Raises:
        BackendUnavailable: a package of the extra is missing.
    """
    try:
        yield
    except ImportError as e:
        if (e.name or "").startswith("edgekit"):  # a bug of ours
            raise
        raise BackendUnavailable(
            f"{what} needs packages that are not installed: {e}", hint=install_command(extra)
        ) from e


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint that names the known names nearest to ``name``, or lists all when none is near."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"known: {', '.join(known)}" if known else ""
