"""Outputs beside those of the original model: ratios by part, agreement, rows in another order, and limits."""

from __future__ import annotations

import math

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgekit.errors import AccuracyError
from edgekit.graph.passes import InferShapes
from edgekit.quantize.compare import LIMITS, OutputNoise, noise_of_outputs, refuse_noise, worst_noise
from edgekit.quantize.output_form import OutputForm, Part
from edgekit.quantize.output_parts import forms_of_outputs
from edgekit.specs import EXACT_DB, Precision
from tests.decibels import signal_to_noise_db

RANDOM = np.random.default_rng(0)


def noise(reference: np.ndarray, got: np.ndarray, form: OutputForm | None = None) -> tuple[OutputNoise, ...]:
    return noise_of_outputs([{"y": reference}], [{"y": got}], {"y": form} if form else None)


def test_energies_are_summed_over_all_inputs() -> None:
    reference = [RANDOM.standard_normal((2, 5)).astype(np.float32) * (i + 1) for i in range(3)]
    got = [array + RANDOM.normal(0, 0.05, array.shape).astype(np.float32) for array in reference]
    (found,) = noise_of_outputs([{"y": a} for a in reference], [{"y": b} for b in got])
    assert found.sqnr_db == pytest.approx(signal_to_noise_db(reference, got))


def test_scores_that_are_lost_do_not_hide_behind_boxes() -> None:
    reference = np.concatenate([RANDOM.uniform(0, 640, (64, 4)), RANDOM.uniform(0.1, 1, (64, 2))], 1).astype("f4")
    got = reference.copy()
    got[:, 4:] = RANDOM.uniform(0.1, 1, (64, 2))
    parts = {each.part: each for each in noise(reference, got)}
    assert parts["0:4"].sqnr_db == EXACT_DB
    expected = signal_to_noise_db([reference[:, 4:]], [got[:, 4:]])
    assert parts["4:6"].sqnr_db == pytest.approx(expected)
    assert signal_to_noise_db([reference], [got]) > 50  # in one figure, nothing shows
    worst = worst_noise(parts.values())
    assert worst is not None and worst.where == "'y' (columns 4:6)"


def test_columns_of_zeros_are_not_judged() -> None:
    reference = RANDOM.standard_normal((64, 3)).astype(np.float32)
    reference[:, 1] = 1e-12
    got = reference.copy()
    got[:, 1] = -1e-12
    assert [each.sqnr_db for each in noise(reference, got)] == [EXACT_DB]


def test_probabilities_are_compared_by_their_logits() -> None:
    form = OutputForm((Part("", lambda array: array, probability=True),))
    reference = np.array([0.2, 0.5, 0.9, 1e-5], np.float32)
    got = np.array([0.25, 0.5, 0.8, 1e-7], np.float32)
    (found,) = noise(reference, got, form)

    def logit(p: float) -> float:
        return math.log(p / (1 - p))

    a = [logit(p) for p in (0.2, 0.5, 0.9, 1e-3)]
    b = [logit(p) for p in (0.25, 0.5, 0.8, 1e-3)]  # below 0.001 one is as good as another
    energy, difference = sum(x * x for x in a), sum((x - y) ** 2 for x, y in zip(a, b, strict=True))
    assert found.sqnr_db == pytest.approx(10 * math.log10(energy / difference), abs=0.01)


@pytest.mark.parametrize(
    ("reference", "got", "expected"),
    [
        ([1.0, 2.0], [1.0, 2.0], EXACT_DB),
        ([1.0, 2.0], [1.0, math.nan], -EXACT_DB),
        ([1.0, 2.0], [1.0, math.inf], -EXACT_DB),
        ([1.0, -math.inf], [1.0, -3e38], EXACT_DB),
        ([0.0, 0.0], [0.0, 1.0], None),
    ],
    ids=["equal", "NaN", "infinity", "the reference's own infinity", "no signal"],
)
def test_values_without_a_ratio(reference: list[float], got: list[float], expected: float | None) -> None:
    (found,) = noise(np.array(reference, np.float32), np.array(got, np.float32))
    assert found.sqnr_db == expected


def test_integers_are_compared_by_agreement() -> None:
    (found,) = noise(np.array([[1, 2], [3, 4]]), np.array([[1, 2], [3, 5]], np.int32))
    assert (found.sqnr_db, found.agreement) == (None, 0.75)


