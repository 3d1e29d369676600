from __future__ import annotations

import numpy as np
import pytest

from edgekit.data.calibration.random_inputs import RandomInputs
from edgekit.specs import TensorSpec

SPECS = (
    TensorSpec("x", "float32", (2, 3)),
    TensorSpec("half", "float16", (64,)),
    TensorSpec("ids", "int64", (1, 50)),
    TensorSpec("mask", "bool", (1, 50)),
    TensorSpec("rate", "int32", ()),
)


def test_every_input_has_its_type_and_shape() -> None:
    for _, arrays in RandomInputs(3).feeds(SPECS, None):
        assert [(array.dtype.name, array.shape) for array in arrays.values()] == [
            (spec.dtype, spec.shape) for spec in SPECS
        ]


def test_numbers_are_the_same_every_time_and_differ_from_input_to_input() -> None:
    first, second = (list(RandomInputs(2).feeds(SPECS, None)) for _ in range(2))
    assert [name for name, _ in first] == ["random input 0", "random input 1"]
    np.testing.assert_equal(first, second)
    assert not np.array_equal(first[0][1]["x"], first[1][1]["x"])


def test_integers_are_valid_as_index_mask_and_flag() -> None:
    arrays = next(RandomInputs(1).feeds(SPECS, None))[1]
    assert set(np.unique(arrays["ids"])) == {0, 1}
    assert set(np.unique(arrays["mask"])) == {False, True}


@pytest.mark.parametrize("count", [1, 5])
def test_it_is_read_like_a_set(count: int) -> None:
    inputs = RandomInputs(count)
    assert len(inputs) == count == len(list(inputs.feeds(SPECS, None)))
    assert not inputs.skipped
    assert inputs.digest != RandomInputs(count + 1).digest


def test_integers_use_the_whole_range_that_is_known_of_them() -> None:
    spec = TensorSpec("ids", "int64", (1, 1000))
    arrays = next(RandomInputs(1, {"ids": 50}).feeds([spec], None))[1]
    assert (arrays["ids"].min(), arrays["ids"].max()) == (0, 49)
    assert RandomInputs(1, {"ids": 50}).digest != RandomInputs(1).digest


def test_ids_may_be_floats_and_are_never_taken_for_a_length() -> None:
    specs = [TensorSpec("ids", "float32", (1, 1000)), TensorSpec("length", "int64", (1000,))]
    arrays = next(RandomInputs(1, {"ids": 50, "length": 9}).feeds(specs, None))[1]
    assert arrays["ids"].dtype == np.float32
    assert set(np.unique(arrays["ids"])) == set(range(50))
    assert set(np.unique(arrays["length"])) == set(range(9))


@pytest.mark.parametrize(
    ("name", "shape", "dtype", "expected"),
    [
        ("waveforms_lens", (2,), "int64", 16000),
        ("features_length", (), "int32", 500),
        ("length", (2,), "int64", 16000),
        ("lens", (1,), "int64", 16000),
        ("maxlength_ids", (2,), "int64", None),
        ("waveforms_lens", (2, 7), "int64", None),
        ("silence", (2,), "int64", None),
    ],
)
def test_a_length_is_that_of_the_input_it_belongs_to(name, shape, dtype, expected) -> None:
    specs = [
        TensorSpec("waveforms", "float32", (2, 16000)),
        TensorSpec("features", "float32", (2, 80, 500)),
        TensorSpec(name, dtype, shape),
    ]
    array = next(RandomInputs(1).feeds(specs, None))[1][name]
    assert array.shape == shape and array.dtype == dtype
    assert set(array.reshape(-1).tolist()) <= ({expected} if expected else {0, 1})


def test_a_length_of_nothing_is_a_number_like_others() -> None:
    array = next(RandomInputs(1).feeds([TensorSpec("length", "int64", (50,))], None))[1]["length"]
    assert set(array.tolist()) == {0, 1}


def test_a_length_of_tokens_is_their_number() -> None:
    specs = [TensorSpec("tokens", "int64", (1, 40)), TensorSpec("input_lengths", "int64", (1,))]
    assert next(RandomInputs(1).feeds(specs, None))[1]["input_lengths"].tolist() == [40]


@pytest.mark.parametrize(("dtype", "least", "most"), [("uint8", 0, 255), ("int8", -128, 127)])
def test_bytes_of_an_image_have_all_values_and_those_of_a_mask_are_0_or_1(dtype: str, least: int, most: int) -> None:
    specs = [TensorSpec("image", dtype, (1, 48, 48, 3)), TensorSpec("mask", dtype, (1, 400))]
    arrays = next(RandomInputs(1).feeds(specs, None))[1]
    assert arrays["image"].dtype == dtype
    assert (arrays["image"].min(), arrays["image"].max()) == (least, most)
    assert set(np.unique(arrays["mask"])) == {0, 1}
    known = next(RandomInputs(1, {"image": 4}).feeds(specs, None))[1]
    assert set(np.unique(known["image"])) == {0, 1, 2, 3}
