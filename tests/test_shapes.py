from __future__ import annotations

import ast
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.arguments import on_command_line
from edgekit.errors import UsageError
from edgekit.option.sizes import parse_named_shapes
from edgekit.shapes import image_shape_of, input_shapes, open_shape, ranges_of_sizes, ranges_of_specs
from edgekit.specs import Shape, ShapeRange, Size, SizeRange, TensorSpec, shape_from_sizes, size_from_value

IMAGE = TensorSpec("x", "float32", ("N", 3, "h", "w"))
NHWC = TensorSpec("x", "float32", ("N", "h", "w", 3))
IDS = TensorSpec("ids", "int64", ("batch", "length"))
MASK = TensorSpec("mask", "int64", ("batch", "length"))
SCALAR = TensorSpec("rate", "int64", ())
STATE = TensorSpec("state", "float32", (2, "batch", 128))
WIDTH = SizeRange(32, 320, 2048)


def shapes(
    *specs: TensorSpec, shape: Shape | None = None, inputs: dict[str, Shape] | None = None, batch: Size | None = None
) -> dict[str, Shape]:
    return input_shapes(specs, inputs or {}, image_shape=shape, batch=batch)


def test_an_open_batch_is_one() -> None:
    assert shapes(TensorSpec("x", "float32", ("N", 8)), SCALAR) == {"x": (1, 8), "rate": ()}


@pytest.mark.parametrize(
    ("spec", "shape", "expected"),
    [
        (IMAGE, (64, 48), (1, 3, 64, 48)),
        (IMAGE, (2, 3, 64, 48), (2, 3, 64, 48)),
        (NHWC, (64, 48), (1, 64, 48, 3)),
        (TensorSpec("x", "float32", (1, "c", "h", "w")), (1, 5, 6, 7), (1, 5, 6, 7)),
    ],
)
def test_shape_is_that_of_the_image(spec: TensorSpec, shape: Shape, expected: Shape) -> None:
    assert shapes(spec, shape=shape) == {"x": expected}


def test_a_named_dimension_is_given_once() -> None:
    assert shapes(IDS, MASK, inputs={"mask": (2, 7)}) == {"ids": (2, 7), "mask": (2, 7)}
    assert shapes(IDS, MASK, inputs={"": (2, 7)}) == {"ids": (2, 7), "mask": (2, 7)}


def test_a_shape_without_a_name_is_the_first_inputs() -> None:
    assert shapes(IMAGE, SCALAR, inputs={"": (4, 3, 8, 8)}) == {"x": (4, 3, 8, 8), "rate": ()}


