"""The largest numbers that arguments take. Larger ones are mistakes, and would keep a machine busy for ever."""

from __future__ import annotations

__all__ = [
    "MAX_CLAIM",
    "MAX_COUNT",
    "MAX_ROUNDS",
    "MAX_RUNS",
    "MAX_SECONDS",
    "MAX_SEED",
    "MAX_SIZE",
    "MAX_STREAMS",
    "MAX_THREADS",
    "MAX_WARMUP",
    "MIN_CLAIM",
]

MAX_SIZE = 2**31 - 1
"""The largest dimension of an array."""
MAX_COUNT = 2**31 - 1
"""The largest number of images, classes, detections and the like: GPUs count them with 32 bits."""
MAX_THREADS = 1024
"""The most threads of an engine: a backend starts as many as it is told, and with a million does nothing else."""
MAX_STREAMS = 256
"""The most engines side by side, each of which is loaded by itself."""
MAX_SEED = 2**32 - 1
"""The largest seed, which all generators of random numbers take."""
MAX_RUNS = 10_000_000
"""The most runs of a measurement, whose times stay in memory."""
MAX_WARMUP = 1_000_000
"""The most runs before a measurement."""
MAX_ROUNDS = 100_000
"""The most rounds of a comparison, each of which starts a process for each engine."""
MAX_SECONDS = 30 * 86_400
"""The longest measurement: 30 days."""
MIN_CLAIM, MAX_CLAIM = 1, 99.9999
"""The percentiles that can be claimed; the last one needs 4.6 million runs."""
