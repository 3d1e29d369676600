"""Shared code of the passes that replace an attention by one operator."""

from __future__ import annotations

import abc

import onnx_ir as ir

from edgekit.graph.attention import Attention, attention_at
from edgekit.lower.rewriting import NotApplicable, RewritePass

__all__ = ["ReplaceAttention"]


class ReplaceAttention(RewritePass):
    """Replaces each attention that `find_attention` finds, if the operator fits.

    Attributes:
        runs_as: what the attentions become, for the note.
        found: number of attentions.
        fused: number of attentions that were replaced.
        reasons: why the others stay, each reason once.
    """

    operator = "Softmax"
    runs_as: str

    def __init__(self) -> None:
        super().__init__()
        self.found = self.fused = 0
        self.reasons: list[str] = []

    def rewrite(self, node: ir.Node, graph: ir.Graph) -> None:
        attention = attention_at(node)
        if attention is None:
            raise NotApplicable("it is not part of an attention of known form")
        self.found += 1
        try:
            self.replace(attention, graph)
        except NotApplicable as e:
            self.reasons += [] if str(e) in self.reasons else [str(e)]
            raise
        self.fused += 1

    @abc.abstractmethod
    def replace(self, attention: Attention, graph: ir.Graph) -> None:
        """Replaces an attention.

        Raises:
            NotApplicable: the attention stays, and the graph was not modified.
        """

    def notes(self) -> tuple[str, ...]:
        """Returns the note of a build: how many attentions were replaced, and why others were not."""
        if not self.found:
            return ()
        others = f"; the others stay as they are: {', '.join(self.reasons)}" if self.reasons else ""
        return (f"attention: {self.fused} of {self.found} run as {self.runs_as}{others}",)
