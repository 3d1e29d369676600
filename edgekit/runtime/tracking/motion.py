"""Where boxes will be in the next frame: a Kalman filter with constant velocity."""

from __future__ import annotations

import numpy as np

__all__ = ["Motion", "centered", "corners"]

POSITION, VELOCITY = 1 / 20, 1 / 160
"""Standard deviations of a step, relative to the height of the box: DeepSORT's (Wojke et al., arXiv:1703.07402)."""

_ASPECT, _ASPECT_VELOCITY, _ASPECT_MEASURED = 1e-2, 1e-5, 1e-1
"""Standard deviations of the ratio of width to height, which hardly changes; DeepSORT's too."""

_STEP = np.eye(8) + np.eye(8, k=4)
"""One frame: each coordinate grows by its velocity."""


def centered(boxes: np.ndarray) -> np.ndarray:
    """Converts corners ``(x1, y1, x2, y2)`` to center, ratio of width to height, and height; shape ``(N, 4)``."""
    sizes = boxes[:, 2:] - boxes[:, :2]
    height = np.maximum(sizes[:, 1], 1e-3)
    center = (boxes[:, :2] + boxes[:, 2:]) / 2
    return np.stack([center[:, 0], center[:, 1], sizes[:, 0] / height, height], axis=1).astype(np.float64)


def corners(states: np.ndarray) -> np.ndarray:
    """Converts centers, ratios and heights to corners; shape ``(N, 4)``."""
    half = np.stack([states[:, 2] * states[:, 3], states[:, 3]], axis=1) / 2
    return np.concatenate([states[:, :2] - half, states[:, :2] + half], axis=1)


class Motion:
    """The state of several boxes: positions, sizes, and their change per frame, with covariances.

    Attributes:
        means: center x, center y, ratio of width to height, height, in px, then their velocities per frame; float64,
            shape ``(N, 8)``.
        covariances: shape ``(N, 8, 8)``.
    """

    def __init__(self) -> None:
        self.means = np.zeros((0, 8))
        self.covariances = np.zeros((0, 8, 8))

    def __len__(self) -> int:
        return len(self.means)

    @property
    def boxes(self) -> np.ndarray:
        """Corners of the boxes; shape ``(N, 4)``."""
        return corners(self.means)

    def add(self, boxes: np.ndarray) -> None:
        """Adds boxes that stand still as far as is known.

        Args:
            boxes: corners; shape ``(N, 4)``.
        """
        measured = centered(boxes)
        height = measured[:, 3]
        deviations = np.concatenate(
            [_deviations(2 * POSITION * height, _ASPECT), _deviations(10 * VELOCITY * height, _ASPECT_VELOCITY)], axis=1
        )
        self.means = np.concatenate([self.means, np.concatenate([measured, np.zeros_like(measured)], axis=1)])
        self.covariances = np.concatenate([self.covariances, _diagonal(deviations**2)])

    def keep(self, chosen: np.ndarray) -> None:
        """Forgets all boxes but the chosen ones: indices, or one bool for each."""
        self.means, self.covariances = self.means[chosen], self.covariances[chosen]

    def predict(self, frozen: np.ndarray) -> None:
        """Moves all boxes by one frame.

        Args:
            frozen: boxes whose height stays as it is, since they are not seen; bool, shape ``(N,)``.
        """
        self.means[frozen, 7] = 0
        height = self.means[:, 3]
        deviations = np.concatenate(
            [_deviations(POSITION * height, _ASPECT), _deviations(VELOCITY * height, _ASPECT_VELOCITY)], axis=1
        )
        self.means = self.means @ _STEP.T
        self.covariances = _STEP @ self.covariances @ _STEP.T + _diagonal(deviations**2)

    def correct(self, places: np.ndarray, boxes: np.ndarray) -> None:
        """Corrects predicted boxes by measured ones.

        Args:
            places: indices of the predicted boxes; shape ``(K,)``.
            boxes: corners of the measured ones; shape ``(K, 4)``.
        """
        if not len(places):
            return
        means, covariances = self.means[places], self.covariances[places]
        height = means[:, 3]
        measured = _deviations(POSITION * height, _ASPECT_MEASURED)
        # S = H P H^T + R and K = P H^T S^-1, where H takes the first four of eight.
        innovation = covariances[:, :4, :4] + _diagonal(measured**2)
        gain = np.linalg.solve(innovation, covariances[:, :4, :]).transpose(0, 2, 1)
        error = centered(boxes) - means[:, :4]
        self.means[places] = means + (gain @ error[:, :, None])[:, :, 0]
        self.covariances[places] = covariances - gain @ innovation @ gain.transpose(0, 2, 1)


def _deviations(scale: np.ndarray, aspect: float) -> np.ndarray:
    """Returns standard deviations of center x and y, ratio and height; shape ``(N, 4)``."""
    return np.stack([scale, scale, np.full_like(scale, aspect), scale], axis=1)


def _diagonal(variances: np.ndarray) -> np.ndarray:
    """Returns diagonal matrices; shape ``(N, K, K)`` for ``(N, K)``."""
    matrices: np.ndarray = variances[:, :, None] * np.eye(variances.shape[1])
    return matrices