def test_rows_that_a_topk_chose_may_be_in_another_order() -> None:
    rows = RANDOM.uniform(0, 1, (1, 50, 4)).astype(np.float32)
    order = RANDOM.permutation(50)
    got = rows[:, order] + RANDOM.normal(0, 1e-4, (1, 50, 4)).astype(np.float32)
    (plain,) = noise(rows, got)
    (found,) = noise(rows, got, OutputForm((), selected=True))
    assert plain.sqnr_db is not None and plain.sqnr_db < 10
    assert found.agreement == 1.0
    assert found.sqnr_db is not None and found.sqnr_db > 70


def test_numbers_of_each_row_may_be_in_another_order_too() -> None:
    scores = np.sort(RANDOM.uniform(0, 1, (1, 50)).astype(np.float32))[:, ::-1]
    (found,) = noise(scores, scores[:, RANDOM.permutation(50)], OutputForm((), selected=True))
    assert (found.sqnr_db, found.agreement) == (EXACT_DB, 1.0)


def test_rows_that_are_missing_or_new_lower_the_agreement() -> None:
    rows = RANDOM.uniform(0, 100, (40, 4)).astype(np.float32)
    (found,) = noise(rows, rows[:30])
    assert found.agreement == pytest.approx(30 / 40)
    (found,) = noise(rows, np.concatenate([rows, rows[:10] + 500]))
    assert found.agreement == pytest.approx(40 / 50)
    (found,) = noise(rows, rows[:0])
    assert found.agreement == 0.0
    (found,) = noise(rows[:0], rows[:0], OutputForm((), selected=True))
    assert found.agreement == 1.0


@pytest.mark.parametrize("shape", [(4, 0), (0, 4), (1, 0, 6)])
def test_selections_of_nothing_agree(shape: tuple[int, ...]) -> None:
    nothing = np.zeros(shape, np.float32)
    (found,) = noise(nothing, nothing, OutputForm((), selected=True))
    assert found.agreement == 1.0
    (found,) = noise(nothing, np.ones((4, 3), np.float32), OutputForm((), selected=True))
    assert found.agreement == 0.0


def test_an_unsorted_topk_is_compared_without_its_order() -> None:
    values = RANDOM.uniform(0, 1, (3, 5)).astype(np.float32)
    places = np.arange(15).reshape(3, 5)
    order = np.array([3, 1, 4, 0, 2])
    (found,) = noise(values, values[:, order], OutputForm(unordered=-1))
    assert found.sqnr_db == EXACT_DB
    (found,) = noise(places, places[:, order], OutputForm(unordered=-1))
    assert found.agreement == 1.0
    others = np.where(places == 0, 99, places)  # sorted, none of the first row would be at its place
    (found,) = noise(places, others, OutputForm(unordered=-1))
    assert found.agreement == pytest.approx(14 / 15)
    labels, swapped = np.asarray([[7, 7, 7, 2, 2]]), np.asarray([[2, 7, 2, 2, 7]])
    (found,) = noise(labels, swapped, OutputForm(unordered=-1))
    assert found.agreement == pytest.approx(4 / 5)
    (found,) = noise(values, values[[1, 2, 0]], OutputForm(unordered=-1))
    assert found.sqnr_db is not None and found.sqnr_db < 20


def test_an_engine_below_its_limit_is_refused_with_what_was_expected() -> None:
    found = [OutputNoise(output="y", sqnr_db=40.0), OutputNoise(output="boxes", part="4:84", sqnr_db=-1.5)]
    with pytest.raises(AccuracyError) as caught:
        refuse_noise(found, LIMITS[Precision.INT8], what="the INT8 engine for cpu", reference="PyTorch")
    assert caught.value.message == (
        "output 'boxes' (columns 4:84) of the INT8 engine for cpu is lost in noise: expected a signal-to-noise ratio "
        "of at least 0 dB against PyTorch, got -1.5 dB"
    )
    refuse_noise(found[:1], LIMITS[Precision.INT8], what="", reference="")
    with pytest.raises(AccuracyError, match="at least 60 dB against PyTorch, got 40.0 dB"):
        refuse_noise(found[:1], LIMITS[Precision.FP32], what="the FP32 engine", reference="PyTorch")


