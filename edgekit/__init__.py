"""EdgeKit compiles PyTorch and ONNX models into INT8 engines for edge devices, and measures their speed and accuracy.

``import edgekit`` loads neither numpy nor any machine-learning library: functions are imported on first use.
"""

from __future__ import annotations

from edgekit.telemetry import disable_onnxruntime

# Type checkers take it for true. The module `typing` takes longer to import than all else here, and Ctrl-C while this
# module is imported ends a command with a traceback.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from edgekit.config import BackendOptions
    from edgekit.engine.bundle.manifest import Manifest
    from edgekit.engine.tensorrt.options import TensorRtOptions
    from edgekit.errors import (
        AccuracyError,
        BackendUnavailable,
        BuildError,
        CalibrationError,
        DataError,
        EdgeKitError,
        EdgeKitWarning,
        EngineMismatch,
        ExportError,
        GraphError,
        ModelError,
        RecipeError,
        RegressionError,
        RunError,
        SpeedError,
        TrainError,
        UndecidedError,
        UsageError,
    )
    from edgekit.evaluation.evaluate import Evaluation
    from edgekit.evaluation.evaluate import evaluate_bundle as evaluate
    from edgekit.measure.estimate import Estimate
    from edgekit.measure.inspection import Inspection
    from edgekit.measure.latency import Statistics
    from edgekit.measure.noise_report import NoiseReport
    from edgekit.measure.profile import profile_bundle as profile
    from edgekit.measure.relative import CompareReport
    from edgekit.measure.reports import LatencyReport
    from edgekit.pipeline.build import build
    from edgekit.pipeline.compare import compare
    from edgekit.pipeline.compile_bundle import compile_bundle as compile
    from edgekit.pipeline.debug import debug
    from edgekit.pipeline.estimate import estimate
    from edgekit.pipeline.inspect import inspect
    from edgekit.progress import Progress
    from edgekit.recipe.schema import Preprocess
    from edgekit.runtime.detections import (
        Detection,
        Detections,
        Pose,
        Poses,
        RotatedDetection,
        RotatedDetections,
        Segment,
        Segments,
    )
    from edgekit.runtime.session import Session
    from edgekit.runtime.session import session_from_bundle as load
    from edgekit.runtime.stream import Pending
    from edgekit.runtime.tasks.classify import Class, Classes
    from edgekit.specs import TensorSpec
    from edgekit.training.train import Trained
    from edgekit.training.train import train_model as train

__all__ = [
    "AccuracyError",
    "BackendOptions",
    "BackendUnavailable",
    "BuildError",
    "CalibrationError",
    "Class",
    "Classes",
    "CompareReport",
    "DataError",
    "Detection",
    "Detections",
    "EdgeKitError",
    "EdgeKitWarning",
    "EngineMismatch",
    "Estimate",
    "Evaluation",
    "ExportError",
    "GraphError",
    "Inspection",
    "LatencyReport",
    "Manifest",
    "ModelError",
    "NoiseReport",
    "Pending",
    "Pose",
    "Poses",
    "Preprocess",
    "Progress",
    "RecipeError",
    "RegressionError",
    "RotatedDetection",
    "RotatedDetections",
    "RunError",
    "Segment",
    "Segments",
    "Session",
    "SpeedError",
    "Statistics",
    "TensorRtOptions",
    "TensorSpec",
    "TrainError",
    "Trained",
    "UndecidedError",
    "UsageError",
    "__version__",
    "build",
    "compare",
    "compile",
    "debug",
    "estimate",
    "evaluate",
    "inspect",
    "load",
    "profile",
    "train",
]

__version__ = "0.1.0"

# Here, because every process that uses EdgeKit comes by, and before any import of ONNX Runtime by EdgeKit.
disable_onnxruntime()

