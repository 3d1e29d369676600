import re
import sys

import numpy as np
import pytest

from edgekit.data.examples import data_set, feeds_from_example
from edgekit.data.generated.digits import digit_arrays
from edgekit.data.generated.spelling import SPELLING_VOCABULARY, number_in_words
from edgekit.data.vocabulary import (
    END,
    UNKNOWN,
    ids_from_text,
    source_ids,
    target_input_ids,
    target_output_ids,
    text_from_ids,
    unknown_tokens,
)
from edgekit.errors import BackendUnavailable
from edgekit.extras import install_command
from edgekit.recipe.schema import load_recipe
from edgekit.specs import TensorSpec


def test_digits_are_scikit_learns():
    from sklearn.datasets import load_digits

    images = np.concatenate([digit_arrays(split)[0] for split in ("train", "test")])
    assert images.dtype == np.uint8 and images.max() == 255
    levels = np.round(images.astype(float) * 16 / 255)
    known = {image.tobytes() for image in load_digits().images}
    assert {image.tobytes() for image in levels} == known


def test_digits_are_split_1437_to_360_and_every_class_is_in_both():
    train, test = (data_set("digits", split=split) for split in ("train", "test"))
    assert (len(train), len(test)) == (1437, 360)
    for split in ("train", "test"):
        assert np.bincount(digit_arrays(split)[1], minlength=10).min() >= 20
    example = test[0]
    assert example.input.shape == (32, 32) and example.input.dtype == np.uint8
    assert train.labels == tuple("0123456789")


def test_digits_keep_their_classes():
    from sklearn.datasets import load_digits

    loaded = load_digits()
    classes = {image.tobytes(): target for image, target in zip(loaded.images, loaded.target, strict=True)}
    images, targets = digit_arrays("test")
    for image, target in zip(images, targets, strict=True):
        assert classes[np.round(image.astype(float) * 16 / 255).tobytes()] == target


def test_digits_without_scikit_learn_say_how_to_install_it(monkeypatch):
    digit_arrays.cache_clear()
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    for name in ("digits", "scenes"):
        with pytest.raises(BackendUnavailable, match="scikit-learn") as e:
            data_set(name)
        assert e.value.hint == install_command("train", "scikit-learn")


def test_a_scene_is_the_same_every_time_and_differs_from_the_next():
    first, again = data_set("scenes"), data_set("scenes")
    np.testing.assert_array_equal(first[3].input, again[3].input)
    np.testing.assert_array_equal(first[3].target.corners, again[3].target.corners)
    assert not np.array_equal(first[3].input, first[4].input)
    assert not np.array_equal(first[3].input, data_set("scenes", split="train")[3].input)


def test_scenes_have_the_size_that_is_asked_for():
    assert data_set("scenes")[0].input.shape == (160, 160, 3)
    assert data_set("scenes:96")[0].input.shape == (96, 96, 3)
    assert data_set("scenes:64x48")[0].input.shape == (48, 64, 3)


def test_scenes_end():
    scenes = data_set("scenes:32")
    assert len(scenes) == 400 and len(data_set("scenes", split="train")) == 4000
    for index in (-1, 400):
        with pytest.raises(IndexError):
            scenes[index]


@pytest.mark.parametrize("name", ["scenes", "scenes:40x64"])
def test_boxes_of_scenes_lie_inside_and_hardly_cover_each_other(name):
    scenes = data_set(name)
    counts, sides = [], []
    for i in range(60):
        example = scenes[i]
        corners, (height, width) = example.target.corners, example.input.shape[:2]
        assert len(corners) >= 1
        assert (corners[:, :2] >= 0).all() and (corners[:, 2:] <= (width, height)).all()
        assert (corners[:, :2] < corners[:, 2:]).all()
        assert example.target.classes.min() >= 0 and example.target.classes.max() <= 9
        counts.append(len(corners))
        sides += (corners[:, 3] - corners[:, 1]).tolist()
        for a in range(len(corners)):
            for b in range(a):
                overlap = np.minimum(corners[a, 2:], corners[b, 2:]) - np.maximum(corners[a, :2], corners[b, :2])
                smaller = min(np.prod(corners[k, 2:] - corners[k, :2]) for k in (a, b))
                assert np.prod(np.maximum(overlap, 0)) <= 0.2 * smaller + 1e-3
    assert max(counts) >= 4 and min(counts) <= 2
    assert max(sides) > 2 * min(sides)


