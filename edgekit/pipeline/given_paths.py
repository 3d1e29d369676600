"""Checks that the files and data sets exist that a build names, before the model is loaded."""

from __future__ import annotations

from pathlib import Path

from edgekit.arguments import argument
from edgekit.config import BuildConfig
from edgekit.data.calibration.calibration_set import calibration_set_names
from edgekit.data.examples import data_set_names, is_data_set
from edgekit.data.formats.unsupported import unsupported_format
from edgekit.data.label_files import labels_from_file
from edgekit.errors import UsageError, nearest
from edgekit.models.cfg.recipe import recipe_from_cfg
from edgekit.models.weights.download import require_weights
from edgekit.pipeline.model_kind import kind_of
from edgekit.recipe.schema import load_recipe
from edgekit.storage import is_there

__all__ = ["require_given_paths"]


def require_given_paths(config: BuildConfig) -> None:
    """Checks that the calibration data, the weights and the class names of a build exist.

    Raises:
        UsageError: one of them is neither a known name nor a path that exists, or the calibration data is a file of
            no data set.
        DataError: the file of class names cannot be read, or has none.
    """
    if config.model.labels is not None:
        labels_from_file(config.model.labels)
    if isinstance(config.calibration.calib, str):
        _require_calibration_data(config.calibration.calib)
    _require_weights(config)


def _require_calibration_data(source: str) -> None:
    known = [*calibration_set_names(), *data_set_names()]
    prefix, colon, rest = source.partition(":")
    if source in known or prefix in data_set_names() or (colon and is_there(Path(rest))):
        return
    if source and is_there(Path(source)):
        _require_data_set(Path(source))
        return
    path = Path(rest if colon else source)
    # A link to nothing is in the folder, too.
    beside = [str(file) for name in _names_in(path.parent) if (file := path.parent / name) != path]
    raise UsageError(
        f"{argument('calib', source)}: expected a folder of images or arrays, a data set, or the name of a set, got no "
        "such path",
        hint=nearest(source, [*known, *beside], listed=False) or nearest(source, known),
    )


def _require_data_set(path: Path) -> None:
    """Checks that a file is a manifest or a data set; what is in a folder is found when it is read."""
    if path.is_file() and path.suffix != ".toml" and not is_data_set(str(path)):
        other = unsupported_format(path)
        beside = f"for the images or arrays beside it, give their folder: {path.absolute().parent}"
        raise UsageError(
            f"{argument('calib', str(path))}: expected a folder of images or arrays, a data set, or the name of a set, "
            f"got {other.name if other else 'a file'}",
            hint=other.hint if other and other.name == "an archive" else beside,
        )


def _names_in(folder: Path) -> list[str]:
    try:
        return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    except (OSError, ValueError):
        return []


def _require_weights(config: BuildConfig) -> None:
    weights, model = config.model.weights, config.model.model
    if weights is None:
        return
    kind = kind_of(model)
    if kind in ("recipe", "cfg"):
        require_weights(weights, load_recipe(model) if kind == "recipe" else recipe_from_cfg(Path(model)))
    elif kind != "onnx" and not is_there(Path(weights)):
        raise UsageError(f"{argument('weights', weights)}: expected a file, got no such path")
