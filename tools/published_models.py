"""Writes the layers of the models whose latencies are published, as counts that do not depend on the precision.

    python -m tools.published_models NAME=MODEL[@HxW] ...

MODEL is a recipe or an ONNX file, such as Ultralytics 8.3 writes by `yolo export model=yolo11n.pt format=onnx`. Only
counts are kept: no weights. Models that the file has already and that are not named stay as they are.
"""

from __future__ import annotations

import sys
from typing import Any

import msgspec

import edgekit
from edgekit.measure.fused_layers import fused_layers
from edgekit.measure.published import MODELS_FILE

FLOAT16_BYTES = 2


def layers_of(model: str) -> dict[str, Any]:
    """Multiply-accumulates, weights and activations (as numbers, not bytes) of each merged layer at batch size 1."""
    name, _, size = model.partition("@")
    shape = tuple(map(int, size.split("x"))) if size else None
    found = edgekit.inspect(name, shape=shape, precision="fp16")
    shown = "x".join(map(str, found.inputs[0].shape))
    rows = [
        (layer.macs, layer.weight_bytes // FLOAT16_BYTES, layer.activation_bytes // FLOAT16_BYTES)
        for layer in fused_layers(found)
    ]
    return {"input": shown, "layers": rows}


def main(arguments: list[str]) -> None:
    known = msgspec.json.decode(MODELS_FILE.read_bytes()) if MODELS_FILE.exists() else {}
    for argument in arguments:
        name, _, model = argument.partition("=")
        known[name] = layers_of(model)
        print(name, known[name]["input"], len(known[name]["layers"]), sum(row[0] for row in known[name]["layers"]))
        lines = [f"{msgspec.json.encode(key).decode()}: {msgspec.json.encode(known[key]).decode()}" for key in known]
        MODELS_FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
