"""Running an engine that was just built."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgekit.engine.bundle.manifest import read_manifest
from edgekit.measure.compare import BuiltEngine, measured_engine
from edgekit.progress import Silent


@pytest.mark.parametrize("latency", [True, False])
def test_an_engine_runs_on_every_set_of_inputs_and_is_measured_if_asked(
    make_bundle: Callable[..., Path], latency: bool
) -> None:
    bundle = make_bundle("one")
    engine = BuiltEngine(bundle, read_manifest(bundle))
    feeds = {"images": np.zeros((1, 3, 64, 64), np.float32)}
    found = measured_engine(engine, [[feeds], [feeds, feeds]], latency=latency, threads=0, progress=Silent())
    assert [len(each) for each in found.outputs] == [1, 2]
    assert str(found.precision) == "fp32"
    assert (found.report is not None and found.report.runs >= 20) is latency
