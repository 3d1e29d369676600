from __future__ import annotations

import numpy as np
import pytest

from edgekit.runtime.tracking.motion import Motion, centered, corners


def test_corners_and_centers_are_the_same_boxes() -> None:
    boxes = np.array([[10, 20, 50, 100], [0, 0, 30, 10]], np.float64)
    assert centered(boxes).tolist() == [[30, 60, 0.5, 80], [15, 5, 3, 10]]
    np.testing.assert_allclose(corners(centered(boxes)), boxes)


def one_step(mean: np.ndarray, covariance: np.ndarray, box: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Predicts and corrects one box, as Welch and Bishop write it (An Introduction to the Kalman Filter)."""
    a = np.eye(8)
    a[range(4), range(4, 8)] = 1
    height = mean[3]
    q = np.diag([height / 20, height / 20, 1e-2, height / 20, height / 160, height / 160, 1e-5, height / 160]) ** 2
    mean, covariance = a @ mean, a @ covariance @ a.T + q
    h = np.eye(4, 8)
    height = mean[3]
    r = np.diag([height / 20, height / 20, 1e-1, height / 20]) ** 2
    gain = covariance @ h.T @ np.linalg.inv(h @ covariance @ h.T + r)
    x1, y1, x2, y2 = box
    z = np.array([(x1 + x2) / 2, (y1 + y2) / 2, (x2 - x1) / (y2 - y1), y2 - y1])
    return mean + gain @ (z - h @ mean), (np.eye(8) - gain @ h) @ covariance


def test_several_boxes_are_filtered_as_the_textbook_filters_one() -> None:
    random = np.random.default_rng(0)
    boxes = np.array([[10, 20, 50, 100], [200, 100, 260, 140]], np.float64)
    motion = Motion()
    motion.add(boxes)
    states = list(zip(motion.means.copy(), motion.covariances.copy(), strict=True))
    for _ in range(8):
        boxes = boxes + [3, 1, 3.5, 1.5] + random.normal(size=(2, 4))
        motion.predict(np.zeros(2, bool))
        motion.correct(np.arange(2), boxes)
        states = [one_step(*state, box) for state, box in zip(states, boxes, strict=True)]
        for place, (mean, covariance) in enumerate(states):
            np.testing.assert_allclose(motion.means[place], mean, rtol=1e-9, atol=1e-9)
            np.testing.assert_allclose(motion.covariances[place], covariance, rtol=1e-6, atol=1e-9)


def test_a_box_at_constant_speed_is_predicted_where_it_will_be() -> None:
    motion = Motion()
    box = np.array([[100, 100, 140, 180]], np.float64)
    motion.add(box)
    for _ in range(20):
        box = box + [5, -2, 5, -2]
        motion.predict(np.zeros(1, bool))
        motion.correct(np.array([0]), box)
    for _ in range(5):
        motion.predict(np.ones(1, bool))
    assert motion.boxes[0] == pytest.approx((box + 5 * np.array([5, -2, 5, -2]))[0], abs=2.5)