@pytest.mark.parametrize(
    ("specs", "given", "message", "hint"),
    [
        ((IMAGE,), {}, r"input x: float32 \(N, 3, h, w\): .* none for h and w", "input={'x': (1, 3, 224, 224)}"),
        ((IDS,), {}, "none for length", "input={'ids': (1, 128)}"),
        ((IDS,), {"inputs": {"idx": (1, 2)}}, "the model has no input 'idx'", "did you mean ids?"),
        (
            (IMAGE,),
            {"inputs": {"x": (1, 4, 8, 8)}},
            "fits x: float32 .*, got 1x4x8x8",
            "only named dimensions can be given",
        ),
        ((IMAGE,), {"inputs": {"x": (3, 8, 8)}}, "got 3x8x8", "only named dimensions can be given"),
        ((IMAGE,), {"shape": (8,)}, r"expected \(H, W\) of an image, or all 4 sizes of \(N, 3, h, w\), got 8", ""),
        ((IDS,), {"shape": (8, 8, 8)}, "or all 2 sizes", ""),
        ((TensorSpec("x", "float32", (1, 3, 32, 32)),), {"shape": (64, 64)}, "got 1x3x64x64", "were fixed at export"),
        ((), {"shape": (64, 64)}, "the model has no inputs", ""),
    ],
)
def test_a_shape_that_does_not_fit_says_what_would(
    specs: tuple[TensorSpec, ...], given: dict[str, object], message: str, hint: str
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        shapes(*specs, **given)  # type: ignore[arg-type]
    assert hint in caught.value.hint


@pytest.mark.parametrize("spec", [IMAGE, IDS])
def test_both_hints_for_a_dynamic_shape_are_valid_options(spec: TensorSpec) -> None:
    with pytest.raises(UsageError) as caught, on_command_line():
        shapes(spec)
    hints = re.findall(r"--input ([^\s;]+)", caught.value.hint)
    assert len(hints) == 2
    for hint in hints:
        parsed = parse_named_shapes((hint,))
        given = {name: shape_from_sizes(sizes, "--input") for name, sizes in (parsed or {}).items()}
        assert shapes(spec, inputs=given) == given


@pytest.mark.parametrize("spec", [IMAGE, IDS])
def test_both_hints_for_a_dynamic_shape_are_valid_in_python(spec: TensorSpec) -> None:
    with pytest.raises(UsageError) as caught:
        shapes(spec)
    hints = re.findall(r"input=(\{[^}]*\})", caught.value.hint)
    assert len(hints) == 2
    for hint in hints:
        given = {name: shape_from_sizes(sizes, "input") for name, sizes in ast.literal_eval(hint).items()}
        assert shapes(spec, inputs=given) == given


def test_a_range_is_given_in_place_of_a_number() -> None:
    assert shapes(IMAGE, inputs={"": (1, 3, 48, WIDTH)}) == {"x": (1, 3, 48, WIDTH)}
    assert shapes(IMAGE, shape=(WIDTH, 64)) == {"x": (1, 3, WIDTH, 64)}
    assert shapes(NHWC, shape=(64, WIDTH), batch=SizeRange(1, 2, 3)) == {"x": (SizeRange(1, 2, 3), 64, WIDTH, 3)}


@given(
    st.text("abx_:.", max_size=6),
    st.lists(
        st.tuples(st.integers(0, 3000), st.integers(1, 3000), st.integers(1, 3000)).map(sorted) | st.integers(1, 3000),
        min_size=1,
        max_size=5,
    ),
)
def test_a_shape_is_read_as_it_is_written(name: str, sizes: list[int | list[int]]) -> None:
    shape = shape_from_sizes(sizes, "--input")
    text = "x".join(map(str, shape))
    parsed = parse_named_shapes((f"{name}:{text}" if name else text,))
    assert parsed is not None and list(parsed) == [name]
    assert shape_from_sizes(parsed[name], "--input") == shape


def test_a_named_range_is_given_once() -> None:
    length = SizeRange(16, 128, 512)
    assert shapes(IDS, MASK, inputs={"mask": (1, length)}) == {"ids": (1, length), "mask": (1, length)}


def test_a_batch_goes_wherever_its_name_stands() -> None:
    ids = TensorSpec("ids", "int64", ("batch", 8))
    assert shapes(ids, STATE, SCALAR) == {"ids": (1, 8), "state": (2, 1, 128), "rate": ()}
    batch = SizeRange(1, 4, 16)
    assert shapes(ids, STATE, SCALAR, batch=batch) == {"ids": (batch, 8), "state": (2, batch, 128), "rate": ()}


@pytest.mark.parametrize("said", [1, SizeRange(1, 4, 16)])
def test_a_batch_may_be_given_twice(said: Size) -> None:
    batch = SizeRange(1, 4, 16)
    assert shapes(IMAGE, inputs={"x": (said, 3, 8, 8)}, batch=batch) == {"x": (batch, 3, 8, 8)}


@pytest.mark.parametrize("said", [2, SizeRange(1, 2, 16)])
def test_error_on_two_batches(said: Size) -> None:
    with pytest.raises(
        UsageError, match=rf"batch=\(1, 4, 16\): expected the same first dimension .*, got {said}"
    ) as caught:
        shapes(IMAGE, inputs={"x": (said, 3, 8, 8)}, batch=SizeRange(1, 4, 16))
    assert "one of the two places" in caught.value.hint


def test_error_on_two_sizes_of_one_dimension() -> None:
    given: dict[str, Shape] = {"ids": (1, SizeRange(1, 8, 16)), "mask": (1, 8)}
    with pytest.raises(UsageError, match="one size of the dimension 'length' in all inputs, got 1:8:16 and 8, .* mask"):
        shapes(IDS, MASK, inputs=given)


def test_error_on_a_range_of_a_dimension_that_is_fixed() -> None:
    with pytest.raises(UsageError, match=r"fits x: float32 \(1, 3, 32, 32\), got 1x3x32x32:320:2048"):
        shapes(TensorSpec("x", "float32", (1, 3, 32, 32)), inputs={"": (1, 3, 32, WIDTH)})


@pytest.mark.parametrize("size", [0, (2, 1, 4), (1, 2), (0, 1, 1), (1, 2, 3, 4), (), "abc", (1, 1.5, 2)])
def test_error_on_what_is_neither_a_size_nor_a_range(size: object) -> None:
    with pytest.raises(UsageError, match="--input x: expected a number of 1 or more, or a range .*, got"):
        size_from_value(size, "--input x")  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [0, (0, 0, 4), (0, 0, 0), (-1, 1, 1)])
