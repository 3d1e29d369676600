"""PyTorch's Transformer encoder, as a factory for `edgekit build`."""

from __future__ import annotations

from torch import nn

__all__ = ["encoder"]


def encoder() -> nn.Module:
    """Returns two layers of ``nn.TransformerEncoder``, with the input ``src`` of shape ``(N, length, 64)``."""
    layer = nn.TransformerEncoderLayer(d_model=64, nhead=4, dim_feedforward=128, batch_first=True)
    return nn.TransformerEncoder(layer, num_layers=2, enable_nested_tensor=False).eval()
