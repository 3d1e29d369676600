"""Keeps ONNX Runtime and OpenVINO from sending usage data and from printing; both do by default.

ONNX Runtime from 1.29 on looks up ``mobile.events.data.microsoft.com`` and writes a device id and a database of events
to ``~/.cache/Microsoft/DeveloperTools/.onnxruntime``. ``import openvino`` looks up ``www.google-analytics.com`` and
writes ``~/intel`` if the package ``openvino_telemetry``, which OpenVINO requires, can be imported.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # as in edgekit/__init__.py, which imports this module
if TYPE_CHECKING:
    from typing import Any

__all__ = ["SWITCH", "disable_onnxruntime", "import_onnxruntime", "import_openvino", "sends_nothing"]

SWITCH = "ORT_DISABLE_TELEMETRY"
"""ONNX Runtime reads it once, when it is loaded; child processes inherit it. Nothing switches its telemetry off
afterwards: ``onnxruntime.disable_telemetry_events`` stops neither the look-ups nor the database (1.32 on Linux)."""

_OPENVINO_SENDER = "openvino_telemetry"

_FATAL = 4
"""The severity of ONNX Runtime's log above which nothing is written: errors are exceptions."""


def disable_onnxruntime() -> None:
    """Disables ONNX Runtime's telemetry in this process and its children, unless the user has set the variable."""
    os.environ.setdefault(SWITCH, "1")


def sends_nothing() -> bool:
    """Whether ONNX Runtime's telemetry is disabled: the user may have set the variable to ``0``."""
    return os.environ.get(SWITCH, "").lower() in ("1", "true", "yes", "on")


def import_onnxruntime() -> Any:
    """Imports ONNX Runtime, the only place that does, without the warnings that it writes to standard error.

    Each session has a log of its own, but operators write to the default one while a graph is loaded, such as RoiAlign
    about its rounding, and users cannot act on it. A program that has imported ONNX Runtime itself keeps its settings.

    Raises:
        ImportError: ONNX Runtime is not installed.
    """
    before = "onnxruntime" in sys.modules
    import onnxruntime

    if not before:
        onnxruntime.set_default_logger_severity(_FATAL)
    return onnxruntime


def import_openvino() -> Any:
    """Imports OpenVINO without its telemetry.

    Without the package ``openvino_telemetry``, OpenVINO uses a stub that does nothing. For the time of the import, the
    package counts as not installed; a file that records a decision of the user is neither read nor written.

    Raises:
        ImportError: OpenVINO is not installed.
    """
    if "openvino" in sys.modules:  # the caller's own import
        import openvino

        return openvino
    missing = object()
    before: object = sys.modules.get(_OPENVINO_SENDER, missing)
    sys.modules[_OPENVINO_SENDER] = None  # type: ignore[assignment]  # Python's mark for "cannot be imported"
    try:
        import openvino
    finally:
        del sys.modules[_OPENVINO_SENDER]
        if before is not missing:
            sys.modules[_OPENVINO_SENDER] = before  # type: ignore[assignment]
    return openvino
