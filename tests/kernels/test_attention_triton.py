"""The attention kernels in Triton's interpreter, launched as on a GPU, against PyTorch."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgekit.kernels.sdpa import reference
from edgekit.kernels.sdpa.variants import HEAD_SIZES, TURING
from tests.fakes.fake_cuda import FakeDriver
from tests.kernels.attention_on_host import InterpretedKernels, attention_on_host
from tests.kernels.test_attention import INT8_TOLERANCE, TOLERANCE, random_arrays, relative_error

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton: pip install '.[kernels]'"),
]

LENGTHS = (1, 7, 64, 129, 256)


@pytest.fixture(scope="module")
def kernels() -> Iterator[InterpretedKernels]:
    kernels = InterpretedKernels()
    yield kernels
    kernels.close()


def launched(
    kernels: InterpretedKernels,
    arrays: dict[str, np.ndarray],
    compute_capability: tuple[int, int] = (8, 7),
    **options: Any,
) -> np.ndarray:
    driver = FakeDriver(kernels=kernels, compute_capability=compute_capability)
    found = attention_on_host(driver, arrays, **options)
    assert not driver.leaks()
    return found


def by_pytorch(arrays: dict[str, np.ndarray], causal_offset: int | None = None) -> np.ndarray:
    """`torch.nn.functional.scaled_dot_product_attention` of the same numbers, in float64."""
    q, k, v = (torch.from_numpy(arrays[name].astype(np.float64)) for name in "qkv")
    queries, keys = q.shape[2], k.shape[2]
    mask = np.zeros((q.shape[0], 1, queries, keys))
    if "mask" in arrays:
        mask = mask + arrays["mask"].astype(np.float64)
    if "key_lengths" in arrays:
        mask = np.where(np.arange(keys) < arrays["key_lengths"][:, None, None, None], mask, -np.inf)
    if causal_offset is not None:
        mask = np.where(np.arange(keys) <= np.arange(queries)[:, None] + causal_offset, mask, -np.inf)
    return torch.nn.functional.scaled_dot_product_attention(
        q, k, v, attn_mask=torch.from_numpy(mask), enable_gqa=True
    ).numpy()


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("masks", ["none", "causal", "lengths", "mask", "all"])
def test_every_mask_at_every_length(kernels: InterpretedKernels, masks: str, length: int) -> None:
    arrays = random_arrays(2, 2, 1, length, length, 32)
    options = {"causal_offset": 0} if masks in ("causal", "all") else {}
    if masks in ("lengths", "all"):
        arrays["key_lengths"] = np.array([length, (length + 1) // 2], np.int32)
    if masks in ("mask", "all"):
        arrays["mask"] = np.random.default_rng(3).standard_normal((1, 2, length, length)).astype(np.float16)
    right = by_pytorch(arrays, **options)
    assert relative_error(launched(kernels, arrays, **options), right) < TOLERANCE["float16"]
    assert relative_error(launched(kernels, arrays, int8=True, **options), right) < INT8_TOLERANCE


@pytest.mark.parametrize("size", HEAD_SIZES)
def test_the_tiles_of_turing(kernels: InterpretedKernels, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "capability", TURING)
    for queries in (70, 1):
        arrays = random_arrays(1, 2, 2, queries, 300, size)
        arrays["key_lengths"] = np.array([291], np.int32)
        if queries > 1:
            arrays["mask"] = np.random.default_rng(3).standard_normal((1, 1, 70, 300)).astype(np.float16)
        found = launched(kernels, arrays, compute_capability=(7, 5))
        assert relative_error(found, by_pytorch(arrays)) < TOLERANCE["float16"]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("size", HEAD_SIZES)
def test_every_head_size_and_type(kernels: InterpretedKernels, dtype: str, size: int) -> None:
    arrays = random_arrays(1, 2, 2, 70, 129, size, dtype=dtype)
    assert relative_error(launched(kernels, arrays), by_pytorch(arrays)) < TOLERANCE[dtype]
    if dtype == "float16":
        assert relative_error(launched(kernels, arrays, int8=True), by_pytorch(arrays)) < INT8_TOLERANCE
    arrays["mask"] = np.random.default_rng(3).standard_normal((1, 1, 70, 129)).astype(arrays["q"].dtype)
    assert relative_error(launched(kernels, arrays), by_pytorch(arrays)) < TOLERANCE[dtype]
    if dtype == "float16":
        assert relative_error(launched(kernels, arrays, int8=True), by_pytorch(arrays)) < INT8_TOLERANCE


@pytest.mark.parametrize("offset", [0, 59, -59, 200])
def test_causal_with_unequal_lengths(kernels: InterpretedKernels, offset: int) -> None:
    arrays = random_arrays(1, 2, 2, 70, 129, 64)
    right = by_pytorch(arrays, causal_offset=offset)
    assert relative_error(launched(kernels, arrays, causal_offset=offset), right) < TOLERANCE["float16"]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("size", HEAD_SIZES)
def test_a_single_query_over_a_cache_with_lengths(kernels: InterpretedKernels, dtype: str, size: int) -> None:
    arrays = random_arrays(2, 6, 2, 1, 600, size, dtype=dtype)
    arrays["key_lengths"] = np.array([600, 131], np.int32)
    # What lies behind the length in a cache is garbage, which must not spread.
    arrays["k"][1, :, 131:] = np.nan
    arrays["v"][1, :, 131:] = np.inf
    right = reference.attention(**arrays)
    assert relative_error(launched(kernels, arrays), right) < TOLERANCE[dtype]


@pytest.mark.parametrize("int8", [False, True])
def test_garbage_behind_the_lengths_does_not_spread(kernels: InterpretedKernels, int8: bool) -> None:
    arrays = random_arrays(2, 2, 2, 70, 129, 32)
    arrays["key_lengths"] = np.array([129, 70], np.int32)
    arrays["k"][1, :, 70:] = np.nan
    arrays["v"][1, :, 70:] = np.inf
    limit = INT8_TOLERANCE if int8 else TOLERANCE["float16"]
    assert relative_error(launched(kernels, arrays, int8=int8), reference.attention(**arrays)) < limit


@pytest.mark.parametrize("int8", [False, True])
def test_a_row_that_sees_no_key_gives_zeros(kernels: InterpretedKernels, int8: bool) -> None:
    arrays = random_arrays(2, 2, 2, 70, 70, 32)
    arrays["key_lengths"] = np.array([70, 0], np.int32)
    arrays["mask"] = np.zeros((1, 1, 70, 70), np.float16)
    arrays["mask"][..., 5, :] = -np.inf
    arrays["mask"][..., 6, :64] = -np.inf  # whole blocks of a row
    found = launched(kernels, arrays, int8=int8)
    assert not found[1].any() and not found[0, :, 5].any()
    limit = INT8_TOLERANCE if int8 else TOLERANCE["float16"]
    assert relative_error(found, by_pytorch(arrays)) < limit


def test_large_logits_do_not_overflow(kernels: InterpretedKernels) -> None:
    arrays = random_arrays(1, 2, 2, 70, 129, 64)
    arrays["q"] *= np.float16(100)
    arrays["k"] *= np.float16(100)
    found = launched(kernels, arrays)
    assert np.isfinite(found).all()
    assert relative_error(found, by_pytorch(arrays)) < TOLERANCE["float16"]


def test_int8_is_exact_enough_where_the_keys_have_a_common_offset(kernels: InterpretedKernels) -> None:
    arrays = random_arrays(1, 2, 2, 70, 129, 64)
    arrays["k"] += np.float16(20) * np.random.default_rng(5).standard_normal(64).astype(np.float16)
    assert relative_error(launched(kernels, arrays, int8=True), by_pytorch(arrays)) < INT8_TOLERANCE


small = st.integers(1, 150)


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    small, small, st.sampled_from([(1, 1), (2, 1), (4, 2)]), st.booleans(), st.integers(-40, 160), st.integers(0, 150)
)
def test_any_shape_equals_the_reference(
    kernels: InterpretedKernels,
    queries: int,
    keys: int,
    heads: tuple[int, int],
    causal: bool,
    offset: int,
    length: int,
) -> None:
    arrays = random_arrays(2, *heads, queries, keys, 32, seed=queries)
    arrays["key_lengths"] = np.array([length, keys], np.int32)
    options = {"causal_offset": offset} if causal else {}
    right = reference.attention(**arrays, **options)  # type: ignore[arg-type]
    found = launched(kernels, arrays, **options).astype(np.float64)
    np.testing.assert_allclose(found, right, atol=4e-3, rtol=2e-3)


@settings(deadline=None, max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(2, 150), st.integers(0, 2**31))
def test_the_order_of_the_keys_does_not_matter(kernels: InterpretedKernels, keys: int, seed: int) -> None:
    arrays = random_arrays(1, 1, 1, 9, keys, 32, seed=seed)
    order = np.random.default_rng(seed).permutation(keys)
    shuffled = arrays | {name: arrays[name][:, :, order] for name in "kv"}
    np.testing.assert_allclose(
        launched(kernels, arrays).astype(float), launched(kernels, shuffled).astype(float), atol=4e-3
    )
