"""Attention: the reference against PyTorch, and the launcher through the recording driver, with kernels in numpy."""

from __future__ import annotations

import functools
import re
from contextlib import ExitStack
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

from edgekit.device.cuda.resources import Context, Graph, Stream
from edgekit.errors import BackendUnavailable, UsageError
from edgekit.kernels import compiled
from edgekit.kernels.sdpa import reference
from edgekit.kernels.sdpa.device import Array, Attention, AttentionShape, workspace_bytes
from edgekit.kernels.sdpa.variants import HEAD_SIZES, TURING
from tests.fakes.fake_cuda import FakeDriver, Pointer
from tests.kernels.attention_in_numpy import numpy_kernels
from tests.kernels.attention_on_host import Frame, attention_on_host
from tests.kernels.failing_calls import calls_that_fail_and_leak_nothing
from tools.gpu_check import attention as gpu_check

TOLERANCE = {"float16": 2e-3, "bfloat16": 1e-2}
INT8_TOLERANCE = 2e-2


def random_arrays(
    batch: int, heads: int, key_heads: int, queries: int, keys: int, size: int, *, dtype: str = "float16", seed: int = 0
) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    kind = np.dtype(getattr(ml_dtypes, dtype) if dtype == "bfloat16" else dtype)
    shapes = {"q": (heads, queries), "k": (key_heads, keys), "v": (key_heads, keys)}
    return {name: random.standard_normal((batch, *shape, size)).astype(kind) for name, shape in shapes.items()}


def expected(arrays: dict[str, np.ndarray], **options: Any) -> np.ndarray:
    options = {name: value for name, value in options.items() if name in ("scale", "causal_offset")}
    return reference.attention(**arrays, **options)


def relative_error(found: np.ndarray, right: np.ndarray) -> float:
    return float(np.linalg.norm(found.astype(np.float64) - right) / np.linalg.norm(right))


@pytest.fixture
def driver() -> FakeDriver:
    return FakeDriver(kernels=numpy_kernels)


# The reference.


@pytest.mark.parametrize(("queries", "keys"), [(5, 5), (3, 8), (8, 3)])
@pytest.mark.parametrize("case", ["plain", "top left", "bottom right", "lengths", "mask", "scale"])
def test_the_reference_equals_pytorch(case: str, queries: int, keys: int) -> None:
    arrays = random_arrays(2, 4, 2, queries, keys, 32, dtype="float64")
    mask, options = np.zeros((2, 4, queries, keys)), {}
    if case == "mask":
        mask = arrays["mask"] = np.random.default_rng(1).standard_normal((1, 4, queries, keys))
    elif case in ("top left", "bottom right"):
        offset = options["causal_offset"] = 0 if case == "top left" else keys - queries
        mask = np.where(np.arange(keys) <= np.arange(queries)[:, None] + offset, 0.0, -np.inf)
    elif case == "lengths":
        lengths = arrays["key_lengths"] = np.array([keys, 0])
        mask = np.where(np.arange(keys) < lengths[:, None, None, None], 0.0, -np.inf)
    elif case == "scale":
        options["scale"] = 0.7
    q, k, v = (torch.from_numpy(arrays[name]) for name in "qkv")
    causal = (
        {"is_causal": True} if case == "top left" else {"attn_mask": torch.from_numpy(mask + np.zeros((2, 4, 1, 1)))}
    )
    right = torch.nn.functional.scaled_dot_product_attention(
        q, k, v, enable_gqa=True, scale=options.get("scale"), **causal
    )  # type: ignore[arg-type]
    np.testing.assert_allclose(reference.attention(**arrays, **options), right.numpy(), atol=1e-12)  # type: ignore[arg-type]


def test_a_row_that_sees_no_key_gives_zeros_as_in_pytorch() -> None:
    arrays = random_arrays(1, 1, 1, 2, 3, 32, dtype="float64")
    arrays["mask"] = np.array([[0, 0, 0], [-np.inf] * 3])
    right = torch.nn.functional.scaled_dot_product_attention(
        *(torch.from_numpy(arrays[name]) for name in "qkv"), attn_mask=torch.from_numpy(arrays["mask"])
    )
    found = expected(arrays)
    np.testing.assert_allclose(found, right.numpy(), atol=1e-12)
    assert not found[0, 0, 1].any() and found[0, 0, 0].all()


# The launcher. The kernels' own results are in test_attention_triton.py.

CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "scale": {"scale": 0.3},
    "causal, top left": {"causal_offset": 0},
    "causal, bottom right": {"causal_offset": 59},
    "causal, no key for some rows": {"causal_offset": -3},
    "causal, beyond all keys": {"causal_offset": 2**40},
    "key lengths": {"key_lengths": [129, 50]},
    "mask of a head": {"mask": (1, 4, 70, 129)},
    "mask of an image": {"mask": (2, 1, 70, 129)},
    "mask of the keys": {"mask": (2, 1, 1, 129)},
    "all": {"mask": (1, 4, 70, 129), "key_lengths": [0, 128], "causal_offset": 60},
    "rows with gaps": {"gap": 8, "key_lengths": [5, 129]},
}


def with_case(arrays: dict[str, np.ndarray], case: dict[str, Any]) -> dict[str, Any]:
    """Adds a case's mask and lengths to the arrays; returns its options."""
    options = dict(case)
    if mask := options.pop("mask", None):
        arrays["mask"] = np.random.default_rng(7).standard_normal(mask).astype(arrays["q"].dtype)
    if lengths := options.pop("key_lengths", None):
        arrays["key_lengths"] = np.array(lengths, np.int32)
    return options


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_the_launcher_passes_sizes_strides_and_masks(driver: FakeDriver, case: str, int8: bool) -> None:
    arrays = random_arrays(2, 4, 2, 70, 129, 32)
    options = with_case(arrays, CASES[case])
    found = attention_on_host(driver, arrays, int8=int8, **options)
    limit = INT8_TOLERANCE if int8 else TOLERANCE["float16"]
    assert relative_error(found, expected(arrays, **options)) < limit
    kernels = [name for name in driver.trace if name.startswith("attention")]
    forward = f"attention_forward{'_int8' if int8 else ''}{'_mask' if 'mask' in arrays else ''}_float16_32"
    before = ["attention_mean_float16_32"] + ["attention_quantize_float16_32"] * 2 if int8 else []
    assert kernels == [*before, forward]
    assert not driver.leaks()


@pytest.mark.parametrize("size", HEAD_SIZES)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_each_type_and_head_size_has_its_kernels(driver: FakeDriver, dtype: str, size: int) -> None:
    for queries in (3, 1):
        arrays = random_arrays(1, 2, 2, queries, 300, size, dtype=dtype)
        assert relative_error(attention_on_host(driver, arrays), expected(arrays)) < TOLERANCE[dtype]
    kernels = [name for name in driver.trace if name.startswith("attention")]
    assert kernels == [f"attention_{name}_{dtype}_{size}" for name in ("forward", "decode", "combine")]


@pytest.mark.parametrize("size", HEAD_SIZES)
def test_turing_has_float16_with_smaller_blocks_and_nothing_else(size: int) -> None:
    turing = FakeDriver(kernels=functools.partial(numpy_kernels, capability=TURING), compute_capability=(7, 5))
    for queries, mask in ((150, None), (150, (1, 2, 150, 300)), (1, None)):
        arrays = random_arrays(1, 2, 2, queries, 300, size)
        options = with_case(arrays, {"mask": mask} if mask else {})
        assert relative_error(attention_on_host(turing, arrays, **options), expected(arrays)) < TOLERANCE["float16"]
    with Context(turing) as context, Attention(context) as attention:
        for dtype, int8 in (("bfloat16", False), ("float16", True)):
            with pytest.raises(BackendUnavailable, match="needs a GPU of compute capability 8.0 or later, got 7.5"):
                attention.prepare(dtype=dtype, head_size=size, int8=int8)
    assert not turing.leaks()


@pytest.mark.parametrize(
    ("case", "keys"),
    [({}, 1100), ({"key_lengths": [1100, 0]}, 1100), ({"causal_offset": 600}, 1100), ({}, 257), ({}, 33000)],
)
def test_a_single_query_over_a_cache_is_split_and_combined(driver: FakeDriver, case: dict[str, Any], keys: int) -> None:
    arrays = random_arrays(2, 6, 2, 1, keys, 32)
    options = with_case(arrays, case)
    found = attention_on_host(driver, arrays, **options)
    assert relative_error(found, expected(arrays, **options)) < TOLERANCE["float16"]
    assert driver.trace[-3:-1] == ["attention_decode_float16_32", "attention_combine_float16_32"]


