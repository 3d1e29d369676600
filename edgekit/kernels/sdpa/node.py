"""Attention as one node of an ONNX graph, which TensorRT runs as a plugin with EdgeKit's kernels.

A node::

    domain     trt.plugins, as ONNX Runtime calls TensorRT's plugins; TensorRT's parser looks at the operator only
    op_type    EdgeKitAttention (inputs q, k, v), EdgeKitPaddedAttention (q, k, v, key_lengths) or
               EdgeKitMaskedAttention (q, k, v, mask)
    attributes plugin_namespace="edgekit", aot=1, scale (float), head_size, causal (0 or 1) and bottom_right (0 or 1);
               EdgeKitMaskedAttention: repeated, the sum of 1, 2 and 4 if the mask has one batch, head and row;
               int8 (0 or 1, default 0): queries and keys are multiplied in INT8

``q`` has the shape (batch, heads, query length, head size), ``k`` and ``v`` (batch, key heads, key length, head size),
in FP16 or BF16 (with INT8, in FP16); ``key_lengths`` is int32 (batch,); ``mask`` has the type of ``q``. See
`edgekit.kernels.sdpa.device.Attention.launch` for what they mean.
"""

from __future__ import annotations

__all__ = ["DOMAIN", "NAMESPACE", "PLUGINS"]

DOMAIN = "trt.plugins"
NAMESPACE = "edgekit"

# The operators, with the inputs after q, k and v.
PLUGINS = {
    "EdgeKitAttention": (),
    "EdgeKitPaddedAttention": ("key_lengths",),
    "EdgeKitMaskedAttention": ("mask",),
}