def test_only_the_min_of_a_shape_may_be_0(size: object) -> None:
    assert shape_from_sizes(((0, 4, 16),), "--input x") == (SizeRange(0, 4, 16),)
    with pytest.raises(
        UsageError, match="--input x: expected a number of 1 or more, .*, of which only MIN may be 0, got"
    ):
        shape_from_sizes((size,), "--input x")  # type: ignore[arg-type]


def test_a_range_of_one_size_is_that_size() -> None:
    assert size_from_value((4, 4, 4), "--batch") == 4
    assert shape_from_sizes((np.int64(1), [1, 2, 3]), "--shape") == (1, SizeRange(1, 2, 3))


def test_a_range_gets_the_models_own_name_or_one_of_its_place() -> None:
    shape: Shape = (SizeRange(1, 2, 3), 3, SizeRange(1, 2, 3), WIDTH)
    assert open_shape("x", shape) == ("batch", 3, "x_2", "x_3")
    assert open_shape("x", shape, ("N", 3, "h", "w")) == ("N", 3, "h", "w")
    assert open_shape("x", (1, 3, 8, WIDTH), ("N", 3, "h", "w")) == (1, 3, 8, "w")


def test_ranges_of_shapes_are_those_of_their_dimensions() -> None:
    specs = [TensorSpec("x", "float32", (1, "w")), TensorSpec("y", "float32", ("w", 2)), SCALAR]
    sizes: dict[str, Shape] = {"x": (1, WIDTH), "y": (WIDTH, 2), "rate": ()}
    found = ranges_of_specs(specs, ranges_of_sizes(specs, sizes))
    assert found == {
        "x": ShapeRange((1, 32), (1, 320), (1, 2048)),
        "y": ShapeRange((32, 2), (320, 2), (2048, 2)),
    }
    assert found["x"].sizes == (1, WIDTH)
    with pytest.raises(UsageError, match="one range for dimension 0 of 'y' and the dimension 'w', .* got 1:2:3 and 32"):
        ranges_of_sizes(specs, {**sizes, "y": (SizeRange(1, 2, 3), 2)})


def test_an_image_keeps_its_shape_by_default() -> None:
    assert image_shape_of((1, 3, 416, 416), None) == (1, 3, 416, 416)


def test_only_arrays_for_an_engine_may_have_a_size_of_0() -> None:
    assert parse_named_shapes(("past:1x0x8",), empty=True) == {"past": (1, 0, 8)}
    assert parse_named_shapes(("past:1x0:4:16x8",)) == {"past": (1, (0, 4, 16), 8)}
    for text in ("past:1x0x8", "past:1x00:4:16x8", "past:1x0:0:16x8"):
        with pytest.raises(ValueError, match=r"expected \[NAME:\]SHAPE"):
            parse_named_shapes((text,))
