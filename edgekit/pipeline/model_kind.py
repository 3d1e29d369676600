"""What kind of model a caller names, and the name of its engine, found without importing PyTorch or ONNX."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from edgekit.errors import UsageError, nearest
from edgekit.recipe.schema import load_recipe, recipe_names

__all__ = ["kind_of", "name_of"]

WEIGHTS = (".ckpt", ".pt", ".pth", ".safetensors", ".weights")


def kind_of(model: object) -> str:
    """What sort of model that is: ``recipe``, ``cfg``, ``onnx``, ``factory`` or ``module``.

    Raises:
        UsageError: there is no such model.
    """
    if not isinstance(model, (str, Path)):
        return "module"
    text, path = str(model), Path(model)
    if text in recipe_names() or path.suffix == ".toml":
        return "recipe"
    if path.suffix in WEIGHTS:
        raise UsageError(
            f"'{text}': expected a model, got a file of weights",
            hint=f"name the model that they belong to, as in: edgekit build yolov3 --weights {shlex.quote(text)}",
        )
    for suffix, what in ((".onnx", "an ONNX file"), (".cfg", "a Darknet cfg file")):
        if path.suffix == suffix and _is_missing(path):
            beside = nearest(path.name, [file.name for file in path.parent.glob(f"*{suffix}")])
            raise UsageError(f"'{text}': expected {what}, got no such file", hint=beside)
    if path.suffix == ".cfg" and not os.path.isdir(path):
        return "cfg"
    if path.suffix == ".onnx" or os.path.isfile(path):
        return "onnx"
    if os.path.isdir(path):
        engine = os.path.isfile(path / "manifest.json")
        hint = f"it is an engine already: edgekit run {shlex.quote(text)}" if engine else ""
        raise UsageError(f"'{text}': expected a model, got a folder", hint=hint)
    if ":" in text:
        return "factory"
    known = nearest(text, recipe_names())
    raise UsageError(
        f"unknown model '{text}': expected a name that `edgekit models` lists, an ONNX file or a "
        "Darknet cfg file that exists, or package.module:factory",
        hint=known,
    )


def _is_missing(path: Path) -> bool:
    """Whether nothing is there; what may not be looked at is not missing, and whoever reads it says why it cannot."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def name_of(model: object) -> str:
    """What engines of that model are called where nobody says.

    Raises:
        UsageError: there is no such model.
    """
    kind = kind_of(model)
    if kind == "recipe":
        return load_recipe(str(model)).name
    if kind in ("cfg", "onnx"):
        return Path(str(model)).stem
    text = str(model) if kind == "factory" else type(model).__name__
    return text.rpartition(":")[2].rpartition(".")[2]
