from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np
import pytest

import edgekit
from edgekit.errors import DataError, UsageError
from edgekit.measure.conditions import Snapshot
from edgekit.measure.measured_run import generated_image
from edgekit.measure.profile import measure, profile_bundle
from edgekit.measure.reports import LatencyReport
from edgekit.report.wording import engine_rows, environment_rows
from edgekit.runtime.session import Session, session_from_bundle
from edgekit.specs import ShapeRange, TensorSpec


class Slow:
    """An engine whose first runs are slow, as with cold caches; all others take 4 ms."""

    notes = ()

    inputs = (TensorSpec("x", "float32", (2, 8)),)
    outputs = (TensorSpec("y", "float32", (2, 4)),)

    def __init__(self, slow_runs: int) -> None:
        self.runs = 0
        self.slow_runs = slow_runs

    def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.runs += 1
        time.sleep(0.05 if self.runs <= self.slow_runs else 0.004)
        return {"y": np.zeros((2, 4), np.float32)}

    def close(self) -> None:
        return None


@pytest.fixture
def slow(arrays_engine: Path) -> Session:
    with session_from_bundle(arrays_engine) as session:
        return Session(Slow(slow_runs=3), session.manifest)


class Watching:
    """Records the progress of a measurement."""

    def __init__(self) -> None:
        self.stages: list[tuple[str, float | None]] = []
        self.advanced = 0.0

    @contextmanager
    def stage(self, title: str, *, total: float | None = None, unit: str = "") -> Iterator[object]:
        self.stages.append((title, total))

        def advance(amount: float) -> None:
            self.advanced += amount

        yield advance

    def note(self, text: str) -> None:
        raise AssertionError(text)


def test_a_detectors_stages_are_timed_apart_and_add_up(detector: Path) -> None:
    report = profile_bundle(detector, runs=25, warmup=2)
    assert list(report.stages) == ["preprocess", "inference", "postprocess"]
    assert all(len(samples) == 25 for samples in report.samples_ms.values())
    assert report.total_ms is not None
    assert report.total_ms.mean == pytest.approx(sum(stage.mean for stage in report.stages.values()))
    assert report.latency_ms == report.stages["inference"]


def test_an_engine_for_arrays_has_one_stage_and_no_total(arrays_engine: Path) -> None:
    report = profile_bundle(arrays_engine, runs=20)
    assert list(report.stages) == ["inference"]
    assert report.total_ms is None
    assert report.input_source == "random numbers"


def test_warm_up_runs_are_not_counted(slow: Session) -> None:
    assert measure(slow, runs=20, warmup=3).latency_ms.max < 50


def test_without_warm_up_the_slow_first_runs_are_seen(slow: Session) -> None:
    report = measure(slow, runs=20, warmup=0)
    assert report.latency_ms.max >= 50
    assert sorted(report.samples_ms["inference"][:3]) == sorted(report.samples_ms["inference"])[-3:]


def test_latency_is_wall_clock_time(slow: Session) -> None:
    report = measure(slow, runs=20, warmup=3)
    assert 4.0 <= report.latency_ms.min < 8.0


def test_throughput_counts_a_batch_as_its_inputs(slow: Session) -> None:
    report = measure(slow, runs=20, warmup=3)
    assert report.throughput_per_s == pytest.approx(2 * 1000 / report.latency_ms.mean)


def test_a_duration_ends_the_measurement(slow: Session) -> None:
    start = time.perf_counter()
    report = measure(slow, duration_s=0.2, warmup=3)
    assert 0.3 < time.perf_counter() - start < 2.0
    assert 5 <= report.runs <= 50


def test_with_runs_and_duration_the_first_to_end_counts(slow: Session) -> None:
    assert measure(slow, runs=4, duration_s=60, warmup=3).runs == 4
    assert measure(slow, runs=10_000, duration_s=0.1, warmup=0).runs < 50


def test_a_report_says_what_was_measured_and_where(detector: Path) -> None:
    report = profile_bundle(detector, runs=20, warmup=1, threads=1)
    assert (report.name, report.backend, report.precision) == ("detector", "null", "fp32")
    assert report.notes == ("The weights are random: latency is real, detections are not.",)
    assert report.engine_bytes == (detector / "engine.json").stat().st_size
    assert (report.runs, report.warmup, report.threads) == (20, 1, 1)
    assert report.memory.peak_bytes > 10_000_000
    assert report.machine.threads >= 1
    assert report.edgekit == edgekit.__version__


