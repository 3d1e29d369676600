"""Searches the layers that make most of the noise of the outputs, with few runs of the network.

The noise of a layer is measured with all others in float. So a layer is seen that others hide: where each of two
layers loses an output, either of them alone in float gains nothing. The noise of layers that round independently adds
up, which tells what is left without some of them, and none of the combinations has to be run.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Noise", "NoisyLayers", "noisy_layers"]

GROUPS = 16
"""Layers next to each other are measured together first, in so many groups; the noisiest are halved again and again."""
LEAST_SHARE = 0.01
"""Share of the noise of an output below which a layer stays on integers."""
NEAR_REST = 1.25
"""Within a decibel of what stays with all layers in float, no further layer helps."""
LEAST_COST = 0.002
"""What a layer in float costs besides its work, as a share of all work: conversions between it and its neighbours. Of
layers with as much noise for their work, it prefers one to many."""
LOST = 1.0
"""Relative energy of the noise that leaves nothing of a signal."""

Noise = Mapping[str, float]
"""Energy of the noise of each output, or part of one, relative to that of its signal."""
NoiseOf = Callable[[Collection[str]], Noise]


@dataclass(frozen=True)
class NoisyLayers:
    """The noise that single layers add, as far as the search has measured it.

    Attributes:
        layers: names of all layers that were looked at.
        rest: the noise with all layers in float, and that of groups of layers that were not taken apart.
        single: the noise that a layer adds alone.
    """

    layers: Sequence[str]
    rest: Noise
    single: Mapping[str, Noise]

    def chosen(self, cost: Mapping[str, int], room: float, enough: float) -> list[str]:
        """Chooses layers to keep in float: those that make most noise for their cost, until the noise is low enough.

        Args:
            cost: multiply-accumulates of each layer.
            room: how much the chosen layers may cost together.
            enough: the relative energy of the noise that every output may have.
        """
        left = _sum([self.rest, *self.single.values()])
        floor = LEAST_COST * sum(cost.values())
        chosen: list[str] = []
        while left:
            worst = max(left, key=lambda part: left[part])
            if left[worst] <= max(enough, NEAR_REST * self.rest[worst]):
                break
            fitting = [
                name
                for name, noise in self.single.items()
                if name not in chosen and cost.get(name, 0) <= room and noise[worst] >= LEAST_SHARE * left[worst]
            ]
            if not fitting:
                break
            best = max(fitting, key=lambda name: self.single[name][worst] / (cost.get(name, 0) + floor))
            chosen.append(best)
            room -= cost.get(best, 0)
            left = {part: energy - self.single[best][part] for part, energy in left.items()}
        return chosen


def noisy_layers(layers: Sequence[str], noise_of: NoiseOf, enough: float, most_runs: int) -> NoisyLayers:
    """Measures which layers make the noise, the noisiest groups of them first.

    Args:
        layers: names of the layers, in the order of the graph.
        noise_of: returns the noise with these layers on integers and all others in float.
        enough: groups that together make less noise than this are not taken apart.
        most_runs: number of combinations to measure; at least those of the first groups are.
    """
    rest = noise_of(())
    size = max(1, -(-len(layers) // GROUPS))
    groups = [tuple(layers[start : start + size]) for start in range(0, len(layers), size)]
    found = {group: _beyond(noise_of(group), rest) for group in groups}
    runs = len(groups)
    while runs < most_runs:
        several = [group for group in found if len(group) > 1]
        left = _sum([found[group] for group in several])
        if not several or max(left.values()) <= enough:
            break
        noisiest = max(several, key=lambda group: max(found[group].values()))
        del found[noisiest]
        middle = len(noisiest) // 2
        for half in (noisiest[:middle], noisiest[middle:]):
            found[half] = _beyond(noise_of(half), rest)
            runs += 1
    together = [noise for group, noise in found.items() if len(group) > 1]
    single = {group[0]: noise for group, noise in found.items() if len(group) == 1}
    return NoisyLayers(layers, _sum([rest, *together]), single)


def _beyond(noise: Noise, rest: Noise) -> Noise:
    """Returns the noise without that of the rest; a part that cannot be compared any more is lost."""
    return {part: max(noise.get(part, LOST) - energy, 0.0) for part, energy in rest.items()}


def _sum(parts: Sequence[Noise]) -> dict[str, float]:
    return {name: sum(noise[name] for noise in parts) for name in (parts[0] if parts else ())}
