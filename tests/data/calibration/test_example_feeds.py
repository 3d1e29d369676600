from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.data.calibration.calibration_set import calibration_set
from edgekit.data.calibration.example_feeds import ENOUGH, ExampleFeeds, spread
from edgekit.data.examples import Boxes, Example
from edgekit.data.vocabulary import SPECIAL_TOKENS
from edgekit.errors import CalibrationError, DataError, UsageError
from edgekit.recipe.schema import Preprocess
from edgekit.specs import TensorSpec

IMAGES = (TensorSpec("images", "float32", (1, 3, 8, 8)),)
HOW = Preprocess(resize="stretch")


@dataclass
class Listed:
    """Data set from a list; a string raises a DataError with that message."""

    items: list[Example | str]
    labels: tuple[str, ...] = ("cat", "dog")
    name: str = "listed"
    task: str = "classify"
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Example:
        item = self.items[index]
        if isinstance(item, str):
            raise DataError(item)
        return item


def image(seed: int, target: int | Boxes = 0) -> Example:
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Example(f"image {seed}", pixels, target)


@given(st.integers(0, 50), st.integers(1, 60))
def test_places_are_spread_without_repeats_from_the_first_on(length: int, limit: int) -> None:
    places = list(spread(length, limit))
    assert len(places) == len(set(places)) == min(length, limit)
    assert places == sorted(places)
    assert all(0 <= place < length for place in places)
    gaps = np.diff([*places, length]) if places else []
    assert not places or places[0] == 0
    assert max(gaps, default=0) - min(gaps, default=0) <= 1


def test_examples_become_the_inputs_of_the_model() -> None:
    feeds = dict(ExampleFeeds(Listed([image(0), image(1)])).feeds(IMAGES, HOW))
    assert list(feeds) == ["image 0", "image 1"]
    expected = image(1).input.transpose(2, 0, 1)[None] / np.float32(255)
    np.testing.assert_allclose(feeds["image 1"]["images"], expected, rtol=1e-6)


def test_images_are_shown_as_those_of_a_folder_are(tmp_path) -> None:
    from PIL import Image

    Image.fromarray(image(3).input).save(tmp_path / "3.png")
    ((_, from_folder),) = calibration_set(tmp_path).feeds(IMAGES, HOW)
    ((_, from_set),) = ExampleFeeds(Listed([image(3)])).feeds(IMAGES, HOW)
    np.testing.assert_array_equal(from_set["images"], from_folder["images"])


def test_a_fixed_batch_is_filled() -> None:
    specs = (TensorSpec("images", "float32", (4, 3, 8, 8)),)
    ((_, feeds),) = ExampleFeeds(Listed([image(0)])).feeds(specs, HOW)
    assert feeds["images"].shape == (4, 3, 8, 8)
    assert (feeds["images"] == feeds["images"][:1]).all()


def test_texts_are_read_with_the_models_vocabulary() -> None:
    specs = (TensorSpec("source", "int64", (1, 4)), TensorSpec("target", "int64", (1, 4)))
    texts = Listed([Example("text", "ab", "ba")], labels=(*SPECIAL_TOKENS, "a", "b"), task="translate")
    ((_, feeds),) = ExampleFeeds(texts, labels=(*SPECIAL_TOKENS, "b", "a")).feeds(specs, None)
    assert feeds["source"].tolist() == [[5, 4, 2, 0]]
    assert feeds["target"].tolist() == [[1, 4, 5, 0]]
    ((_, feeds),) = ExampleFeeds(texts).feeds(specs, None)
    assert feeds["source"].tolist() == [[4, 5, 2, 0]]


def test_unreadable_examples_are_skipped_and_counted() -> None:
    feeds = ExampleFeeds(Listed([image(0), "b.jpg: broken image", image(2)]))
    assert [name for name, _ in feeds.feeds(IMAGES, HOW)] == ["image 0", "image 2"]
    assert feeds.skipped == ["b.jpg: broken image"]
    assert len(feeds) == 3
    assert len(list(feeds.feeds(IMAGES, HOW))) == 2
    assert feeds.skipped == ["b.jpg: broken image"]


def test_error_when_none_can_be_read() -> None:
    with pytest.raises(CalibrationError, match="none of 2 examples can be used: a.jpg: broken"):
        list(ExampleFeeds(Listed(["a.jpg: broken", "b.jpg: broken"])).feeds(IMAGES, HOW))


def test_error_when_none_is_what_the_model_takes() -> None:
    with pytest.raises(CalibrationError, match="image 0: expected"):
        list(ExampleFeeds(Listed([image(0)])).feeds((*IMAGES, *IMAGES), None))


def test_error_on_an_empty_set_and_on_a_limit_of_nothing() -> None:
    with pytest.raises(CalibrationError, match="expected examples, got none"):
        ExampleFeeds(Listed([]))
    with pytest.raises(UsageError, match="at least 1, got 0"):
        ExampleFeeds(Listed([image(0)]), limit=0)


def test_a_digest_depends_on_what_is_shown_and_not_on_what_it_is_called() -> None:
    one = ExampleFeeds(Listed([image(0), image(1)]))
    renamed = [Example("other", image(seed).input, 1) for seed in (0, 1)]
    assert one.digest == ExampleFeeds(Listed(renamed, name="else")).digest == one.digest
    assert one.digest != ExampleFeeds(Listed([image(0), image(2)])).digest
    assert one.digest != ExampleFeeds(Listed([image(1), image(0)])).digest
    assert one.digest != ExampleFeeds(Listed([image(0), image(1)]), limit=1).digest


def test_a_digest_of_texts_depends_on_targets_and_vocabulary() -> None:
    digests = {
        ExampleFeeds(Listed([Example("x", "a", target)], labels=(*SPECIAL_TOKENS, *labels))).digest
        for target in ("a", "b")
        for labels in ("ab", "ba")
    }
    assert len(digests) == 4


def test_the_default_limit_is_enough() -> None:
    assert len(ExampleFeeds(Listed([image(0)] * (ENOUGH + 5)))) == ENOUGH
    assert len(ExampleFeeds(Listed([image(0)] * (ENOUGH + 5)), limit=ENOUGH + 1)) == ENOUGH + 1
