"""The layers that make the noise are found by few measurements, also where each of several hides the others."""

from __future__ import annotations

import pytest

from edgekit.quantize.noise_search import GROUPS, NoisyLayers, noisy_layers

FLOOR = 1e-6
RUNS = 40


class Network:
    """A network of layers whose noise adds up; counts how often it is measured."""

    def __init__(self, energies: dict[str, float]) -> None:
        self.energies, self.runs = energies, 0

    def noise_of(self, on_integers) -> dict[str, float]:
        self.runs += 1
        return {"y": FLOOR + sum(self.energies[name] for name in on_integers)}


def names(count: int) -> list[str]:
    return [f"layer{index}" for index in range(count)]


def test_each_of_two_layers_that_lose_the_output_is_found():
    layers = names(6)
    network = Network({**dict.fromkeys(layers, 1e-5), "layer1": 0.9, "layer4": 0.8})
    found = noisy_layers(layers, network.noise_of, 1e-3, RUNS)
    assert found.single["layer1"]["y"] == pytest.approx(0.9) and found.single["layer4"]["y"] == pytest.approx(0.8)
    assert sorted(found.chosen(dict.fromkeys(layers, 10), 20, 1e-3)) == ["layer1", "layer4"]


def test_a_layer_whose_output_cannot_be_compared_is_taken_for_lost():
    def noise_of(on_integers) -> dict[str, float]:
        return {} if "layer1" in on_integers else {"y": FLOOR}

    found = noisy_layers(names(3), noise_of, 1e-3, RUNS)
    assert found.single["layer1"]["y"] == pytest.approx(1, abs=1e-5) and found.single["layer0"]["y"] == 0


def test_few_of_many_layers_are_found_with_few_runs():
    layers = names(500)
    network = Network({**dict.fromkeys(layers, 1e-7), "layer77": 0.5, "layer330": 0.1})
    found = noisy_layers(layers, network.noise_of, 1e-2, RUNS)
    assert found.chosen(dict.fromkeys(layers, 1), 100, 1e-2) == ["layer77", "layer330"]
    assert network.runs <= GROUPS + 1 + 2 * 2 * 5  # 32 layers a group are halved five times


def test_the_number_of_runs_has_a_limit():
    layers = names(2000)
    network = Network(dict.fromkeys(layers, 0.01))
    noisy_layers(layers, network.noise_of, 1e-3, RUNS)
    assert network.runs <= RUNS + 2


def test_layers_are_chosen_by_noise_for_work_within_the_room_until_it_is_enough():
    noise = {"cheap": {"y": 0.1}, "dear": {"y": 0.2}, "large": {"y": 0.3}, "quiet": {"y": 1e-5}}
    found = NoisyLayers(list(noise), {"y": 0.0}, noise)
    cost = {"cheap": 10, "dear": 100, "large": 1000, "quiet": 1}
    assert found.chosen(cost, 500, 1e-4) == ["cheap", "dear"]
    assert found.chosen(cost, 2000, 1e-4) == ["cheap", "dear", "large"]
    assert found.chosen(cost, 50, 0.0) == ["cheap"]
    assert found.chosen(cost, 2000, 0.55) == ["cheap"]
    assert found.chosen(cost, 2000, 0.7) == []


def test_nothing_more_is_chosen_where_the_rest_makes_the_noise():
    found = NoisyLayers(["a", "b"], {"y": 1.0}, {"a": {"y": 0.5}, "b": {"y": 0.1}})
    assert found.chosen({"a": 1, "b": 1}, 10, 0.01) == ["a"]


def test_the_worst_output_comes_first():
    noise = {"a": {"x": 0.01, "y": 0.3}, "b": {"x": 0.1, "y": 0.0}}
    found = NoisyLayers(["a", "b"], {"x": 0.0, "y": 0.0}, noise)
    assert found.chosen({"a": 5, "b": 5}, 5, 0.0) == ["a"]


def test_a_graph_without_layers_has_none():
    found = noisy_layers([], lambda _: {"y": 0.5}, 0.1, RUNS)
    assert found.single == {} and found.chosen({}, 10, 0.1) == []
