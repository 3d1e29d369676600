"""The nodes that the passes on attention make: factors and masks in four dimensions, as single operators read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from edgekit.graph.attention import Attention, Mask
from edgekit.graph.shape_values import Element, sizes_of
from edgekit.lower.rewriting import NotApplicable, initializer, new_node, replace_node, transposed

__all__ = ["RANK", "AttentionNodes", "required_mask_shape", "score_sizes"]

RANK = 4


class AttentionNodes:
    """New nodes before the second product of an attention, one of which is the fused operator.

    Attributes:
        nodes: the nodes, in order.
        flat: heads and images are one dimension of the factors.
    """

    def __init__(self, graph: ir.Graph, attention: Attention) -> None:
        self.nodes: list[ir.Node] = []
        self.flat = len(attention.query.shape or ()) < RANK
        self._graph = graph
        self._attention = attention
        self._stem = attention.output.name

    def add(
        self,
        operator: str,
        inputs: Sequence[ir.Value],
        name: str,
        attributes: Mapping[str, int | float | str | Sequence[int]] | None = None,
    ) -> ir.Value:
        """Adds a node and returns its output; ``name`` distinguishes it from the others of this attention."""
        full = f"{self._stem}.{name}"
        self.nodes.append(new_node(operator, inputs, attributes, name=full, output=full))
        return self.nodes[-1].outputs[0]

    def replace_by(
        self, operator: str, inputs: Sequence[ir.Value], attributes: Mapping[str, int | float | str], domain: str = ""
    ) -> None:
        """Replaces the attention by the fused operator, which takes the name of the first product."""
        output = f"{self._stem}.merged" if self.flat else None
        name = self._attention.scores.name
        fused = new_node(operator, inputs, attributes, name=name, output=output, domain=domain)
        self.nodes.append(fused)
        if self.flat:
            self.nodes.append(new_node("Squeeze", [fused.outputs[0], self.vector(0)], name=f"{self._stem}.flat"))
        replace_node(self._attention.mean, self.nodes)

    def constant(self, array: np.ndarray) -> ir.Value:
        """Adds an initializer."""
        return initializer(self._graph, f"{self._stem}.constant{len(self._graph.initializers)}", array)

    def vector(self, *numbers: int) -> ir.Value:
        """Adds an initializer of shape or axes."""
        return self.constant(np.array(numbers, np.int64))

    def factors(self) -> list[ir.Value]:
        """Returns queries, keys and values in four dimensions."""
        attention = self._attention
        key = attention.key
        if attention.key_turned:
            heads = attention.key_heads
            swap = (0, 2, 1) if self.flat else (0, 1, 3, 2)
            source, order = (key, swap) if heads is None else (heads.source, (0, 2, 1, 3))
            node = transposed(source, order, name=f"{self._stem}.key", output=f"{self._stem}.key")
            self.nodes.append(node)
            key = node.outputs[0]
        factors = [attention.query, key, attention.value]
        if self.flat:
            return [
                self.add("Unsqueeze", [factor, self.vector(0)], f"{name}4")
                for name, factor in zip("qkv", factors, strict=True)
            ]
        return factors

    def in_four_dimensions(self, mask: ir.Value, rank: int) -> ir.Value:
        """Returns a mask of ``rank`` dimensions in four."""
        if rank == RANK:
            return mask
        return self.add("Unsqueeze", [mask, self.vector(*range(RANK - rank))], "mask4")


def score_sizes(attention: Attention) -> tuple[Element, ...]:
    """Returns the sizes of the scores in four dimensions: batch, heads, queries, keys.

    Raises:
        NotApplicable: the factors have other ranks, batch sizes or numbers of heads.
    """
    query, key, value = (sizes_of(each) or () for each in (attention.query, attention.key, attention.value))
    if len(query) not in (RANK - 1, RANK):
        raise NotApplicable(f"it has {len(query)} dimensions")
    if attention.key_turned:
        key = (*key[:-2], key[-1], key[-2])
    if not query[:-2] == key[:-2] == value[:-2]:
        raise NotApplicable("queries, keys and values have other batch sizes or numbers of heads")
    batch = (1,) if len(query) < RANK else ()
    return (*batch, *query[:-1], key[-2])


def required_mask_shape(mask: Mask, scores: tuple[Element, ...]) -> tuple[Element, ...]:
    """Returns the shape of a mask in four dimensions.

    Raises:
        NotApplicable: it is not known to be that of the scores, with 1 in any dimension but the last.
    """
    sizes = sizes_of(mask.value)
    if mask.view is not None or sizes is None or len(sizes) > RANK:
        raise NotApplicable("its mask is added in other dimensions")
    shape = (*(1,) * (RANK - len(sizes)), *sizes)
    fits = all(size in (1, whole) for size, whole in zip(shape, scores, strict=True))
    if not fits or shape[3] != scores[3]:
        raise NotApplicable("its mask is not known to have the shape of the scores")
    return shape
