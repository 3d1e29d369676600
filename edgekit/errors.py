"""The exceptions that EdgeKit raises.

EdgeKitError              exit 1; has .hint
├── UsageError            exit 2; unknown recipe, option or data set: suggests the nearest match
│   └── RecipeError       names the file, the field or line, and what was expected
├── ModelError            weights that do not fit the model: names the first tensor, expected and got
├── ExportError           names the operator and the module that it came from
├── GraphError            an invalid graph, or an operator that the target does not support
├── CalibrationError      no images, NaN in tensor X after image Y, a table of another model
├── DataError             an image or a data set file that cannot be read
├── TrainError            a loss that is not finite, a checkpoint of another training run: names the step
├── BackendUnavailable    exit 3; what is missing and the command that installs it
├── BuildError            the last lines of the builder's log, its exit code or signal
├── EngineMismatch        built for another GPU, backend or model, or modified since: how to rebuild
├── RunError              wrong input: name, shape and dtype, expected and got
├── AccuracyError         exit 4; measured value, reference, tolerance
├── RegressionError       exit 5; an engine that is beyond a limit of `edgekit compare --fail-if`, for certain
├── UndecidedError        exit 6; a limit that the runs neither confirm nor refute: how to get more of them
└── SpeedError            exit 7; an engine that is not faster than FP32 with `--require-faster`: its slower layers

Notes of functions that are called from Python are warnings of the category `EdgeKitWarning`.

A message has the order: what, expected, got, fix. A fix that is a command or an action goes into ``hint``, which the
terminal prints on its own line.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Sequence

from edgekit.text import visible

__all__ = [
    "AccuracyError",
    "BackendUnavailable",
    "BuildError",
    "CalibrationError",
    "DataError",
    "EdgeKitError",
    "EdgeKitWarning",
    "EngineMismatch",
    "ExportError",
    "GraphError",
    "ModelError",
    "RecipeError",
    "RegressionError",
    "RunError",
    "SpeedError",
    "TrainError",
    "UndecidedError",
    "UsageError",
    "nearest",
    "needs_extra",
]


# A comparison of two names takes the product of their lengths.
_MAX_NAME = 250
_MAX_KNOWN = 5000


class EdgeKitError(Exception):
    """Base class of all EdgeKit exceptions.

    Args:
        message: what went wrong, what was expected, what was got; control characters are shown as escapes.
        hint: how to fix it, or an empty string.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        # Python prints the message of an exception as it is, and it may have names and labels from files.
        self.message, self.hint = visible(message), visible(hint)
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class EdgeKitWarning(UserWarning):
    """A note on a result that is not an error, such as random weights; the command line prints it as a note.

    Args:
        text: the note; control characters are shown as escapes.
    """

    def __init__(self, text: str = "") -> None:
        super().__init__(visible(text))


class UsageError(EdgeKitError):
    """An unknown name or option, or options that exclude each other."""

    exit_code = 2


class RecipeError(UsageError):
    """An invalid recipe or Darknet cfg file; names the file, the field or line, and what was expected."""


class ModelError(EdgeKitError):
    """Weights that do not fit the model."""


class ExportError(EdgeKitError):
    """A module that cannot be exported, or whose exported graph computes different outputs."""


class GraphError(EdgeKitError):
    """An invalid graph, or a graph that the target does not support."""


class CalibrationError(EdgeKitError):
    """Calibration cannot measure the ranges of a graph."""


class DataError(EdgeKitError):
    """An image or a data set file that cannot be read."""


class TrainError(EdgeKitError):
    """Training cannot continue."""


class BackendUnavailable(EdgeKitError):
    """A backend whose libraries or hardware are not available."""

    exit_code = 3


class BuildError(EdgeKitError):
    """A backend's builder failed or crashed, or built layers in another type than was asked for.

    Args:
        message: what went wrong, what was expected, what was got; control characters are shown as escapes.
        hint: how to fix it, or an empty string.
        nodes: names of the quantized nodes that the backend does not compute on integers.
    """

    def __init__(self, message: str, *, hint: str = "", nodes: Sequence[str] = ()) -> None:
        super().__init__(message, hint=hint)
        self.nodes = tuple(nodes)


class EngineMismatch(EdgeKitError):
    """An engine that was built for another machine, backend or model, or was modified since."""


class RunError(EdgeKitError):
    """An input that the engine does not accept, or an engine that failed while running."""


class AccuracyError(EdgeKitError):
    """A result that differs from its reference by more than the tolerance."""

    exit_code = 4


class RegressionError(EdgeKitError):
    """An engine that is beyond a limit relative to another, with its whole confidence interval."""

    exit_code = 5


class UndecidedError(EdgeKitError):
    """A limit that the measured runs can neither confirm nor refute."""

    exit_code = 6


class SpeedError(EdgeKitError):
    """An engine that is not faster than the FP32 engine beside it, although it has to be."""

    exit_code = 7


@contextlib.contextmanager
def needs_extra(what: str, extra: str) -> Iterator[None]:
    """Converts an import error inside the block to `BackendUnavailable`, with the command that installs the extra.

    Args:
        what: the operation that needs the imports, as in "building an engine".
        extra: the extra that installs the packages, such as ``build``.

    Raises:
        BackendUnavailable: a package of the extra is missing.
    """
    try:
        yield
    except ImportError as e:
        if (e.name or "").startswith("edgekit"):  # a bug in EdgeKit
            raise
        # Only this hint needs the metadata of packages.
        from edgekit.extras import install_command

        raise BackendUnavailable(
            f"{what} needs packages that are not installed: {e}", hint=install_command(extra)
        ) from e


def nearest(name: str, known: Iterable[str], *, listed: bool = True) -> str:
    """Returns a hint with the known names that are most similar to ``name``.

    Args:
        name: the unknown name.
        known: the names to choose from.
        listed: list all names if none is similar; if False, the hint is empty then.
    """
    import difflib  # most commands end without it

    name = str(name)  # a wrong argument in Python may be of any type
    known = sorted(itertools.islice(known, _MAX_KNOWN))
    short = [each for each in known if len(each) <= _MAX_NAME]
    close = difflib.get_close_matches(name[:_MAX_NAME], short, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"known: {', '.join(known)}" if known and listed else ""
