from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.data.coco import COCO_NAMES
from edgekit.errors import UsageError
from edgekit.evaluation.labels import knows_all, model_classes_from_labels
from edgekit.recipe.schema import shipped

DARKNET = tuple(
    {"motorcycle": "motorbike", "airplane": "aeroplane", "couch": "sofa", "potted plant": "pottedplant",
     "dining table": "diningtable", "tv": "tvmonitor"}.get(name, name)
    for name in COCO_NAMES
)  # fmt: skip


@given(st.lists(st.text("abcdefgh", min_size=1), min_size=1, max_size=8, unique=True).flatmap(
    lambda names: st.tuples(st.just(names), st.permutations(names))
))  # fmt: skip
def test_classes_are_found_again_in_any_order(both: tuple[list[str], list[str]]) -> None:
    model, data = both
    assert [model[i] for i in model_classes_from_labels(model, data, name="set")] == data


def test_case_and_spaces_around_names_do_not_matter() -> None:
    assert model_classes_from_labels(["Cat", "dog "], ["dog", "cat"], name="set").tolist() == [1, 0]


def test_cocos_names_and_darknets_are_the_same_classes() -> None:
    np.testing.assert_array_equal(model_classes_from_labels(DARKNET, COCO_NAMES, name="set"), np.arange(80))


def test_names_that_stand_twice_go_with_the_same_order_alone() -> None:
    twice = ["crane", "dog", "crane"]
    assert model_classes_from_labels(twice, twice, name="set").tolist() == [0, 1, 2]
    with pytest.raises(UsageError, match="several are named 'crane'"):
        model_classes_from_labels(twice, ["dog", "crane", "crane"], name="set")
    with pytest.raises(UsageError, match="several are named 'crane'"):
        model_classes_from_labels(twice, ["crane", "dog"], name="set")


def test_a_set_may_lack_classes_of_the_model() -> None:
    assert model_classes_from_labels(["a", "b", "c"], ["C", "a"], name="set").tolist() == [2, 0]


def test_a_model_knows_all_of_a_set_by_the_same_names() -> None:
    assert knows_all(["a", "b", "c"], [" C", "a"])
    assert knows_all(DARKNET, COCO_NAMES)
    assert not knows_all(["a", "b"], ["a", "d"])
    assert not knows_all((), ["a"])


def test_error_names_what_either_side_lacks() -> None:
    with pytest.raises(UsageError) as error:
        model_classes_from_labels(["a", "b", "c"], ["a", "B", "d"], name="folder")
    assert "data set folder" in error.value.message
    assert "the model lacks 'd'" in error.value.message
    assert "the set lacks 'c'" in error.value.message


def test_error_names_a_few_of_many() -> None:
    with pytest.raises(UsageError, match="'0', '1', '2', '3' and 6 more"):
        model_classes_from_labels(["a"], ["a", *"0123456789"], name="set")


def test_a_data_set_without_classes_has_no_classes_of_the_model() -> None:
    found = model_classes_from_labels(("a", "b"), (), name="empty")
    assert found.shape == (0,) and found.dtype == np.int64


IDS = {
    "n01440764": "tench",
    "n02012849": "crane bird",
    "n02123045": "tabby",
    "n03126707": "crane",
    "n15075141": "toilet tissue",
}
"""Of WordNet 3.0."""


@pytest.mark.parametrize("before", [(), ("background",)])
@pytest.mark.parametrize("spelling", ["{}", "{}, another name", " {} "])
def test_folders_of_imagenet_are_classes_of_a_model_of_imagenet(before: tuple[str, ...], spelling: str) -> None:
    names = (shipped("recipes") / "labels" / "imagenet.txt").read_text().splitlines()
    model = [*before, *map(spelling.format, names)]
    folders = ["n15075141", "n01440764", "n03126707", "n02012849", "n02123045"]
    found = model_classes_from_labels(model, folders, name="set")
    assert [model[i] for i in found] == [spelling.format(IDS[folder]) for folder in folders]
    assert knows_all(model, folders)


def test_other_ids_and_other_models_are_no_classes_of_imagenet() -> None:
    names = (shipped("recipes") / "labels" / "imagenet.txt").read_text().splitlines()
    with pytest.raises(UsageError, match="the model lacks 'n01440764', 'n99999999'"):
        model_classes_from_labels(names, ["n01440764", "n99999999"], name="set")
    assert not knows_all([*names[1:], names[0]], ["n01440764"])
    assert not knows_all(["cat", "dog"], ["n01440764"])
