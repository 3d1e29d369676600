"""Decodes outputs of YOLOX; see `edgekit.kernels.decode.reference.decode_yolox` for the definition."""

from __future__ import annotations

import numpy as np

from edgekit.kernels.decode.candidates import Candidates, corners
from edgekit.kernels.decode.layout import yolox_grids
from edgekit.kernels.decode.yolov5 import sure_cells
from edgekit.recipe.heads import YoloX

__all__ = ["decode_yolox"]


def decode_yolox(output: np.ndarray, head: YoloX, *, input_size: tuple[int, int], score_threshold: float) -> Candidates:
    """Decodes the output of one image.

    Args:
        output: float32, shape ``(cells, 5 + classes)``.
        head: the parameters.
        input_size: width and height of the input in px.
        score_threshold: only candidates with a greater score are returned; 0 to 1.

    Returns:
        Candidates in the order cells, classes; those with a NaN score are left out.

    Raises:
        RunError: the strides do not give this number of cells.
    """
    cells, kind, scores = sure_cells(output, head, score_threshold)
    center, sides = output[cells, :2], output[cells, 2:4]
    if not head.decoded:
        grids = yolox_grids(head, len(output), input_size)
        firsts = np.cumsum([0, *(columns * rows for columns, rows, _ in grids)])
        level = np.searchsorted(firsts, cells, side="right") - 1
        columns, _, stride = np.array(grids, np.int64).reshape(-1, 3)[level].T
        row, column = np.divmod(cells - firsts[level], np.maximum(columns, 1))
        stride = stride.astype(np.float32)[:, None]
        with np.errstate(over="ignore", invalid="ignore"):  # a box that is not finite is dropped by the suppression
            center = (center + np.stack([column, row], axis=1).astype(np.float32)) * stride
            sides = np.exp(sides) * stride
    return Candidates(corners(center, sides), scores, kind, cells)
