"""Finds the kind of a model and the default name of its engine, without importing PyTorch or ONNX."""

from __future__ import annotations

import os
from pathlib import Path

from edgekit.arguments import either
from edgekit.engine.bundle.manifest import MANIFEST, engines_beside
from edgekit.errors import UsageError, nearest
from edgekit.recipe.schema import load_recipe, recipe_names
from edgekit.text import shell_quoted

__all__ = ["kind_of", "name_of"]

WEIGHTS = (".ckpt", ".pt", ".pth", ".safetensors", ".weights")


def kind_of(model: object, *, or_engine: bool = False) -> str:
    """Returns the kind of a model: ``recipe``, ``cfg``, ``onnx``, ``factory`` or ``module``.

    Args:
        model: the model.
        or_engine: an engine may stand in its place, which the caller has looked for: the error on a name that is
            neither says so.

    Raises:
        UsageError: the model does not exist.
    """
    if not isinstance(model, (str, Path)):
        return "module"
    text, path = str(model), Path(model)
    if text in recipe_names() or path.suffix == ".toml":
        return "recipe"
    if path.suffix in WEIGHTS:
        raise UsageError(
            f"'{text}': expected a model, got a weights file",
            hint="name the model that they belong to, as in: "
            + either(
                f"edgekit build yolov3 --weights {shell_quoted(text)}", f"edgekit.build('yolov3', weights={text!r})"
            ),
        )
    for suffix, what in ((".onnx", "an ONNX file"), (".cfg", "a Darknet cfg file")):
        if path.suffix == suffix and _is_missing(path):
            beside = nearest(path.name, [file.name for file in path.parent.glob(f"*{suffix}")])
            beside = "download it, and give the file" if "://" in text else beside
            raise UsageError(f"'{text}': expected {what}, got no such file", hint=beside)
    if path.suffix == ".cfg" and not os.path.isdir(path):
        return "cfg"
    if path.suffix == ".onnx" or os.path.isfile(path):
        return "onnx"
    if os.path.isdir(path):
        engine = os.path.isfile(path / MANIFEST)
        run = either(f"edgekit run {shell_quoted(text)}", f"edgekit.load({text!r})")
        hint = f"the folder is an engine; run it: {run}" if engine else ""
        raise UsageError(f"'{text}': expected a model, got a folder", hint=hint)
    if ":" in text:
        return "factory"
    files = [file.name for suffix in ("onnx", "cfg") for file in path.parent.glob(f"*.{suffix}")] if path.suffix else []
    engines = engines_beside(path) if or_engine else []
    known = nearest(path.name, files, listed=False) or nearest(text, [*engines, *recipe_names()], listed=False)
    what, folder = ("engine or model", "the folder of an engine, ") if or_engine else ("model", "")
    raise UsageError(
        f"unknown {what} '{text}': expected {folder}a name that `edgekit models` lists, an ONNX file or a "
        "Darknet cfg file that exists, or package.module:factory",
        hint=known or nearest(text, engines or recipe_names()),
    )


def _is_missing(path: Path) -> bool:
    """Whether a path does not exist; a path without access is not missing, and reading it raises the reason."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def name_of(model: object) -> str:
    """Returns the default name of a model's engine.

    Raises:
        UsageError: the model does not exist.
    """
    kind = kind_of(model)
    if kind == "recipe":
        return load_recipe(str(model)).name
    if kind in ("cfg", "onnx"):
        return Path(str(model)).stem
    text = str(model) if kind == "factory" else type(model).__name__
    return text.rpartition(":")[2].rpartition(".")[2]
