"""What NVIDIA's parser, that of TensorRT-RTX, gives the creator of a plugin for a node of a graph; writes JSON.

TensorRT-RTX has a registry of plugins, and a parser that asks it, but no layer to put a plugin in: so the process ends
when the plugin is asked for.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from edgekit.engine.tensorrt import attention_plugin
from edgekit.engine.tensorrt.attention_runtime import AttentionCreator
from edgekit.engine.tensorrt.log import process_log
from edgekit.engine.tensorrt.network import parse_graph
from tests.fakes.fake_cuda import FakeDriver

create_plugin = AttentionCreator.create_plugin


def report(creator: AttentionCreator, name: str, fields: Any, phase: Any) -> Any:
    plugin = create_plugin(creator, name, fields, phase)
    print(json.dumps([plugin.plugin_name, name, msgspec.to_builtins(plugin.settings)]), flush=True)
    os._exit(0)


def main() -> None:
    library = ModuleType("tensorrt")
    library.__dict__.update(vars(importlib.import_module("tensorrt_rtx")), __name__="tensorrt")
    AttentionCreator.create_plugin = report  # type: ignore[method-assign]
    attention_plugin.driver = FakeDriver  # type: ignore[attr-defined, assignment]
    log = process_log(library)
    parse_graph(library, library.Builder(log), log, Path(sys.argv[1]))


if __name__ == "__main__":
    main()
