"""Parts of outputs, found from heads, from what is concatenated, and by magnitude."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit.graph.passes import InferShapes
from edgekit.quantize.output_parts import forms_of_outputs
from edgekit.recipe.heads import YoloHead, YoloV1, YoloV2, YoloV3
from edgekit.recipe.schema import Postprocess

BEFORE = "g (float[1, 8, 4, 4] x) => (float[{shape}] y) {{ a = Conv (x, wa)  b = Conv (x, wb)  {rest} }}"
RESHAPED = "c = Concat <axis = 1> (a, s)  r = Reshape (c, to)"


@pytest.fixture
def parts(graph_of, weights):
    def of(shape, rest, **constants):
        text = BEFORE.format(shape=shape, rest=rest)
        graph = graph_of(text, wa=weights(4, 8, 1, 1), wb=weights(6, 8, 1, 1), **constants)
        InferShapes()(graph)
        form = forms_of_outputs(graph)["y"]
        return {part.name: (part, part.probability) for part in form.parts}, form.selected

    return of


@pytest.mark.parametrize(
    ("shape", "rest", "constants"),
    [
        ("1, 10, 4, 4", "s = Sigmoid (b)  y = Concat <axis = 1> (a, s)", {}),
        ("1, 10, 16", f"s = Sigmoid (b)  {RESHAPED}  y = Identity (r)", {"to": [1, 10, 16]}),
        ("1, 16, 10", f"s = Sigmoid (b)  {RESHAPED}  y = Transpose <perm = [0, 2, 1]> (r)", {"to": [1, 10, 16]}),
        ("10, 16", f"s = Sigmoid (b)  {RESHAPED}  y = Squeeze (r, axes)", {"to": [1, 10, 16], "axes": [0]}),
    ],
    ids=["as it is", "reshaped", "transposed", "squeezed"],
)
def test_what_is_concatenated_is_a_part_each(parts, shape, rest, constants):
    found, selected = parts(shape, rest, **{name: np.array(value) for name, value in constants.items()})
    assert {name: probability for name, (_, probability) in found.items()} == {"0:4": False, "4:10": True}
    assert not selected
    sizes = [int(size) for size in shape.split(", ")]
    array = np.arange(np.prod(sizes)).reshape(sizes)
    assert sum(part.select(array).size for part, _ in found.values()) == array.size
    axis = sizes.index(10)
    np.testing.assert_array_equal(found["0:4"][0].select(array), np.take(array, range(4), axis))


def test_columns_are_found_behind_a_concat_of_scales(parts):
    rest = """s = Sigmoid (b)  c = Concat <axis = 1> (a, s)  r = Reshape (c, to)  t = Transpose <perm = [0, 2, 1]> (r)
        y = Concat <axis = 1> (t, t)"""
    found, _ = parts("1, 32, 10", rest, to=np.array([1, 10, 16]))
    assert set(found) == {"0:4", "4:10"}
    assert found["4:10"][0].select(np.zeros((1, 32, 10))).shape == (1, 32, 6)


def test_an_output_of_one_product_is_divided_by_magnitude_alone(parts):
    found, _ = parts("1, 4, 4, 4", "y = Relu (a)")
    assert found == {}


def test_probabilities_are_told_from_scores(parts):
    found, _ = parts("1, 6, 4, 4", "y = Sigmoid (b)")
    assert [probability for _, probability in found.values()] == [True]
    found, _ = parts("1, 6, 4, 4", "s = Sigmoid (b)  y = Mul (s, b)")
    assert found == {}


def test_rows_that_depend_on_a_topk_are_selected(parts):
    rest = "r = Reshape (b, to)  v, i = TopK <axis = 1> (r, k)  y = Identity (v)"
    _, selected = parts("1, 5", rest, to=np.array([1, 96]), k=np.array([5]))
    assert selected


@pytest.mark.parametrize("kind", ["yolov3", "yolov1"])
def test_a_head_has_boxes_and_scores(graph_of, weights, kind):
    graph = graph_of("g (float[1, 8, 4, 4] x) => (float[1, 14, 4, 4] y) { y = Conv (x, w) }", w=weights(14, 8, 1, 1))
    anchors = () if kind == "yolov1" else ((10.0, 10.0), (20.0, 20.0))
    head = YoloHead(output="y", stride=8, anchors=anchors, boxes=2 if kind == "yolov1" else 0)
    form = forms_of_outputs(
        graph, Postprocess(head={"yolov1": YoloV1, "yolov2": YoloV2, "yolov3": YoloV3}[kind](heads=(head,)))
    )["y"]
    array = np.arange(14 * 16, dtype=np.float32).reshape(1, 14, 4, 4)
    taken = {part.name: part.select(array) for part in form.parts}
    boxes = np.r_[6:14] if kind == "yolov1" else np.r_[0:4, 7:11]
    np.testing.assert_array_equal(np.sort(taken["boxes"].ravel()), np.sort(array[:, boxes].ravel()))
    assert taken["boxes"].size + taken["scores"].size == array.size


def test_columns_of_one_magnitude_stay_together():
    from edgekit.quantize.output_form import OutputForm

    random = np.random.default_rng(0)
    array = random.standard_normal((1, 40, 5)) * np.array([1, 300, 2, 100, 0.5])
    assert [part.name for part in OutputForm().parts_at([array])] == ["0:1,2:3,4:5", "1:2,3:4"]
    assert [part.name for part in OutputForm().parts_at([array[..., [0, 2, 4]]])] == [""]
    assert [part.name for part in OutputForm().parts_at([array[:, :3]])] == [""]  # too few rows to tell
    channels_first = array.transpose(0, 2, 1)
    parts = OutputForm().parts_at([channels_first])
    assert [part.name for part in parts] == ["0:1,2:3,4:5", "1:2,3:4"]
    np.testing.assert_array_equal(parts[1].select(channels_first), channels_first[:, [1, 3]])
    # A feature map is one part: channels that are seldom active are no columns.
    assert [part.name for part in OutputForm().parts_at([channels_first[..., None]])] == [""]


@pytest.mark.parametrize(
    ("attributes", "unordered"), [("sorted = 0, axis = 1", 1), ("sorted = 0", -1), ("axis = 1", None)]
)
def test_an_unsorted_topk_has_no_order_along_its_axis(graph_of, attributes, unordered):
    text = f"""g (float[1, 8, 4] x) => (float[1, 2, 4] y)
        {{ y, i = TopK <{attributes}> (x, k) }}"""
    graph = graph_of(text, k=np.array([2]))
    forms = forms_of_outputs(graph)
    assert forms["y"].unordered == unordered
    assert forms["y"].selected is (unordered is None)


@pytest.mark.parametrize(("attributes", "axis"), [("sorted = 0, axis = 1", 1), ("sorted = 1", -1), ("axis = 1", 1)])
def test_indices_of_a_topk_have_no_order_since_values_may_be_equal(graph_of, attributes, axis):
    text = f"""g (float[1, 8, 4] x) => (int32[1, 2, 4] places)
        {{ y, i = TopK <{attributes}> (x, k)  label = Mod (i, classes)  places = Cast <to = 6> (label) }}"""
    form = forms_of_outputs(graph_of(text, k=np.array([2]), classes=np.array(3)))["places"]
    assert (form.unordered, form.selected) == (axis, False)
