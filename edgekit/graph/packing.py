"""Whether ONNX Runtime packs weights for its kernels while it loads a graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnxruntime

__all__ = ["MOST_UNPACKED_NODES", "leave_weights_unpacked"]

MOST_UNPACKED_NODES = 10_000
"""Graphs with more nodes are packed all the same: without, loading takes more than the square of the nodes.

Measured with residual blocks, unpacked and packed: 12,000 nodes take 1.4 and 1.2 s, 25,000 take 9.6 and 3.4, and 50,000
take 50 and 7.4.
The weights of so many nodes are small ones, of which a second copy takes little."""


def leave_weights_unpacked(options: onnxruntime.SessionOptions, *, nodes: int) -> None:
    """Saves the memory of a second copy of the weights, for a session that does not need the speed.

    Args:
        options: of the session; changed in place.
        nodes: number of nodes of its graph; with more than `MOST_UNPACKED_NODES`, nothing changes.
    """
    if nodes <= MOST_UNPACKED_NODES:
        options.add_session_config_entry("session.disable_prepacking", "1")
