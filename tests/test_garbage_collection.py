"""How often Python's garbage collector looks at all objects."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from edgekit.garbage_collection import few_full_collections


@pytest.fixture
def thresholds() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)


def full_collections() -> int:
    """How many there are while a million objects are made that stay."""
    before = gc.get_stats()[2]["collections"]
    kept = [[] for _ in range(1_000_000)]
    assert len(kept) == 1_000_000
    return gc.get_stats()[2]["collections"] - before


@pytest.mark.usefixtures("thresholds")
def test_there_is_none_for_a_million_objects() -> None:
    gc.set_threshold(700, 10, 10)
    gc.collect()
    with few_full_collections():
        assert full_collections() == 0
    assert full_collections() > 0


@pytest.mark.usefixtures("thresholds")
def test_young_objects_are_collected() -> None:
    with few_full_collections():
        before = gc.get_stats()[0]["collections"]
        full_collections()
        assert gc.get_stats()[0]["collections"] > before + 1_000


@pytest.mark.usefixtures("thresholds")
@pytest.mark.parametrize("threshold", [(700, 10, 10), (500, 5, 5), (700, 10, 5_000), (0, 10, 10)])
def test_the_caller_keeps_the_thresholds(threshold: tuple[int, int, int]) -> None:
    gc.set_threshold(*threshold)
    with pytest.raises(ZeroDivisionError), few_full_collections():
        assert gc.get_threshold() == (*threshold[:2], max(1_000, threshold[2]))
        _ = 1 / 0
    assert gc.get_threshold() == threshold