def test_more_heads_of_a_group_than_a_tile_has_rows(driver: FakeDriver) -> None:
    arrays = random_arrays(1, 40, 2, 1, 300, 32)
    assert relative_error(attention_on_host(driver, arrays), expected(arrays)) < TOLERANCE["float16"]


def test_a_captured_graph_computes_each_frame_anew(driver: FakeDriver) -> None:
    frames = [random_arrays(1, 2, 2, 70, 65, 64, seed=seed) for seed in (1, 2)]
    with ExitStack() as stack:
        frame = Frame(stack, driver, frames[0], int8=True)
        frame.attention.prepare(dtype="float16", head_size=64)
        with frame.context.current():
            loaded = driver.calls.count("load_module")
            graph = stack.enter_context(Graph(frame.context, frame.stream, frame.submit))
            assert driver.calls.count("load_module") == loaded and driver.trace == []
            for arrays in frames:
                frame.fill(arrays)
                graph.launch(frame.stream)
                frame.stream.synchronize()
                assert relative_error(frame.result(), expected(arrays)) < INT8_TOLERANCE
    assert not driver.leaks()


def test_the_arguments_have_the_types_of_the_compiled_kernels() -> None:
    binary = next(binary for binary in compiled.read_index("attention").binaries if binary.is_ptx)
    letters = {Pointer: "u64", float: "f32", int: "u32"}
    launched: dict[str, list[str]] = {}

    def record(kernel: str, grid: tuple[int, int, int], arguments: list[Any]) -> None:
        launched[kernel] = [letters[type(argument)] for argument in arguments]

    for dtype in TOLERANCE:
        for size in HEAD_SIZES:
            for queries, options in ((70, {}), (70, {"int8": True}), (1, {})):
                if dtype == "bfloat16" and options:
                    continue
                arrays = random_arrays(1, 1, 1, queries, 300, size, dtype=dtype)
                attention_on_host(FakeDriver(kernels=record), arrays, **options)
                arrays["mask"] = np.zeros((1, 1, queries, 300), arrays["q"].dtype)
                attention_on_host(FakeDriver(kernels=record), arrays, **options)
    kernels = {}
    for part in binary.parts:
        text = compiled.image("attention", binary, part).decode()
        for name, parameters in re.findall(r"\.visible \.entry (\w+)\((.*?)\)", text, re.DOTALL):
            kernels[name] = re.findall(r"\.param \.(\w+)", parameters)
    assert launched == kernels


def test_only_kernels_with_much_shared_memory_are_allowed_more(driver: FakeDriver) -> None:
    attention_on_host(driver, random_arrays(1, 1, 1, 8, 8, 32))
    assert "allow_shared_memory" not in driver.calls
    attention_on_host(driver, random_arrays(1, 1, 1, 8, 8, 128))
    assert driver.calls.count("allow_shared_memory") == 1


@pytest.mark.parametrize(("capability", "message"), [((7, 2), "7.5 or later"), ((6, 1), "7.5 or later")])
def test_a_gpu_older_than_all_kernels_is_refused(capability: tuple[int, int], message: str) -> None:
    driver = FakeDriver(compute_capability=capability)
    with Context(driver) as context, pytest.raises(BackendUnavailable, match=message):
        Attention(context)
    assert not driver.leaks()


def test_everything_is_freed_whichever_call_fails() -> None:
    def load(context: Context) -> None:
        with Attention(context) as attention:
            attention.prepare(dtype="float16", head_size=32)
            attention.prepare(dtype="bfloat16", head_size=32)

    assert calls_that_fail_and_leak_nothing(load, numpy_kernels) > 10


