"""Which graphs ONNX Runtime leaves unpacked, by its own options."""

from __future__ import annotations

import onnxruntime
import pytest

from edgekit.graph.packing import MOST_UNPACKED_NODES, leave_weights_unpacked

ENTRY = "session.disable_prepacking"


@pytest.mark.parametrize(
    ("nodes", "unpacked"), [(1, True), (MOST_UNPACKED_NODES, True), (MOST_UNPACKED_NODES + 1, False)]
)
def test_graphs_of_very_many_nodes_are_packed(nodes, unpacked):
    options = onnxruntime.SessionOptions()
    leave_weights_unpacked(options, nodes=nodes)
    if nodes <= MOST_UNPACKED_NODES:
        assert options.get_session_config_entry(ENTRY) == "1"
    else:
        with pytest.raises(Exception, match=ENTRY):
            options.get_session_config_entry(ENTRY)