def test_a_given_image_is_used_and_named(detector: Path, picture: Path) -> None:
    assert profile_bundle(detector, runs=1, image=picture).input_source == "picture.png, 100 x 60 px"


def test_a_generated_image_is_the_same_for_the_same_seed_and_not_flat() -> None:
    first, again, other = generated_image(70, 50, 1), generated_image(70, 50, 1), generated_image(70, 50, 2)
    assert first.shape == (50, 70, 3)
    assert first.dtype == np.uint8
    assert (first == again).all()
    assert (first != other).any()
    assert first.std() > 20


def test_progress_advances_by_one_per_run(arrays_engine: Path) -> None:
    watching = Watching()
    profile_bundle(arrays_engine, runs=7, progress=watching)
    assert watching.stages == [("measuring", 7)]
    assert watching.advanced == 7


def test_inputs_of_every_element_type_are_generated(make_bundle: Callable[..., Path]) -> None:
    kinds = ("float16", "float32", "int64", "uint8", "bool")
    inputs = tuple(TensorSpec(f"x_{kind}", kind, ("batch", 3)) for kind in kinds)
    shapes = {spec.name: ShapeRange((1, 3), (4, 3), (16, 3)) for spec in inputs}
    bundle = make_bundle(
        "kinds",
        kind={"inputs": inputs, "outputs": (TensorSpec("y", "float32", (1,)),), "task": "tensor"},
        shapes=shapes,
    )
    assert profile_bundle(bundle, runs=2).runs == 2


@pytest.fixture
def of_any_width(make_bundle: Callable[..., Path]) -> Path:
    x, y = TensorSpec("x", "float32", ("batch", "x_1")), TensorSpec("y", "float32", ("batch",))
    shapes = {"x": ShapeRange((1, 8), (4, 16), (8, 64))}
    return make_bundle("wide", kind={"inputs": (x,), "outputs": (y,), "task": "tensor"}, shapes=shapes)


def test_a_dynamic_engine_is_measured_at_its_opt_size(of_any_width: Path) -> None:
    report = profile_bundle(of_any_width, runs=2)
    assert report.inputs == (TensorSpec("x", "float32", (4, 16)),)
    assert report.throughput_per_s == pytest.approx(4000 / report.latency_ms.mean)
    rows = dict(engine_rows(report))
    assert (rows["input"], rows["built for"]) == ("x: float32 (4, 16)", "x: float32 (1:4:8, 8:16:64)")


@pytest.mark.parametrize("name", ["x", ""])
def test_a_dynamic_engine_is_measured_at_the_requested_size(of_any_width: Path, name: str) -> None:
    assert profile_bundle(of_any_width, runs=2, sizes={name: (1, 64)}).inputs[0].shape == (1, 64)


def test_error_on_an_image_and_sizes(of_any_width: Path) -> None:
    with pytest.raises(UsageError, match="image and sizes: expected one of them"):
        profile_bundle(of_any_width, runs=2, image=generated_image(64, 64, 0), sizes={"": (1, 64)})


