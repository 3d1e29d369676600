from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgekit.engine.bundle.manifest import read_manifest
from edgekit.measure.compare import BuiltEngine, compare_engines
from edgekit.progress import Silent
from edgekit.quantize.compare import signal_to_noise_db


def test_a_tenth_of_noise_is_twenty_decibels() -> None:
    reference = [np.full((2, 3), 10.0, np.float32), np.full(4, -10.0, np.float32)]
    assert signal_to_noise_db(reference, [array + 1 for array in reference]) == pytest.approx(20.0)


def test_energies_are_summed_over_all_arrays() -> None:
    random = np.random.default_rng(0)
    reference = [random.standard_normal(100).astype(np.float32) for _ in range(3)]
    got = [array + random.normal(0, 0.05, 100).astype(np.float32) for array in reference]
    everything = signal_to_noise_db([np.concatenate(reference)], [np.concatenate(got)])
    assert signal_to_noise_db(reference, got) == pytest.approx(everything)


@pytest.mark.parametrize(
    ("reference", "got"),
    [
        (np.ones(3, np.float32), np.ones(3, np.float32)),
        (np.zeros(3, np.float32), np.ones(3, np.float32)),
        (np.ones((2, 4), np.float32), np.ones((2, 5), np.float32)),
        (np.array([1, np.inf], np.float32), np.array([2, np.inf], np.float32)),
        (np.array([1, 2], np.float32), np.array([2, np.nan], np.float32)),
        (np.array([1, 2]), np.array([2, 2])),
        (np.array([True]), np.array([False])),
    ],
    ids=["no noise", "no signal", "other shapes", "infinity", "NaN", "integers", "booleans"],
)
def test_there_is_no_ratio_where_there_is_nothing_to_compare(reference: np.ndarray, got: np.ndarray) -> None:
    assert signal_to_noise_db([reference], [got]) is None


def test_one_engine_alone_is_measured_and_compared_with_nothing(make_bundle: Callable[..., Path]) -> None:
    bundle = make_bundle("one")
    engine = BuiltEngine(bundle, read_manifest(bundle))
    feeds = {"images": np.zeros((1, 3, 64, 64), np.float32)}
    measured = compare_engines([engine], [feeds], threads=0, progress=Silent())
    assert list(measured.reports) == ["fp32"]
    assert measured.reports["fp32"].runs >= 20
    assert measured.sqnr_db == {}
