"""The least rectangle around an outline, against OpenCV."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit.evaluation.rotated import rotated_box_of_outline


@pytest.mark.parametrize("seed", range(20))
def test_the_rectangle_has_the_area_of_opencv_s(seed: int) -> None:
    cv2 = pytest.importorskip("cv2")
    random = np.random.default_rng(seed)
    points = random.uniform(0, 100, (random.integers(3, 12), 2)).astype(np.float32)
    x, y, width, height, angle = rotated_box_of_outline(points)
    _, (a, b), _ = cv2.minAreaRect(points)
    assert width * height == pytest.approx(a * b, rel=1e-4)
    along = (points - [x, y]) @ [np.cos(angle), np.sin(angle)]
    across = (points - [x, y]) @ [-np.sin(angle), np.cos(angle)]
    assert np.abs(along).max() == pytest.approx(width / 2) and np.abs(across).max() == pytest.approx(height / 2)


def test_a_rectangle_is_its_own_rectangle() -> None:
    x, y, width, height, angle = rotated_box_of_outline(np.array([[0, 0], [4, 3], [1, 7], [-3, 4]]))
    assert (x, y) == pytest.approx((0.5, 3.5)) and width == pytest.approx(height) == pytest.approx(5)
    assert rotated_box_of_outline(np.array([[2, 3], [2, 3], [2, 3]])).tolist() == [2, 3, 0, 0, 0]