def test_a_box_of_a_scene_is_where_its_digit_is():
    """Pixels inside a box differ from the background around it."""
    scenes = data_set("scenes", split="train")
    contrasts = []
    for i in range(30):
        example = scenes[i]
        gray = np.pad(example.input.mean(2), 4, constant_values=np.nan)
        for x1, y1, x2, y2 in example.target.corners.astype(int) + 4:
            around = gray[y1 - 3 : y2 + 3, x1 - 3 : x2 + 3].copy()
            around[3:-3, 3:-3] = np.nan
            contrasts.append(np.abs(gray[y1:y2, x1:x2] - np.nanmedian(around)).max())
    assert np.mean(np.array(contrasts) > 60) > 0.95


def test_numbers_are_spoken_as_in_american_english():
    spoken = {
        0: "zero",
        7: "seven",
        13: "thirteen",
        20: "twenty",
        42: "forty-two",
        100: "one hundred",
        815: "eight hundred fifteen",
        1000: "one thousand",
        1742: "one thousand seven hundred forty-two",
        90_010: "ninety thousand ten",
        999_999: "nine hundred ninety-nine thousand nine hundred ninety-nine",
    }
    assert {number: number_in_words(number) for number in spoken} == spoken


def value_of(words):
    """Parses a spelled number, independently of the code that spells it."""
    small = {number_in_words(i): i for i in [*range(20), *range(20, 100, 10)]}
    total = part = 0
    for word in re.split(r"[ -]", words):
        if word == "hundred":
            part *= 100
        elif word == "thousand":
            total, part = part * 1000, 0
        else:
            part += small[word]
    return total + part


def test_what_is_spoken_is_the_number():
    for number in [*range(2000), *range(2000, 100_000, 97)]:
        assert value_of(number_in_words(number)) == number


def test_spelling_splits_share_no_number():
    train, test = (data_set("spelling", split=split) for split in ("train", "test"))
    sources = [{examples[i].input for i in range(len(examples))} for examples in (train, test)]
    assert [len(each) for each in sources] == [20_000, 1000]
    assert not sources[0] & sources[1]
    assert {str(i) for i in range(100)} <= sources[0]
    words = {word for i in range(len(test)) for word in re.split("[ -]", test[i].target)}
    assert words <= {word for i in range(len(train)) for word in re.split("[ -]", train[i].target)}


def test_spelling_fits_its_recipe():
    recipe = load_recipe("transformer-tiny")
    assert recipe.labels.names == SPELLING_VOCABULARY
    specs = [TensorSpec(spec.name, spec.dtype, spec.shape) for spec in recipe.inputs]
    spelling = data_set("spelling", split="train")
    for i in range(0, len(spelling), 7):
        feeds = feeds_from_example(spelling[i], specs, None, recipe.labels.names)
        assert not (feeds["source"] == UNKNOWN).any() and not (feeds["target"] == UNKNOWN).any()


def test_the_longest_number_is_as_long_as_the_recipe_has_room_for():
    source, target = (spec.shape[1] for spec in load_recipe("transformer-tiny").inputs)
    # An input holds one token more, which begins or ends the text.
    assert source > len("99999")
    assert target > max(len(number_in_words(number)) for number in range(100_000)) == 50


def test_a_text_comes_back_from_its_tokens():
    for text in ("1742", "one thousand", "a-b, c"):
        assert text_from_ids(target_output_ids(text, SPELLING_VOCABULARY), SPELLING_VOCABULARY) == text
    words = ("<pad>", "<begin>", "<end>", "<unknown>", "good", "day")
    assert ids_from_text("good  day", words) == [4, 5]
    assert text_from_ids([1, 4, 5, END, 4], words) == "good day"


def test_decoder_outputs_are_its_inputs_shifted_by_one():
    read, answer = (ids("ab", SPELLING_VOCABULARY) for ids in (target_input_ids, target_output_ids))
    assert read[1:] == answer[:-1] and len(read) == len(answer)
    assert source_ids("ab", SPELLING_VOCABULARY) == answer


def test_unknown_tokens_are_returned_in_text_order():
    assert unknown_tokens("oné ?", SPELLING_VOCABULARY) == ["é", "?"]
    assert unknown_tokens("good <end> night", ("<pad>", "<begin>", "<end>", "<unknown>", "good")) == ["<end>", "night"]


def test_an_unknown_token_is_decoded_as_a_replacement_character():
    assert ids_from_text("a?", SPELLING_VOCABULARY)[1] == UNKNOWN
    assert text_from_ids([14, UNKNOWN, 999], SPELLING_VOCABULARY) == "a\ufffd\ufffd"
