"""How a session leaves weights unpacked, by ONNX Runtime's own options."""

from __future__ import annotations

import onnxruntime

from edgekit.graph.packing import leave_weights_unpacked


def test_weights_are_unpacked_and_have_no_common_block_of_memory():
    options = onnxruntime.SessionOptions()
    leave_weights_unpacked(options)
    assert options.get_session_config_entry("session.disable_prepacking") == "1"
    assert not options.enable_mem_pattern
