"""Backends that record the modules imported in the builder's process."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import msgspec

from edgekit.engine.backend import BuildOptions, BuildResult
from edgekit.engine.onnxruntime.backend import OnnxRuntime
from edgekit.engine.openvino.backend import OpenVino

MODULES = "modules.json"


class Cpu(OnnxRuntime):
    def build(self, graph: Path, folder: Path, options: BuildOptions) -> BuildResult:
        return _recorded(super().build(graph, folder, options), folder)


class Openvino(OpenVino):
    def build(self, graph: Path, folder: Path, options: BuildOptions) -> BuildResult:
        return _recorded(super().build(graph, folder, options), folder)


def _recorded(result: BuildResult, folder: Path) -> BuildResult:
    (folder / MODULES).write_text(json.dumps(sorted(sys.modules)))
    return msgspec.structs.replace(result, files=(*result.files, MODULES))