SHAPE = {"batch": 1, "heads": 2, "key_heads": 2, "query_length": 4, "key_length": 4, "head_size": 32}
GOOD = Array(1 << 20, (256, 128, 32))


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ({"head_size": 48}, {}, "head size: expected one of 32, 64, 80, 96, 128, got 48"),
        ({"batch": 0}, {}, "batch: expected 1 or more, got 0"),
        ({"heads": 3}, {}, "heads: expected a multiple of the 2 heads of the keys, got 3"),
        ({}, {"dtype": "float32"}, "dtype: expected float16 or bfloat16, got float32"),
        ({}, {"dtype": "bfloat16", "int8": True}, "dtype: expected float16 with INT8, got bfloat16"),
        ({}, {"scale": 0.0}, "scale: expected a positive number, got 0.0"),
        ({}, {"scale": float("inf")}, "scale: expected a positive number, got inf"),
        ({}, {"q": Array(8, GOOD.strides)}, "q: expected an address that is a multiple of 16, got 0x8"),
        ({}, {"out": Array(0, GOOD.strides)}, "out: expected an address that is a multiple of 16, got 0x0"),
        ({}, {"v": Array(16, (256, 128, 33))}, r"v: expected strides that are multiples of 8 elements, got \(256"),
        ({}, {"k": Array(16, (1 << 31, 128, 32))}, "k: expected strides, and elements of a head, from 0 to 2147483647"),
        ({}, {"k": Array(16, (-256, 128, 32))}, "k: expected strides, and elements of a head"),
        ({"key_length": 1 << 27}, {}, "k: expected strides, and elements of a head"),
        ({}, {"mask": Array(2, (0, 0, 1 << 30))}, "mask: expected strides, and elements of a head"),
        ({}, {"int8": True}, "workspace: expected an address that is a multiple of 256, got 0x0"),
        ({}, {"int8": True, "workspace": 16}, "workspace: expected an address that is a multiple of 256, got 0x10"),
        ({"batch": 1 << 24}, {"int8": True, "workspace": 256}, "int8: expected less than 2 GiB of queries and of keys"),
    ],
)
def test_a_wrong_argument_is_refused_before_anything_is_launched(
    driver: FakeDriver, shape: dict[str, int], options: dict[str, Any], message: str
) -> None:
    given: dict[str, Any] = {"q": GOOD, "k": GOOD, "v": GOOD, "out": GOOD, "dtype": "float16"}
    with Context(driver) as context, Stream(context) as stream, Attention(context) as attention:
        with context.current(), pytest.raises(UsageError, match=message):
            attention.launch(stream, AttentionShape(**(SHAPE | shape)), **(given | options))
        assert "launch" not in driver.calls
    assert not driver.leaks()


def test_only_int8_and_single_queries_over_many_keys_need_a_workspace() -> None:
    def shape(**changed: int) -> AttentionShape:
        return AttentionShape(**(SHAPE | changed))

    assert workspace_bytes(shape(key_length=5000)) == 0
    assert workspace_bytes(shape(query_length=1, key_length=256)) == 0
    assert workspace_bytes(shape(query_length=1, key_length=5000), masked=True) == 0
    # 2 heads, 20 splits: 32 values, and 2 sums, in float32.
    assert workspace_bytes(shape(query_length=1, key_length=5000)) == 2 * 20 * 32 * 4 + 512
    assert workspace_bytes(shape(), int8=True) == 5 * 256


# The check for GPUs.


def test_the_check_for_gpus_finds_a_kernel_that_is_not_exact(
    driver: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_check, "driver", lambda: driver)
    small = {"heads": 2, "key_heads": 1, "query_length": 20, "head_size": 32}
    cases = (
        ("mask", small, {"mask": (1, 2, 20, 300), "key_lengths": (300, 77)}),
        ("causal", small, {"causal_offset": 9}),
    )
    few: dict[str, Any] = {"tokens": 128, "exactness": cases, "warmup": 1, "repeats": 2}
    found = gpu_check.check_attention((128,), **few)
    assert found["problems"] == []
    assert [row["case"] for row in found["errors"][::2]] == ["mask", "causal"]
    assert all(0 < row["relative_error"] < 2e-2 for row in found["errors"])
    # A tick of 1 ms for each kernel and each event: INT8 takes four kernels.
    assert [(row["head_size"], row["causal"]) for row in found["speed"]] == [
        (64, False), (64, True), (128, False), (128, True),
    ]  # fmt: skip
    assert {(row["fp16_median_us"], row["int8_median_us"]) for row in found["speed"]} == {(2000, 5000)}
    # 4 x 16 heads x 128^2 x 64 operations in 2 ms.
    assert found["speed"][0]["fp16_tflops"] == pytest.approx(4 * 16 * 128**2 * 64 / 2e-3 / 1e12)
    monkeypatch.setattr(gpu_check, "attention", lambda *arrays, **named: np.ones(named["q"].shape))
    assert re.fullmatch(
        r"mask, FP16: expected a relative error of 0.002, got \d\.\d+e\+\d\d",
        gpu_check.check_attention((), **few)["problems"][0],
    )
