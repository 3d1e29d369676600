"""What a weights file says about its training: class names and statistics of the inputs."""

from __future__ import annotations

from pathlib import Path

import msgspec
import safetensors

from edgekit.data.input_statistics import InputStatistics
from edgekit.errors import ModelError

__all__ = ["METADATA_KEY", "WeightsOrigin", "origin_of_weights"]

METADATA_KEY = "edgekit"
"""Key of the JSON text in the metadata of a ``.safetensors`` file."""


class WeightsOrigin(msgspec.Struct, frozen=True, kw_only=True):
    """Facts of a training that `edgekit train` writes with the weights.

    Attributes:
        labels: names of the model's classes; empty if it has none.
        inputs: statistics of the training inputs; None if the model takes no images.
    """

    labels: tuple[str, ...] = ()
    inputs: InputStatistics | None = None

    def metadata(self) -> dict[str, str]:
        """Returns the metadata of a ``.safetensors`` file."""
        return {METADATA_KEY: msgspec.json.encode(self).decode()}


def origin_of_weights(path: str | Path) -> WeightsOrigin:
    """Reads the facts in a weights file; they are empty in files of other programs.

    Raises:
        ModelError: the facts are damaged.
    """
    file = Path(path)
    try:
        with file.open("rb") as stream:
            is_safetensors = stream.read(9)[8:9] == b"{"
        if not is_safetensors:
            return WeightsOrigin()
        with safetensors.safe_open(file, framework="numpy") as content:
            text = (content.metadata() or {}).get(METADATA_KEY)
    except (OSError, safetensors.SafetensorError) as e:
        raise ModelError(f"weights {file}: cannot be read: {e}") from e
    if text is None:
        return WeightsOrigin()
    try:
        return msgspec.json.decode(text, type=WeightsOrigin)
    except (msgspec.MsgspecError, RecursionError) as e:
        raise ModelError(f"weights {file}: the metadata '{METADATA_KEY}' is damaged: {e}") from e