@pytest.mark.parametrize(
    ("sizes", "message"),
    [({"x": (1, 65)}, r"fits x: float32 \(1:4:8, 8:16:64\), got 1x65"), ({"x": (1,)}, "got 1"),
     ({"z": (1, 8)}, "no input 'z'")],
)  # fmt: skip
def test_error_on_sizes_that_the_engine_does_not_take(
    of_any_width: Path, sizes: dict[str, tuple[int, ...]], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        profile_bundle(of_any_width, runs=2, sizes=sizes)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"runs": 0}, "runs: expected a whole number from 1 to 10000000"),
     ({"duration_s": 0}, "duration_s: expected more than 0 s"),
     ({"duration_s": float("nan")}, "duration"), ({"warmup": -1}, "warmup: expected a whole number from 0 to")],
)  # fmt: skip
def test_error_on_lengths_out_of_range(arrays_engine: Path, wrong: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        profile_bundle(arrays_engine, **wrong)


def test_error_on_an_image_for_an_engine_that_expects_arrays(arrays_engine: Path, picture: Path) -> None:
    with pytest.raises(UsageError, match="expects arrays"):
        profile_bundle(arrays_engine, image=picture)


def test_error_on_a_missing_image(detector: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        profile_bundle(detector, image=tmp_path / "nowhere.jpg")


def test_a_report_survives_json(detector: Path) -> None:
    report = profile_bundle(detector, runs=3)
    assert msgspec.json.decode(msgspec.json.encode(report), type=LatencyReport) == report


def test_percentiles_are_bounds_of_every_stage_and_of_the_total(detector: Path) -> None:
    report = profile_bundle(detector, runs=60)
    assert set(report.percentiles) == {"preprocess", "inference", "postprocess", "total"}
    for bounds in report.percentiles.values():
        assert [bound.percentile for bound in bounds] == [90, 95, 99]
        assert bounds[2].upper_ms is None and bounds[2].missing_runs >= 459 - 60
    assert report.latency_ms.p99 is None


def test_a_claim_measures_until_it_can_be_made(slow: Session) -> None:
    report = measure(slow, claim=50, warmup=3)
    # Seven runs are the least for a bound of the median.
    assert report.runs >= 7
    bound = next(each for each in report.percentiles["inference"] if each.percentile == 50)
    assert bound.upper_ms is not None and bound.upper_ms <= report.latency_ms.max


def test_a_claim_ends_with_the_duration_and_says_what_is_missing(slow: Session) -> None:
    report = measure(slow, claim=99.9, duration_s=0.2, warmup=3)
    assert report.runs <= 50
    bound = report.percentiles["inference"][-1]
    assert (bound.percentile, bound.upper_ms) == (99.9, None)
    assert bound.missing_runs >= 4603 - 50


def test_error_on_a_claim_with_a_number_of_runs_or_of_no_percentile(slow: Session) -> None:
    with pytest.raises(UsageError, match="claim and runs"):
        measure(slow, claim=99, runs=10)
    with pytest.raises(UsageError, match="claim: expected 1 to 99.9999, got 100"):
        measure(slow, claim=100)


def test_nothing_is_clipped(slow: Session) -> None:
    report = measure(slow, runs=60, warmup=0)
    assert report.latency_ms.max >= 50
    assert len(report.samples_ms["inference"]) == report.runs == 60


def test_the_state_of_the_machine_is_in_the_report(slow: Session) -> None:
    report = measure(slow, duration_s=1.2, warmup=0)
    assert report.conditions is not None
    times = [each.time_s for each in (report.conditions.before, *report.conditions.during, report.conditions.after)]
    assert times == sorted(times) and len(times) >= 3
    assert times[-1] >= 1.2


def test_power_is_measured_or_the_report_says_why_not(slow: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgekit.measure.profile.sensor", lambda **kind: "not readable here: no sensor")
    report = measure(slow, runs=5, power=True)
    assert report.power is not None and report.power.unreadable == "not readable here: no sensor"
    assert measure(slow, runs=5).power is None


def test_a_report_of_format_1_is_still_read(detector: Path) -> None:
    content = msgspec.to_builtins(profile_bundle(detector, runs=25))
    for name in ("percentiles", "steady", "conditions", "power", "throughput"):
        del content[name]
    content |= {"format": 1, "disturbances": []}
    for statistics in (content["latency_ms"], content["total_ms"], *content["stages"].values()):
        statistics |= {"p90": 1.0, "p95": 1.0, "p99": 1.0}
    report = msgspec.json.decode(msgspec.json.encode(content), type=LatencyReport)
    assert (report.format, report.latency_ms.p99, report.conditions) == (1, 1.0, None)
    assert "not recorded" in dict(environment_rows(report))["verdict"]


@pytest.mark.parametrize("disturbed", [{"load": 8.0}, {"throttle_events": 1}])
def test_a_machine_that_is_not_quiet_is_never_called_quiet(
    arrays_engine: Path, monkeypatch: pytest.MonkeyPatch, disturbed: dict[str, float]
) -> None:
    states = iter([Snapshot(time_s=0.0, load=0.0, throttle_events=0)])

    def state(*args: object, **kwargs: object) -> Snapshot:
        return next(states, Snapshot(time_s=9.0, **({"load": 0.0, "throttle_events": 0} | disturbed)))

    monkeypatch.setattr("edgekit.measure.conditions.snapshot", state)
    report = profile_bundle(arrays_engine, runs=30)
    assert dict(environment_rows(report))["verdict"].startswith("disturbed: ")
    assert {"load": "load", "throttle_events": "throttling"}[next(iter(disturbed))] in {
        item.kind for item in report.disturbances
    }
