"""Tests of NumPy on several threads."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from edgekit.quantize import tensor_threads
from edgekit.quantize.tensor_threads import MIN_ELEMENTS, each_tensor

LARGE = np.ones(MIN_ELEMENTS, np.float32)


def test_results_are_in_the_order_of_the_tensors() -> None:
    sizes = [MIN_ELEMENTS, 1, 500_000, 3, 200_000, 0]
    tensors = [np.full(size, index, np.float32) for index, size in enumerate(sizes)]
    found = each_tensor(lambda tensor, index: (index, float(tensor.sum(dtype=np.float64))), tensors, threads=3)
    assert found == [(index, float(index * size)) for index, size in enumerate(sizes)]


@pytest.mark.parametrize(("threads", "tensor", "expected"), [(1, LARGE, 1), (2, LARGE, 2), (2, LARGE[:10], 1)])
def test_few_elements_and_one_thread_start_no_thread(threads: int, tensor: np.ndarray, expected: int) -> None:
    both = threading.Barrier(expected, timeout=30)

    def wait(_tensor: np.ndarray, _index: int) -> int:
        both.wait()  # with one thread too few, the barrier breaks
        return threading.get_ident()

    assert len(set(each_tensor(wait, [tensor, tensor], threads=threads))) == expected


def test_by_default_there_is_a_thread_for_each_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor_threads, "cpu", lambda: type("Cpu", (), {"compute_threads": 3}))
    all_three = threading.Barrier(3, timeout=30)
    assert each_tensor(lambda _tensor, _index: all_three.wait() >= 0, [LARGE] * 3) == [True] * 3


@pytest.mark.parametrize("threads", [1, 2])
def test_an_error_reaches_the_caller(threads: int) -> None:
    with pytest.raises(ZeroDivisionError):
        each_tensor(lambda _tensor, index: 1 // (index - 3), [LARGE] * 5, threads=threads)


def test_without_tensors_there_is_nothing() -> None:
    assert each_tensor(lambda _tensor, index: index, []) == []
