"""Replaces Einsum by a matrix product where it is one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from edgekit.graph.passes.decomposing import DecomposePass, Parts

__all__ = ["MultiplyEinsum"]

_ELLIPSIS = "..."


class MultiplyEinsum(DecomposePass):
    """Replaces an ``Einsum`` of two floats that sums products over a common index by ``MatMul``.

    Transposes and Reshapes bring the factors into the form ``(batch, rows, sums)`` and ``(batch, sums, columns)``, and
    the product into the order of the equation. A constant is the second factor. A MatMul has integer kernels, and is
    part of attentions that the passes recognize; Einsum is computed in float by all targets.

    Preconditions: shapes have been inferred (`InferShapes`).
    Postconditions: the MatMul has the name of the Einsum. What stays: one operand or more than two, an index twice in
        one operand, no common index that is summed, unknown ranks, and sums over an axis of one element in one operand
        that has more in the other.
    """

    def __init__(self) -> None:
        super().__init__("", {"Einsum": _product})


class _Factor(NamedTuple):
    """An operand: its indices in order, and the size of each, None where it is dynamic."""

    value: ir.Value
    indices: tuple[str, ...]
    sizes: dict[str, int | None]


class _Groups(NamedTuple):
    """Indices of a product: of both factors and the result, of one of them and the result, and of both factors."""

    batch: tuple[str, ...]
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    sums: tuple[str, ...]


def _product(node: ir.Node, parts: Parts) -> Sequence[ir.Value | None] | None:
    read, arrow, written = node.attributes.get_string("equation", "").replace(" ", "").partition("->")
    terms = read.split(",")
    if len(node.inputs) != 2 or len(terms) != 2:
        return None
    factors = [_factor(value, term) for value, term in zip(node.inputs, terms, strict=True)]
    left, right = factors
    if left is None or right is None:
        return None
    result = _written(written, left, right) if arrow else _implied(read, left, right)
    if result is None:
        return None
    if _is_constant(left) or not (_is_constant(right) or _begins_with(result, left, right)):
        left, right = right, left
    groups = _groups(left, right, result)
    if not groups.sums or _sums_over_one(left, right, groups.sums):
        return None
    first, second = _reduced(left, result, right, parts), _reduced(right, result, left, parts)
    return [_multiplied(first, second, groups, result, parts)]


def _factor(value: ir.Value | None, term: str) -> _Factor | None:
    """Returns an operand; None if its rank is unknown, it is no float, or it has an index twice."""
    if value is None or value.shape is None or value.dtype is None or not value.dtype.is_floating_point():
        return None
    count = len(value.shape) - len(term.replace(_ELLIPSIS, ""))
    if count < 0 or (count and _ELLIPSIS not in term):
        return None
    first, _, last = term.partition(_ELLIPSIS)
    # Axes of an ellipsis are numbered from the last, as shapes are broadcast.
    indices = (*first, *(str(number) for number in reversed(range(count))), *last)
    sizes = {index: size if isinstance(size, int) else None for index, size in zip(indices, value.shape, strict=True)}
    return _Factor(value, indices, sizes) if len(sizes) == len(indices) else None


def _broadcast(left: _Factor, right: _Factor) -> tuple[str, ...]:
    count = max(sum(index.isdigit() for index in factor.indices) for factor in (left, right))
    return tuple(str(number) for number in reversed(range(count)))


def _written(term: str, left: _Factor, right: _Factor) -> tuple[str, ...] | None:
    first, ellipsis, last = term.partition(_ELLIPSIS)
    axes = _broadcast(left, right)
    if axes and not ellipsis:
        return None  # ONNX does not say whether they are summed
    result = (*first, *axes, *last)
    known = {*left.indices, *right.indices}
    return result if len(set(result)) == len(result) and known.issuperset(result) else None


def _implied(read: str, left: _Factor, right: _Factor) -> tuple[str, ...]:
    """Returns the indices of a result without an arrow: an ellipsis, and the letters that occur once, in order."""
    letters = read.replace(_ELLIPSIS, "").replace(",", "")
    return (*_broadcast(left, right), *(letter for letter in sorted(set(letters)) if letters.count(letter) == 1))


def _is_constant(factor: _Factor) -> bool:
    return factor.value.const_value is not None and not factor.value.is_graph_input()


def _begins_with(result: Sequence[str], left: _Factor, right: _Factor) -> bool:
    """Whether rows of the left factor are before columns of the right one, if the result has both."""
    own = [index for index in result if (index in left.sizes) != (index in right.sizes)]
    return not own or own[0] in left.sizes or not any(index in left.sizes for index in own)


def _groups(left: _Factor, right: _Factor, result: Sequence[str]) -> _Groups:
    return _Groups(
        batch=tuple(index for index in result if index in left.sizes and index in right.sizes),
        rows=tuple(index for index in result if index not in right.sizes),
        columns=tuple(index for index in result if index not in left.sizes),
        sums=tuple(index for index in left.indices if index in right.sizes and index not in result),
    )


def _sums_over_one(left: _Factor, right: _Factor, sums: Sequence[str]) -> bool:
    """Whether a summed axis has one element in one factor, and may have more in the other: ONNX Runtime repeats it."""
    pairs = [(left.sizes[index], right.sizes[index]) for index in sums]
    return any(one != other and 1 in (one, other) for one, other in pairs)


def _reduced(factor: _Factor, result: Sequence[str], other: _Factor, parts: Parts) -> _Factor:
    """Sums over the indices that only this factor has."""
    alone = [index for index in factor.indices if index not in result and index not in other.sizes]
    if not alone:
        return factor
    axes = parts.array(np.array([factor.indices.index(index) for index in alone], np.int64))
    value = parts.add("ReduceSum", factor.value, axes, keepdims=0)
    kept = tuple(index for index in factor.indices if index not in alone)
    return _Factor(value, kept, {index: factor.sizes[index] for index in kept})


def _multiplied(left: _Factor, right: _Factor, groups: _Groups, result: Sequence[str], parts: Parts) -> ir.Value:
    # Without batch axes, MatMul takes any number of axes of rows.
    rows = [(index,) for index in groups.rows] if not groups.batch and groups.rows else [groups.rows]
    batch = [(index,) for index in groups.batch]
    first = _shaped(left, [*batch, *rows, groups.sums], parts)
    second = _shaped(right, [*batch, groups.sums, groups.columns], parts)
    value = parts.add("MatMul", first, second)
    indices = (*groups.batch, *groups.rows, *groups.columns)
    value = _split(value, [*batch, *rows, groups.columns], (left, right), parts)
    order = [indices.index(index) for index in result]
    return value if order == sorted(order) else parts.add("Transpose", value, perm=order)


def _shaped(factor: _Factor, axes: Sequence[tuple[str, ...]], parts: Parts) -> ir.Value:
    """Transposes a factor, and makes one axis of each group of indices."""
    wanted = [index for group in axes for index in group]
    order = [factor.indices.index(index) for index in wanted]
    value = factor.value if order == sorted(order) else parts.add("Transpose", factor.value, perm=order)
    if all(len(group) == 1 for group in axes):
        return value
    if all(len(group) < 2 for group in axes):
        empty = [place for place, group in enumerate(axes) if not group]
        return parts.add("Unsqueeze", value, parts.array(np.array(empty, np.int64)))
    sizes: list[int | None] = []
    for group in axes:
        known = [factor.sizes[index] for index in group]
        sizes.append(None if None in known else math.prod(size for size in known if size is not None))
    copied = next(place for place, group in enumerate(axes) if len(group) != 1)
    return _reshaped(value, sizes, copied, [[(factor, index) for index in group] for group in axes], parts)


def _split(
    value: ir.Value, axes: Sequence[tuple[str, ...]], factors: tuple[_Factor, _Factor], parts: Parts
) -> ir.Value:
    """Makes an axis of each index of groups that are one axis of a product."""
    if all(len(group) == 1 for group in axes):
        return value
    if all(len(group) < 2 for group in axes):
        empty = [place for place, group in enumerate(axes) if not group]
        return parts.add("Squeeze", value, parts.array(np.array(empty, np.int64)))
    wanted = [index for group in axes for index in group]
    owners = [next(factor for factor in factors if index in factor.sizes) for index in wanted]
    sizes = [owner.sizes[index] for owner, index in zip(owners, wanted, strict=True)]
    copied = next(place for place, group in enumerate(axes) if len(group) != 1)
    sources = [[(owner, index)] for owner, index in zip(owners, wanted, strict=True)]
    return _reshaped(value, sizes, copied, sources, parts)


def _reshaped(
    value: ir.Value,
    sizes: Sequence[int | None],
    copied: int,
    sources: Sequence[Sequence[tuple[_Factor, str]]],
    parts: Parts,
) -> ir.Value:
    """Adds a Reshape.

    Args:
        value: what is reshaped.
        sizes: of the result, None where they are dynamic.
        copied: so many first sizes are those of ``value``.
        sources: for each size, the operands and indices whose product it is.
        parts: the nodes.
    """
    numbers = [0 if place < copied else size for place, size in enumerate(sizes)]
    unknown = [place for place, size in enumerate(numbers) if size is None]
    if len(unknown) < 2:
        shape = [-1 if size is None else size for size in numbers]
        return parts.add("Reshape", value, parts.array(np.array(shape, np.int64)))
    pieces = [
        parts.array(np.array([size], np.int64)) if size is not None else _computed(sources[place], parts)
        for place, size in enumerate(numbers)
    ]
    return parts.add("Reshape", value, parts.add("Concat", *pieces, axis=0))


def _computed(sources: Sequence[tuple[_Factor, str]], parts: Parts) -> ir.Value:
    """Multiplies sizes of operands at run time; one element."""
    product = None
    for factor, index in sources:
        place = factor.indices.index(index)
        size = parts.add("Shape", factor.value, start=place, end=place + 1)
        product = size if product is None else parts.add("Mul", product, size)
    assert product is not None
    return product
