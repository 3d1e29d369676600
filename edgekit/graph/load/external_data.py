"""Checks the weights of an ONNX file that are in other files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import onnx

from edgekit.errors import GraphError
from edgekit.graph.load.sizes import declared_bytes

__all__ = ["require_external_data"]


def require_external_data(tensors: Iterable[onnx.TensorProto], path: Path) -> None:
    """Checks that external data is in a file beside the model or below, and has the length that the shape declares.

    Raises:
        GraphError: it is elsewhere, missing, has another length, or is of texts.
    """
    folder = path.parent.resolve()
    for tensor in tensors:
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        if tensor.data_type == onnx.TensorProto.STRING:  # see the field string_data in onnx.proto
            raise GraphError(
                f"{path}: weight '{tensor.name}': expected its texts in the file, as ONNX asks, got external data",
                hint="the file is damaged: download or export it again",
            )
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        # The system knows no path with a null character.
        data = (folder / location.replace("\0", "")).resolve()
        if not location or "\0" in location or not data.is_relative_to(folder):
            raise GraphError(
                f"{path}: weight '{tensor.name}': expected external data next to the file, got '{location}'"
            )
        if not data.is_file():
            raise GraphError(
                f"{path}: weight '{tensor.name}' is in '{location}', which is missing",
                hint=f"put it next to {path.name}",
            )
        _require_length(entries, tensor, data, path)


def _require_length(entries: dict[str, str], tensor: onnx.TensorProto, data: Path, path: Path) -> None:
    declared = declared_bytes(tensor, path)
    try:
        offset, length = int(entries.get("offset", 0)), int(entries.get("length", declared))
    except ValueError as e:
        raise GraphError(f"{path}: weight '{tensor.name}': invalid external data entry: {e}") from e
    if length != declared:
        raise GraphError(
            f"{path}: weight '{tensor.name}': expected {declared:,} bytes of external data, as its shape "
            f"{tuple(tensor.dims)} declares, got {length:,}",
            hint="the file is damaged: download or export it again",
        )
    size = data.stat().st_size
    if offset < 0 or offset + length > size:
        raise GraphError(
            f"{path}: weight '{tensor.name}': expected bytes {offset} to {offset + length} in '{data.name}', "
            f"got a file of {size} bytes",
            hint="the file is truncated, or belongs to another model",
        )
