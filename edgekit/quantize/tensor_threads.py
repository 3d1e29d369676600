"""Runs NumPy over many tensors on several threads, while ONNX Runtime does not compute."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from edgekit.device.cpu import cpu

__all__ = ["each_tensor"]

MIN_ELEMENTS = 1 << 20
"""Fewer take less time than starting threads does: NumPy passes over a million in about a millisecond."""

Result = TypeVar("Result")


def each_tensor(
    function: Callable[[np.ndarray, int], Result], tensors: Sequence[np.ndarray], *, threads: int = 0
) -> list[Result]:
    """Calls ``function`` with each tensor and its index, on several threads if there are many elements.

    A thread takes the next tensor when it is done with one. NumPy lets other threads run while it computes.

    Args:
        function: uses nothing that another call changes.
        tensors: arrays of any shapes.
        threads: how many; 0: one for each core that this process may use.

    Returns:
        The results, in the order of ``tensors``.
    """
    if threads == 1 or sum(tensor.size for tensor in tensors) < MIN_ELEMENTS:
        return [function(tensor, index) for index, tensor in enumerate(tensors)]
    count = min(threads or cpu().compute_threads, len(tensors))
    results: dict[int, Result] = {}
    waiting = iter(range(len(tensors)))

    def work() -> None:
        for index in waiting:
            results[index] = function(tensors[index], index)

    with ThreadPoolExecutor(count, thread_name_prefix="edgekit") as pool:
        for worker in [pool.submit(work) for _ in range(count)]:
            worker.result()
    return [results[index] for index in range(len(tensors))]
