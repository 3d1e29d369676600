"""Kernels as functions, of arrays that are on a fake GPU or on the host."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit import kernels
from edgekit.device.cuda.arrays import DeviceArray
from edgekit.device.cuda.resources import Context, DeviceMemory
from edgekit.errors import RunError, UsageError
from edgekit.kernels import functional
from edgekit.kernels.sdpa import reference as attention_reference
from edgekit.kernels.suppression import reference as nms_reference
from tests.fakes.fake_cuda import FakeDriver
from tests.kernels.attention_in_numpy import numpy_kernels

OPTIONS = {"iou_threshold": 0.45, "score_threshold": 0.1}


def on(driver: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDriver]:
    monkeypatch.setattr(functional, "driver", lambda: driver)
    functional._tools.cache_clear()
    yield driver
    functional._tools.cache_clear()
    gc.collect()
    assert not driver.leaks()


@pytest.fixture
def gpu(on_cpu: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDriver]:
    yield from on(FakeDriver(kernels=ctypes.CDLL(str(on_cpu("nms")))), monkeypatch)


@pytest.fixture
def attention_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDriver]:
    yield from on(FakeDriver(kernels=numpy_kernels), monkeypatch)


def there(driver: FakeDriver, array: np.ndarray) -> DeviceArray:
    context = Context(driver)
    memory = DeviceMemory(context, max(1, array.nbytes))
    memory.handle.data[: array.nbytes] = np.frombuffer(array.tobytes(), np.uint8)
    return DeviceArray(context, memory.address, array.shape, array.dtype, owner=memory)


def candidates(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(count)
    corner = random.uniform(0, 100, (count, 2))
    boxes = np.concatenate([corner, corner + random.uniform(1, 40, (count, 2))], axis=1).astype(np.float32)
    return boxes, random.random(count).astype(np.float32), random.integers(0, 3, count).astype(np.int32)


@pytest.mark.parametrize("count", [0, 1, 300])
@pytest.mark.parametrize("limit", [0, 7, 5000])
def test_batched_nms_keeps_what_the_reference_keeps(gpu: FakeDriver, count: int, limit: int) -> None:
    boxes, scores, classes = candidates(count)
    arrays = [there(gpu, array) for array in (boxes, scores, classes)]
    found = functional.batched_nms(*arrays, **OPTIONS, max_detections=limit)
    expected = nms_reference.nms(boxes, scores, classes, **OPTIONS, max_detections=limit)
    assert found.numpy().tolist() == list(expected) and found.dtype == np.int32


def test_nms_takes_boxes_as_of_one_class_and_arrays_of_the_host(gpu: FakeDriver) -> None:
    boxes, scores, _ = candidates(100)
    found = functional.nms(there(gpu, boxes), scores, **OPTIONS)
    expected = nms_reference.nms(boxes, scores, np.zeros(100, int), **OPTIONS, max_detections=2048)
    assert found.numpy().tolist() == list(expected)


def test_a_result_of_one_call_goes_into_another(gpu: FakeDriver) -> None:
    boxes, scores, classes = candidates(50)
    kept = functional.batched_nms(boxes, scores, classes, **OPTIONS)
    assert functional.batched_nms(boxes[: len(kept.numpy())], scores[: kept.shape[0]], kept, **OPTIONS).shape[0] > 0


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"boxes": np.zeros((3, 5), np.float32)}, r"boxes: expected float32 \(3, 4\), got float32 \(3, 5\)"),
        ({"boxes": np.zeros(3, np.float32)}, r"boxes: expected an array with 2 axes, got shape \(3,\)"),
        ({"scores": np.zeros(3)}, r"scores: expected float32 \(3,\), got float64 \(3,\)"),
        ({"classes": np.zeros(2, np.int32)}, r"classes: expected int32 \(3,\), got int32 \(2,\)"),
        ({"iou_threshold": 2.0}, "iou_threshold: expected 0 to 1, got 2"),
        ({"max_detections": -1}, "max_detections: expected a whole number from 0 to 2147483647, got -1"),
    ],
)
def test_what_does_not_fit_is_refused(gpu: FakeDriver, changed: dict[str, Any], message: str) -> None:
    boxes, scores, classes = candidates(3)
    with pytest.raises(UsageError, match=message):
        functional.batched_nms(**{"boxes": boxes, "scores": scores, "classes": classes, **OPTIONS, **changed})


def qkv(queries: int, keys: int, heads: int = 4, key_heads: int = 2) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    shapes = {"q": (2, heads, queries, 64), "k": (2, key_heads, keys, 64), "v": (2, key_heads, keys, 64)}
    return {name: random.standard_normal(shape).astype(np.float16) for name, shape in shapes.items()}


def close(found: DeviceArray, right: np.ndarray, tolerance: float = 2e-3) -> None:
    assert found.dtype == np.float16 and found.shape == right.shape
    error = np.linalg.norm(found.numpy().astype(np.float64) - right) / np.linalg.norm(right)
    assert error <= tolerance


@pytest.mark.parametrize(
    ("options", "reference"),
    [
        ({}, {}),
        ({"causal": True}, {"causal_offset": 0}),
        ({"scale": 0.3}, {"scale": 0.3}),
    ],
)
def test_attention_equals_the_reference(
    attention_gpu: FakeDriver, options: dict[str, Any], reference: dict[str, Any]
) -> None:
    arrays = qkv(17, 23)
    found = functional.attention(**{name: there(attention_gpu, array) for name, array in arrays.items()}, **options)
    close(found, attention_reference.attention(**arrays, **reference))


def test_attention_takes_masks_lengths_strides_and_int8(attention_gpu: FakeDriver) -> None:
    arrays = qkv(17, 24)
    mask = np.random.default_rng(1).standard_normal((1, 4, 17, 24)).astype(np.float16)
    close(functional.attention(**arrays, mask=mask), attention_reference.attention(**arrays, mask=mask))
    lengths = np.int32([24, 5])
    close(
        functional.attention(**arrays, key_lengths=there(attention_gpu, lengths)),
        attention_reference.attention(**arrays, key_lengths=lengths),
    )
    close(functional.attention(**arrays, precision="int8"), attention_reference.attention(**arrays), 2e-2)

    packed = there(attention_gpu, np.ascontiguousarray(arrays["q"].transpose(0, 2, 1, 3)))

    class Queries:  # (batch, heads, queries, head size) of an array (batch, queries, heads, head size)
        __cuda_array_interface__ = packed.__cuda_array_interface__ | {
            "shape": (2, 4, 17, 64),
            "strides": (2 * 17 * 4 * 64, 2 * 64, 2 * 4 * 64, 2),
        }

    close(functional.attention(Queries(), arrays["k"], arrays["v"]), attention_reference.attention(**arrays))


def test_attention_of_one_query_over_a_long_cache_uses_its_workspace(attention_gpu: FakeDriver) -> None:
    arrays = qkv(1, 700)
    close(functional.attention(**arrays), attention_reference.attention(**arrays))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"q": np.zeros((2, 4, 5, 64), np.float32)}, "q: expected float16"),
        (
            {"v": np.zeros((2, 2, 6, 64), np.float16)},
            r"v: expected float16 \(2, 2, 7, 64\), got float16 \(2, 2, 6, 64\)",
        ),
        ({"k": np.zeros((2, 7, 64), np.float16)}, "k: expected an array with 4 axes"),
        ({"mask": np.zeros((2, 3, 5, 7), np.float16)}, r"mask: expected float16 \(2, 4, 5, 7\)"),
        ({"precision": "int4"}, "precision: expected fp16 or int8, got int4"),
    ],
)
def test_attention_refuses_what_does_not_fit(attention_gpu: FakeDriver, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        functional.attention(**(qkv(5, 7) | changed))


def test_whatever_fails_leaves_nothing_behind(on_cpu: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    library = ctypes.CDLL(str(on_cpu("nms")))
    boxes, scores, classes = candidates(20)
    failed = set()
    for fail_at in range(0, 120, 7):
        with pytest.MonkeyPatch.context() as patch:
            for driver in on(FakeDriver(kernels=library), patch):
                driver.fail_at = fail_at
                try:
                    result = functional.batched_nms(boxes, scores, classes, **OPTIONS)
                    driver.fail_at = None
                    assert result.shape[0] > 0
                except RunError:
                    failed.add(driver.failed)
                driver.fail_at = result = None
    assert len(failed) > 5


@pytest.mark.parametrize("name", functional.__all__)
def test_functions_of_the_package_are_those_of_the_module(name: str) -> None:
    assert getattr(kernels, name) is getattr(functional, name)


def test_an_unknown_name_of_the_package_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'flash'"):
        kernels.flash  # noqa: B018
