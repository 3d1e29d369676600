from __future__ import annotations

from collections.abc import Iterator

import msgspec
import numpy as np
import pytest
import scipy.optimize

from edgekit.errors import UsageError
from edgekit.measure import estimate as module
from edgekit.measure.boards import boards, peaks_from_board
from edgekit.measure.estimate import MIN_PAIRS, efficiency_of, estimate_from_layers
from edgekit.measure.published import Published, layers_from_published, published

ORIN = "jetson-orin"


@pytest.fixture
def forget() -> Iterator[None]:
    """Factors are cached: they are fitted again during the test and after it."""
    efficiency_of.cache_clear()
    yield
    efficiency_of.cache_clear()


def orin_pairs() -> list[Published]:
    return [pair for pair in published() if boards().boards[pair.board].kind == ORIN]


def synthetic(pair: Published, seed: int | None = None) -> Published:
    """The pair with a latency by known factors: 2, 3 and 4 for arithmetic, 1.5 for memory, 9,000 clocks a layer."""
    board = boards().boards[pair.board]
    peaks = peaks_from_board(board)
    layers = layers_from_published(pair.model, pair.precision, pair.batch)
    factor = {"float32": 2, "float16": 3, "int8": 4}[pair.precision]
    compute = factor * sum(layer.macs for layer in layers) / peaks.macs_per_s[pair.precision]
    memory = 1.5 * sum(layer.weight_bytes + layer.activation_bytes for layer in layers) / peaks.bytes_per_s
    clocks = 9_000 * len(layers) + (2_000_000 if pair.what == "call" else 0)
    noise = 1.0 if seed is None else float(np.random.default_rng(seed).uniform(0.8, 1.25))
    return msgspec.structs.replace(pair, latency_ms=1e3 * noise * (compute + memory + clocks / (board.clock_mhz * 1e6)))


@pytest.mark.usefixtures("forget")
def test_factors_that_made_the_latencies_are_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = tuple(synthetic(pair) for pair in orin_pairs())
    monkeypatch.setattr(module, "published", lambda: pairs)
    found = efficiency_of(ORIN)
    assert found is not None
    assert found.compute_factors == pytest.approx({"float32": 2, "float16": 3, "int8": 4})
    assert found.memory_factor == pytest.approx(1.5)
    assert (found.layer_clocks, found.call_clocks) == pytest.approx((9_000, 2_000_000))
    assert found.model_error < 1e-9
    assert (found.low, found.high) == pytest.approx((1, 1))


@pytest.mark.usefixtures("forget")
def test_the_prediction_of_a_model_does_not_depend_on_its_own_latencies(monkeypatch: pytest.MonkeyPatch) -> None:
    changed = tuple(
        msgspec.structs.replace(pair, latency_ms=pair.latency_ms * (3 if pair.model == "resnet50" else 1))
        for pair in orin_pairs()
    )
    before = efficiency_of(ORIN)
    efficiency_of.cache_clear()
    monkeypatch.setattr(module, "published", lambda: changed)
    after = efficiency_of(ORIN)
    assert before is not None
    assert after is not None
    own = [(a.predicted_ms, b.predicted_ms) for a, b in zip(before.held_out, after.held_out, strict=True)
           if a.model == "resnet50"]  # fmt: skip
    assert len(own) == 6
    assert all(a == pytest.approx(b) for a, b in own)
    assert before.compute_factors != after.compute_factors


@pytest.mark.usefixtures("forget")
def test_the_error_bar_covers_the_stated_share_of_held_out_models(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = tuple(synthetic(pair, seed) for seed, pair in enumerate(orin_pairs()))
    monkeypatch.setattr(module, "published", lambda: pairs)
    found = efficiency_of(ORIN)
    assert found is not None
    inside = [found.low <= pair.published_ms / pair.predicted_ms <= found.high for pair in found.held_out]
    assert np.mean(inside) == pytest.approx(0.8, abs=0.03)


def test_published_latencies_of_orin_boards_are_predicted_within_these_errors() -> None:
    found = efficiency_of(ORIN)
    assert found is not None
    assert found.pairs == len(orin_pairs()) >= 70
    assert found.models >= 10
    assert found.model_error < 0.13
    assert found.board_error < 0.13
    assert 0.7 < found.low < 1 < found.high < 1.4
    # No engine is faster than the peaks.
    assert min(found.compute_factors.values()) > 1


@pytest.mark.parametrize("kind", sorted({board.kind for board in boards().boards.values()} - {ORIN}))
def test_boards_with_few_published_latencies_have_no_estimate(kind: str) -> None:
    pairs = [pair for pair in published() if boards().boards[pair.board].kind == kind]
    assert len(pairs) < MIN_PAIRS
    assert efficiency_of(kind) is None


def test_the_least_squares_are_those_of_scipy() -> None:
    random = np.random.default_rng(0)
    zeros = 0
    for _ in range(5):
        # The last three columns have both signs, so that plain least squares has negative factors.
        rows, times = random.random((30, 6)) - np.array([0, 0, 0, 0.5, 0.5, 0.5]), random.random(30) + 0.5
        expected, _ = scipy.optimize.nnls(rows / times[:, None], np.ones(30))
        assert module._fitted(rows, times) == pytest.approx(expected, abs=1e-9)
        zeros += int((expected == 0).sum())
    assert zeros > 0


def test_an_estimate_has_a_bound_below_it_and_a_time_for_each_layer() -> None:
    layers = layers_from_published("resnet50", "int8")
    made = estimate_from_layers(layers, "orin-nano", name="resnet50", precision="int8")
    assert made.latency_ms is not None
    assert made.low_ms is not None
    assert made.high_ms is not None
    assert made.roofline.bound_ms <= made.low_ms < made.latency_ms < made.high_ms
    assert sum(made.layer_ms) == pytest.approx(made.latency_ms)
    assert len(made.layer_ms) == len(made.roofline.points) == len(layers)


def test_a_faster_board_and_a_narrower_precision_are_faster() -> None:
    def latency_ms(precision: str, board: str) -> float:
        made = estimate_from_layers(layers_from_published("yolo11m", precision), board, name="", precision=precision)
        return made.latency_ms or 0.0

    assert latency_ms("float32", "orin-nano") > latency_ms("float16", "orin-nano") > latency_ms("int8", "orin-nano")
    assert latency_ms("int8", "orin-nano") > latency_ms("int8", "orin-nano-super") > latency_ms("int8", "agx-orin-64gb")


def test_a_board_without_estimate_still_has_its_bound() -> None:
    made = estimate_from_layers(layers_from_published("yolo11m", "int8"), "rtx-4090", name="yolo11m", precision="int8")
    assert made.latency_ms is made.efficiency is None
    assert made.roofline.bound_ms > 0
    assert made.layer_ms == ()


@pytest.mark.parametrize(("board", "precision"), [("agx-thor", "int8"), ("nano", "int8")])
def test_error_on_a_precision_that_the_board_has_no_rate_for(board: str, precision: str) -> None:
    with pytest.raises(UsageError, match="expected a precision with a published rate"):
        estimate_from_layers(layers_from_published("resnet18", precision), board, name="", precision=precision)
