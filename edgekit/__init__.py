"""EdgeKit compiles PyTorch and ONNX models into INT8 engines for edge devices, and measures what that cost and gained.

``import edgekit`` loads neither numpy nor any machine-learning library: the functions are imported on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from edgekit.errors import (
    AccuracyError,
    BackendUnavailable,
    BuildError,
    CalibrationError,
    DataError,
    EdgeKitError,
    EngineMismatch,
    ExportError,
    GraphError,
    ModelError,
    RecipeError,
    RunError,
    TrainError,
    UsageError,
)

if TYPE_CHECKING:
    from edgekit.evaluation.evaluate import evaluate_bundle as evaluate
    from edgekit.measure.profile import profile_bundle as profile
    from edgekit.pipeline.build import build
    from edgekit.runtime.session import session_from_bundle as load

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
    "__version__",
    "build",
    "evaluate",
    "load",
    "profile",
]

__version__ = "0.1.0"

_ON_USE = {
    "build": "edgekit.pipeline.build:build",
    "evaluate": "edgekit.evaluation.evaluate:evaluate_bundle",
    "load": "edgekit.runtime.session:session_from_bundle",
    "profile": "edgekit.measure.profile:profile_bundle",
}


def __getattr__(name: str) -> Any:
    if name not in _ON_USE:
        raise AttributeError(f"module 'edgekit' has no attribute '{name}'")
    module, _, function = _ON_USE[name].partition(":")
    globals()[name] = getattr(importlib.import_module(module), function)
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *_ON_USE})
