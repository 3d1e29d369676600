"""Chooses the number of threads to train on by measuring a few steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from edgekit.device.cpu import cpu

__all__ = ["fastest_threads", "restored_threads"]

MIN_STEPS = 3
MAX_STEPS = 20
MIN_SECONDS = 0.2
SLOW_STEP_S = 1.0
"""A step that takes longer is measured once: its duration varies little, and training takes long anyway."""
SLOWER = 1.1
"""With fewer threads than the fastest, steps only get slower; this ratio is clear of noise."""


@contextmanager
def restored_threads() -> Iterator[None]:
    """Restores PyTorch's number of threads, which belongs to the caller, at the end of the block."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def fastest_threads(step: Callable[[], None]) -> int:
    """Returns the number of threads with which a training step is fastest, and leaves PyTorch with that number.

    More threads are not always faster: OpenMP's threads wait for each other after each operator, and spin while they
    wait. If one of them does not have a core for itself, because batches are prepared beside or other programs run,
    the others spin for its whole time slice, and small models become ten times slower. No rule can predict that from
    the number of cores, so it is measured: all cores that this process may use, then half of them, and so on, until
    steps become slower.

    Args:
        step: runs one step of training, under the same conditions as in training.
    """
    # PyTorch's own number does not consider a container's CPU quota, but OMP_NUM_THREADS, which the user may have set.
    count = max(1, min(torch.get_num_threads(), cpu().compute_threads))
    best, fastest = count, float("inf")
    while count:
        torch.set_num_threads(count)
        seconds = _seconds_of(step)
        if seconds > SLOWER * fastest:
            break
        if seconds < fastest:
            best, fastest = count, seconds
        count //= 2
    torch.set_num_threads(best)
    return best


def _seconds_of(step: Callable[[], None]) -> float:
    """Returns the mean duration of a step, after one that warms up."""
    start = time.perf_counter()
    step()
    first = time.perf_counter() - start
    if first > SLOW_STEP_S:
        return first
    start, steps = time.perf_counter(), 0
    while True:
        step()
        steps += 1
        seconds = time.perf_counter() - start
        if steps == MAX_STEPS or (steps >= MIN_STEPS and seconds >= MIN_SECONDS):
            # The mean, not the median: the stalls are part of the cost.
            return seconds / steps
