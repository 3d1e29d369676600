"""Groups the times of layers by module and by operator type."""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.measure.layer_times import LayerGroup, LayerTime

__all__ = ["grouped", "groups_by_module", "module_groups"]

DOMINANT = 0.5
MAX_DEPTH = 4


def groups_by_module(layers: Sequence[LayerTime]) -> tuple[LayerGroup, ...]:
    """Groups layers by their modules; see `module_groups`."""
    names = module_groups([layer.module for layer in layers], [layer.share for layer in layers])
    return grouped(layers, names) if any(names) else ()


def module_groups(modules: Sequence[str], shares: Sequence[float]) -> list[str]:
    """Returns the group of each layer: the first part of its module, and more of it where one has over half the time.

    Args:
        modules: path of the module of each layer; empty if unknown.
        shares: share of the time of each layer.

    Returns:
        Names of groups, all empty if modules do not group the layers.
    """
    paths = [tuple(module.split(".")) if module else () for module in modules]
    names = [path[:1] for path in paths]
    for depth in range(2, MAX_DEPTH + 1):
        sums: dict[tuple[str, ...], float] = {}
        for name, share in zip(names, shares, strict=True):
            sums[name] = sums.get(name, 0.0) + share
        divided = [path[:depth] if sums[name] > DOMINANT else name for path, name in zip(paths, names, strict=True)]
        if not _informative(divided):
            break
        names = divided
    return [".".join(name) for name in names] if _informative(names) else [""] * len(names)


def _informative(names: Sequence[tuple[str, ...]]) -> bool:
    """Whether there are several groups, with three layers in two of them on average."""
    return 1 < len(set(names)) <= len(names) * 2 / 3


def grouped(layers: Sequence[LayerTime], names: Sequence[str]) -> tuple[LayerGroup, ...]:
    """Sums layers with the same name; slowest first."""
    members: dict[str, list[LayerTime]] = {}
    for layer, name in zip(layers, names, strict=True):
        members.setdefault(name, []).append(layer)
    groups = [
        LayerGroup(
            name=name,
            layers=len(group),
            median_ms=sum(layer.median_ms for layer in group),
            share=sum(layer.share for layer in group),
            macs=None if any(layer.macs is None for layer in group) else sum(layer.macs or 0 for layer in group),
        )
        for name, group in members.items()
    ]
    return tuple(sorted(groups, key=lambda group: -group.median_ms))
