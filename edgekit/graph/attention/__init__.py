"""Scaled dot-product attention in a graph: where it is, and what its masks and heads are. Changes nothing."""

from edgekit.graph.attention.find import Attention, attention_at, find_attention
from edgekit.graph.attention.heads import Heads
from edgekit.graph.attention.masks import HIDING, Mask, is_causal

__all__ = ["HIDING", "Attention", "Heads", "Mask", "attention_at", "find_attention", "is_causal"]