def test_integers_that_differ_are_refused() -> None:
    found = [OutputNoise(output="labels", agreement=0.8)]
    with pytest.raises(AccuracyError, match="expected 90 % of its values as in PyTorch, got 80.0 %"):
        refuse_noise(found, LIMITS[Precision.FP32], what="the FP32 engine", reference="PyTorch")


SELECTED = """<ir_version: 10, opset_import: ["" : 20]> g (float[1, 9, 4] b, float[1, 9] s) => (float[1, 3, 5] y)
    <int64[1] k = {3}, int64[1] last = {2}, int64[3] shape = {1, 3, 4}> {
    t, i = TopK (s, k) u = Unsqueeze (t, last) j = Unsqueeze (i, last) e = Expand (j, shape)
    g4 = GatherElements <axis = 1> (b, e) y = Concat <axis = 2> (g4, u) }"""


def test_rows_that_are_selected_are_judged_by_their_columns() -> None:
    graph = ir.from_proto(onnx.parser.parse_model(SELECTED))
    InferShapes()(graph)
    forms = forms_of_outputs(graph)
    assert forms["y"].selected and [part.name for part in forms["y"].parts] == ["0:4", "4:5"]
    rows = np.random.default_rng(0).random((1, 3, 5)).astype(np.float32)
    found = noise_of_outputs([{"y": rows}], [{"y": rows[:, ::-1]}], forms)
    assert [(noise.part, noise.sqnr_db) for noise in found] == [("0:4", EXACT_DB), ("4:5", EXACT_DB)]


def test_zeros_in_place_of_an_output_are_refused() -> None:
    scores = np.full((1, 2, 64), 1e-3, np.float32)
    with pytest.raises(AccuracyError, match="'y' of it is lost in noise: .* above 0 dB against r, got 0.0 dB"):
        refuse_noise(noise(scores, np.zeros_like(scores)), LIMITS[Precision.INT8], what="it", reference="r")


@pytest.mark.parametrize("shape", [(1, 8, 12, 12), (1, 30, 30), (900,)])
def test_another_shape_is_beyond_any_limit(shape: tuple[int, ...]) -> None:
    found = noise_of_outputs([{"y": np.ones((1, 8, 30, 30), np.float32)}], [{"y": np.ones(shape, np.float32)}])
    with pytest.raises(AccuracyError, match=r"expected shape \(1, 8, 30, 30\) as in r, got \(") as e:
        refuse_noise(found, LIMITS[Precision.INT8], what="the INT8 engine for cpu", reference="r")
    assert "output 'y' of the INT8 engine for cpu" in e.value.message


def test_another_number_of_selected_rows_is_no_other_shape() -> None:
    found = noise_of_outputs([{"y": np.ones((5, 4), np.float32)}], [{"y": np.ones((7, 4), np.float32)}])
    assert [each.shapes for each in found] == [()]


def test_the_columns_that_are_judged_apart_do_not_depend_on_the_number_of_rows() -> None:
    draw = np.random.default_rng(0)
    sizes = np.array([1000, 1000, 1, 1], np.float32)
    rows = draw.normal(size=(40, 4)).astype(np.float32) * sizes
    rows[20:, 2] *= 1e6  # these rows are the last ones, which the shorter output lacks
    found = [noise_of_outputs([{"y": rows[None]}], [{"y": rows[None, :count]}]) for count in (40, 39, 20)]
    assert len({tuple(each.part for each in noise) for noise in found}) == 1


def test_selected_rows_that_are_no_numbers_in_the_reference_are_not_judged() -> None:
    rows = np.random.default_rng(0).normal(size=(1, 8, 4)).astype(np.float32)
    forms = {"y": OutputForm(selected=True)}
    for lost in (1, 8):
        rows[0, :lost] = np.nan
        (found,) = noise_of_outputs([{"y": rows}], [{"y": rows[:, ::-1]}], forms)
        assert found.agreement == 1 and found.sqnr_db in (None, EXACT_DB)
    (found,) = noise_of_outputs([{"y": np.ones((1, 8, 4), np.float32)}], [{"y": rows}], forms)
    assert found.agreement == 0
