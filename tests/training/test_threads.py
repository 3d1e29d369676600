from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

from edgekit.training import threads
from edgekit.training.threads import fastest_threads, restored_threads


@pytest.fixture(autouse=True)
def eight_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A clock that only steps advance, and a machine with eight cores."""
    with restored_threads():
        torch.set_num_threads(8)
        monkeypatch.setattr(threads, "cpu", lambda: type("Eight", (), {"compute_threads": 8}))
        yield


def steps(seconds: dict[int, float], monkeypatch: pytest.MonkeyPatch) -> tuple[Callable[[], None], list[int]]:
    now, counts = [0.0], list[int]()
    monkeypatch.setattr(threads.time, "perf_counter", lambda: now[0])

    def step() -> None:
        counts.append(torch.get_num_threads())
        now[0] += seconds[torch.get_num_threads()]

    return step, counts


@pytest.mark.parametrize(
    ("seconds", "expected", "measured"),
    [
        ({8: 0.40, 4: 0.20, 2: 0.05, 1: 0.02}, 1, {8, 4, 2, 1}),  # threads wait for each other
        ({8: 0.10, 4: 0.20, 2: 0.40, 1: 0.80}, 8, {8, 4}),
        ({8: 0.10, 4: 0.06, 2: 0.11, 1: 0.22}, 4, {8, 4, 2}),
        ({8: 9.0, 4: 18.0}, 8, {8, 4}),
    ],
)
def test_the_fastest_number_of_threads_is_chosen(
    seconds: dict[int, float], expected: int, measured: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    step, counts = steps(seconds, monkeypatch)
    assert fastest_threads(step) == expected == torch.get_num_threads()
    assert set(counts) == measured


def test_a_slow_step_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    step, counts = steps({8: 9.0, 4: 18.0}, monkeypatch)
    fastest_threads(step)
    assert counts == [8, 4]


def test_the_callers_number_of_threads_is_restored() -> None:
    with restored_threads():
        torch.set_num_threads(2)
    assert torch.get_num_threads() == 8