_ON_USE = {
    "AccuracyError": "edgekit.errors:AccuracyError",
    "BackendOptions": "edgekit.config:BackendOptions",
    "BackendUnavailable": "edgekit.errors:BackendUnavailable",
    "BuildError": "edgekit.errors:BuildError",
    "CalibrationError": "edgekit.errors:CalibrationError",
    "Class": "edgekit.runtime.tasks.classify:Class",
    "Classes": "edgekit.runtime.tasks.classify:Classes",
    "CompareReport": "edgekit.measure.relative:CompareReport",
    "DataError": "edgekit.errors:DataError",
    "Detection": "edgekit.runtime.detections:Detection",
    "Detections": "edgekit.runtime.detections:Detections",
    "EdgeKitError": "edgekit.errors:EdgeKitError",
    "EdgeKitWarning": "edgekit.errors:EdgeKitWarning",
    "EngineMismatch": "edgekit.errors:EngineMismatch",
    "Estimate": "edgekit.measure.estimate:Estimate",
    "Evaluation": "edgekit.evaluation.evaluate:Evaluation",
    "ExportError": "edgekit.errors:ExportError",
    "GraphError": "edgekit.errors:GraphError",
    "Inspection": "edgekit.measure.inspection:Inspection",
    "LatencyReport": "edgekit.measure.reports:LatencyReport",
    "Manifest": "edgekit.engine.bundle.manifest:Manifest",
    "ModelError": "edgekit.errors:ModelError",
    "NoiseReport": "edgekit.measure.noise_report:NoiseReport",
    "Pending": "edgekit.runtime.stream:Pending",
    "Pose": "edgekit.runtime.detections:Pose",
    "Poses": "edgekit.runtime.detections:Poses",
    "Preprocess": "edgekit.recipe.schema:Preprocess",
    "Progress": "edgekit.progress:Progress",
    "RecipeError": "edgekit.errors:RecipeError",
    "RegressionError": "edgekit.errors:RegressionError",
    "RotatedDetection": "edgekit.runtime.detections:RotatedDetection",
    "RotatedDetections": "edgekit.runtime.detections:RotatedDetections",
    "RunError": "edgekit.errors:RunError",
    "Segment": "edgekit.runtime.detections:Segment",
    "Segments": "edgekit.runtime.detections:Segments",
    "Session": "edgekit.runtime.session:Session",
    "SpeedError": "edgekit.errors:SpeedError",
    "Statistics": "edgekit.measure.latency:Statistics",
    "TensorRtOptions": "edgekit.engine.tensorrt.options:TensorRtOptions",
    "TensorSpec": "edgekit.specs:TensorSpec",
    "TrainError": "edgekit.errors:TrainError",
    "Trained": "edgekit.training.train:Trained",
    "UndecidedError": "edgekit.errors:UndecidedError",
    "UsageError": "edgekit.errors:UsageError",
    "build": "edgekit.pipeline.build:build",
    "compare": "edgekit.pipeline.compare:compare",
    "compile": "edgekit.pipeline.compile_bundle:compile_bundle",
    "debug": "edgekit.pipeline.debug:debug",
    "estimate": "edgekit.pipeline.estimate:estimate",
    "evaluate": "edgekit.evaluation.evaluate:evaluate_bundle",
    "inspect": "edgekit.pipeline.inspect:inspect",
    "load": "edgekit.runtime.session:session_from_bundle",
    "profile": "edgekit.measure.profile:profile_bundle",
    "train": "edgekit.training.train:train_model",
}


_NEEDS = {"debug": ("comparing a model's layers", "build"), "train": ("training a model", "train")}
"""The functions whose own modules need an extra: what they do, and the extra."""


def __getattr__(name: str) -> Any:
    if name not in _ON_USE:
        raise AttributeError(f"module 'edgekit' has no attribute '{name}'")
    import importlib
    from contextlib import nullcontext
    from types import FunctionType

    from edgekit.errors import needs_extra

    module, _, attribute = _ON_USE[name].partition(":")
    with needs_extra(*_NEEDS[name]) if name in _NEEDS else nullcontext():
        found = getattr(importlib.import_module(module), attribute)
    if isinstance(found, FunctionType):
        found.__qualname__ = name  # Python's errors about arguments name a function so
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_ON_USE})
