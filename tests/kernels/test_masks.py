"""Masks from prototypes and coefficients against their definition, and against PyTorch's bilinear resize."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from edgekit.errors import RunError
from edgekit.kernels.masks.masks import Crop, masks_of_boxes, whole_masks
from edgekit.kernels.masks.reference import mask_sum

# A picture in an input of 64 x 48, whose prototypes have a quarter of its size, 16 x 12: size of the picture, place of
# its upper left corner, size in the input, and the upsampling after which the padding ends between two pixels.
PLACES = {
    "the whole input": ((160, 120), (0, 0), (64, 48), 1),
    "padding of whole pixels": ((128, 64), (0, 8), (64, 32), 1),
    "padding of half pixels": ((128, 72), (0, 6), (64, 36), 2),
    "padding of half pixels at other sizes": ((131, 90), (0, 2), (64, 44), 2),
    "an odd number of free px": ((50, 47), (6, 0), (51, 48), 4),
    "a picture smaller than the input": ((13, 9), (0, 1), (64, 44), 4),
}


def made(seed: int, size: tuple[int, int], count: int = 5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    corners = np.sort(random.uniform(-0.1, 1.1, (count, 2, 2)), axis=1).clip(0, 1) * size
    return (
        random.normal(size=(6, 12, 16)).astype(np.float32),
        random.normal(size=(count, 6)).astype(np.float32),
        corners.reshape(-1, 4).astype(np.float32),
    )


def found(prototypes, coefficients, boxes, size, corner, inner):
    scale = (inner[0] / size[0], inner[1] / size[1])
    crops = masks_of_boxes(prototypes, coefficients, boxes, input_size=(64, 48), scale=scale, offset=corner, size=size)
    return whole_masks(crops, size)


def inside(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Pixels from the first to before the second corner."""
    x, y = np.arange(size[0])[None, None], np.arange(size[1])[None, :, None]
    x1, y1, x2, y2 = (boxes[:, i, None, None] for i in range(4))
    return (x >= x1) & (x < x2) & (y >= y1) & (y < y2)


@pytest.mark.parametrize("name", PLACES)
def test_masks_are_resized_cut_and_resized_as_torch_does_it(name: str) -> None:
    size, corner, inner, factor = PLACES[name]
    prototypes, coefficients, boxes = made(1, size)
    sums = torch.einsum("nc,chw->nhw", torch.tensor(coefficients).double(), torch.tensor(prototypes).double())[None]
    if factor > 1:
        sums = interpolate(sums, scale_factor=factor, mode="bilinear")
    left, top, right, bottom = (round(px * factor / 4) for px in (*corner, corner[0] + inner[0], corner[1] + inner[1]))
    resized = interpolate(sums[..., top:bottom, left:right], size[::-1], mode="bilinear")[0].numpy()
    expected = (resized > 0) & inside(boxes, size)
    masks = found(prototypes, coefficients, boxes, size, corner, inner)
    assert masks.dtype == bool and masks.shape == (5, size[1], size[0]) and 0.01 < masks.mean() < 0.6
    sure = np.abs(resized) > 1e-5
    np.testing.assert_array_equal(masks[sure], expected[sure])
    assert sure.mean() > 0.999


@pytest.mark.parametrize("name", PLACES)
def test_masks_are_those_of_the_definition(name: str) -> None:
    size, corner, inner, factor = PLACES[name]
    prototypes, coefficients, _ = made(2, size, 1)
    whole = np.array([[0, 0, *size]], np.float32)
    mask = found(prototypes, coefficients, whole, size, corner, inner)[0]
    content = tuple(round(px * factor / 4) for px in (*corner, corner[0] + inner[0], corner[1] + inner[1]))
    for x, y in np.random.default_rng(3).integers(0, size, (40, 2)).tolist():
        total = mask_sum(prototypes, coefficients[0], (x, y), factor=factor, content=content, size=size)
        assert abs(total) < 1e-5 or mask[y, x] == (total > 0)


def test_a_picture_that_was_cropped_has_masks_where_the_input_shows_it() -> None:
    # The middle 64 of 128 px are the input; prototypes are 1 in their left half.
    prototypes = np.where(np.arange(16) < 8, 1, -1)[None, None].repeat(12, axis=1).astype(np.float32)
    box = np.array([[0, 0, 128, 48]], np.float32)
    (crop,) = masks_of_boxes(
        prototypes, np.ones((1, 1)), box, input_size=(64, 48), scale=(1.0, 1.0), offset=(-32.0, 0.0), size=(128, 48)
    )
    assert crop.mask[:, :64].all() and not crop.mask[:, 64:].any()


def test_a_mask_is_kept_as_the_part_inside_its_box() -> None:
    size, corner, inner, _ = PLACES["padding of half pixels"]
    prototypes, coefficients, _ = made(4, size, 2)
    boxes = np.array([[10.2, 20.0, 30.9, 41.5], [5, 5, 5, 9]], np.float32)
    scale = (inner[0] / size[0], inner[1] / size[1])
    first, empty = masks_of_boxes(
        prototypes, coefficients, boxes, input_size=(64, 48), scale=scale, offset=corner, size=size
    )
    assert (first.left, first.top, first.mask.shape) == (11, 20, (22, 20))
    assert empty.mask.size == 0
    assert whole_masks([first, empty], size)[1].sum() == 0
    assert whole_masks([], size).shape == (0, 72, 128)


def test_halves_are_widened_and_numbers_that_are_not_finite_are_no_mask() -> None:
    size, corner, inner, _ = PLACES["the whole input"]
    prototypes, coefficients, boxes = made(5, size)
    half = prototypes.astype(np.float16)
    wide = half.astype(np.float32)
    np.testing.assert_array_equal(
        found(half, coefficients, boxes, size, corner, inner), found(wide, coefficients, boxes, size, corner, inner)
    )
    coefficients[0, 0] = np.nan
    coefficients[1, 0] = np.inf
    assert not found(wide, coefficients, boxes, size, corner, inner)[0].any()


def test_error_when_coefficients_and_prototypes_do_not_fit() -> None:
    with pytest.raises(RunError, match=r"coefficients \(N, C\), got \(6, 12, 16\) and \(5, 7\)"):
        masks_of_boxes(
            np.zeros((6, 12, 16)), np.zeros((5, 7)), np.zeros((5, 4)), input_size=(64, 48), scale=(1, 1),
            offset=(0, 0), size=(64, 48),
        )  # fmt: skip


def test_crops_know_their_place() -> None:
    masks = whole_masks([Crop(1, 2, np.ones((2, 3), bool))], (5, 4))
    assert np.argwhere(masks[0]).tolist() == [[2, 1], [2, 2], [2, 3], [3, 1], [3, 2], [3, 3]]
