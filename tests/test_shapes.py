from __future__ import annotations

import pytest

from edgekit.errors import UsageError
from edgekit.order import Order
from edgekit.shapes import Shape, input_shapes, picture_shape
from edgekit.specs import Precision, TensorSpec

PICTURE = TensorSpec("x", "float32", ("N", 3, "h", "w"))
NHWC = TensorSpec("x", "float32", ("N", "h", "w", 3))
IDS = TensorSpec("ids", "int64", ("batch", "length"))
MASK = TensorSpec("mask", "int64", ("batch", "length"))
SCALAR = TensorSpec("rate", "int64", ())


def shapes(*specs: TensorSpec, shape: Shape | None = None, inputs: dict[str, Shape] | None = None) -> dict[str, Shape]:
    order = Order(model="m.onnx", precision=Precision.INT8, target="cpu", shape=shape, inputs=inputs or {})
    return input_shapes(specs, order)


def test_an_open_batch_is_one() -> None:
    assert shapes(TensorSpec("x", "float32", ("N", 8)), SCALAR) == {"x": (1, 8), "rate": ()}


@pytest.mark.parametrize(
    ("spec", "shape", "expected"),
    [
        (PICTURE, (64, 48), (1, 3, 64, 48)),
        (PICTURE, (2, 3, 64, 48), (2, 3, 64, 48)),
        (NHWC, (64, 48), (1, 64, 48, 3)),
        (TensorSpec("x", "float32", (1, "c", "h", "w")), (1, 5, 6, 7), (1, 5, 6, 7)),
    ],
)
def test_shape_is_that_of_the_picture(spec: TensorSpec, shape: Shape, expected: Shape) -> None:
    assert shapes(spec, shape=shape) == {"x": expected}


def test_a_dimension_with_a_name_is_said_once() -> None:
    assert shapes(IDS, MASK, inputs={"mask": (2, 7)}) == {"ids": (2, 7), "mask": (2, 7)}
    assert shapes(IDS, MASK, inputs={"": (2, 7)}) == {"ids": (2, 7), "mask": (2, 7)}


def test_a_shape_without_a_name_is_the_first_inputs() -> None:
    assert shapes(PICTURE, SCALAR, inputs={"": (4, 3, 8, 8)}) == {"x": (4, 3, 8, 8), "rate": ()}


@pytest.mark.parametrize(
    ("specs", "given", "message", "hint"),
    [
        ((PICTURE,), {}, r"input x: float32 \(N, 3, h, w\): .* none for h and w", "--input x:1x3x224x224"),
        ((IDS,), {}, "none for length", "--input ids:1x128"),
        ((IDS,), {"inputs": {"idx": (1, 2)}}, "the model has no input 'idx'", "did you mean ids?"),
        ((PICTURE,), {"inputs": {"x": (1, 4, 8, 8)}}, "fits x: float32 .*, got 1x4x8x8", "only names can be given"),
        ((PICTURE,), {"inputs": {"x": (3, 8, 8)}}, "got 3x8x8", "only names can be given"),
        ((PICTURE,), {"shape": (8,)}, r"expected HxW of a picture, or all 4 sizes of \(N, 3, h, w\), got 8", ""),
        ((IDS,), {"shape": (8, 8, 8)}, "or all 2 sizes", ""),
        ((TensorSpec("x", "float32", (1, 3, 32, 32)),), {"shape": (64, 64)}, "got 1x3x64x64", "fixed when it was"),
        ((), {"shape": (64, 64)}, "the model has no inputs", ""),
    ],
)
def test_a_shape_that_does_not_fit_says_what_would(
    specs: tuple[TensorSpec, ...], given: dict[str, object], message: str, hint: str
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        shapes(*specs, **given)  # type: ignore[arg-type]
    assert hint in caught.value.hint


def test_the_hint_of_an_open_shape_works_as_it_stands() -> None:
    with pytest.raises(UsageError) as caught:
        shapes(PICTURE)
    name, _, sizes = caught.value.hint.rpartition(" ")[2].partition(":")
    shape = tuple(map(int, sizes.split("x")))
    assert shapes(PICTURE, inputs={name: shape}) == {"x": shape}


def test_without_a_wish_a_picture_keeps_its_shape() -> None:
    assert picture_shape((1, 3, 416, 416), None) == (1, 3, 416, 416)
