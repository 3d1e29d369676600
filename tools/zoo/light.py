"""Writes onnx's light test models with random weights; the originals have constant weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

__all__ = ["write_with_weights"]

FACTORS = {("BatchNormalization", 1), ("BatchNormalization", 4), ("Mul", 1)}
"""Inputs that are factors or divisors, and so have values near 1."""


def write_with_weights(light: Path, place: Path, seed: int = 0) -> None:
    """Writes the model with an initializer for each ConstantOfShape: He normal weights, small biases."""
    model = onnx.load(light)
    random = np.random.default_rng(seed)
    shapes = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    readers = _readers(model)
    kept = []
    for node in model.graph.node:
        if node.op_type != "ConstantOfShape":
            kept.append(node)
            continue
        shape = tuple(int(size) for size in shapes[node.input[0]])
        array = _array(shape, readers[node.output[0]], random)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, node.output[0]))
    del model.graph.node[:]
    model.graph.node.extend(kept)
    # Before IR version 4, every initializer had to be an input too.
    model.ir_version = max(model.ir_version, 4)
    onnx.save(model, place)


def _readers(model: onnx.ModelProto) -> dict[str, tuple[str, int]]:
    """Returns the operator and the input index that reads each value, after an Unsqueeze if there is one."""
    readers: dict[str, tuple[str, int]] = {}
    for node in reversed(model.graph.node):
        for place, name in enumerate(node.input):
            readers[name] = readers[node.output[0]] if node.op_type == "Unsqueeze" else (node.op_type, place)
    return readers


def _array(shape: tuple[int, ...], reader: tuple[str, int], random: np.random.Generator) -> np.ndarray:
    if reader in FACTORS:
        return random.uniform(0.5, 1.5, shape).astype(np.float32)
    if len(shape) < 2:
        return (0.1 * random.standard_normal(shape)).astype(np.float32)
    spread = np.sqrt(2 / np.prod(shape[1:]))
    return (spread * random.standard_normal(shape, dtype=np.float32)).astype(np.float32)
