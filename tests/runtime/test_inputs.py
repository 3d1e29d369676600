"""The short way into a run: only inputs that the long way would not change take it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

from edgekit.errors import RunError
from edgekit.runtime.inputs import NATIVE, are_ready, checked, host_arrays
from edgekit.specs import TensorSpec

SPECS = (TensorSpec("x", "float32", (2, 3)), TensorSpec("ids", "int64", (4,)))
DYNAMIC = (TensorSpec("x", "float32", ("rows", 3)), TensorSpec("ids", "int64", (4,)))
X, IDS = np.arange(6, dtype=np.float32).reshape(2, 3), np.arange(4)


class Subclass(np.ndarray):
    """An array type of a user."""


@pytest.mark.parametrize(
    "feeds",
    [
        {"x": X.astype(np.float64), "ids": IDS},
        {"x": X.astype(">f4"), "ids": IDS},
        {"x": np.asfortranarray(X), "ids": IDS},
        {"x": X[:, ::-1], "ids": IDS},
        {"x": X.astype(ml_dtypes.bfloat16), "ids": IDS},
        {"x": X.view(Subclass), "ids": IDS},
        {"x": X, "ids": IDS.astype(np.int32)},
        {"x": X[:1], "ids": IDS},
        {"x": X.ravel(), "ids": IDS},
        {"x": X.tolist(), "ids": IDS},
        {"x": X},
        {"x": X, "ids": IDS, "more": IDS},
        {"x": X, "id": IDS},
        [X, IDS],
        None,
    ],
    ids=lambda feeds: str(feeds).replace("\n", "")[:60],
)
def test_other_inputs_take_the_long_way(feeds: Any) -> None:
    assert not are_ready(feeds, SPECS)


def test_dynamic_sizes_take_the_long_way() -> None:
    assert not are_ready({"x": X, "ids": IDS}, DYNAMIC)


@pytest.mark.parametrize("name", NATIVE)
def test_ready_inputs_are_those_that_the_long_way_returns(name: str) -> None:
    specs = (TensorSpec("x", name, (2, 3)), TensorSpec("ids", "int64", (4,)))
    feeds = {"ids": IDS, "x": X.astype(name)}
    assert are_ready(feeds, specs)
    manifest: Any = SimpleNamespace(inputs=specs, shapes={}, rebuild="")
    passed = host_arrays(checked(feeds, specs, manifest))
    assert set(passed) == set(feeds)
    for key, array in feeds.items():
        assert passed[key].dtype == array.dtype and passed[key].strides == array.strides
        assert passed[key].ctypes.data == array.ctypes.data


def test_the_long_way_still_refuses() -> None:
    manifest: Any = SimpleNamespace(inputs=SPECS, shapes={}, rebuild="")
    with pytest.raises(RunError, match="expected float32"):
        checked({"x": X.astype(np.int32), "ids": IDS}, SPECS, manifest)


def test_a_numpy_scalar_is_an_array_without_dimensions() -> None:
    scale = (TensorSpec("scale", "float32", ()),)
    manifest: Any = SimpleNamespace(shapes={}, inputs=scale, rebuild="")
    found = checked({"scale": np.float32(1.5)}, scale, manifest)["scale"]
    assert isinstance(found, np.ndarray) and found.shape == () and found == 1.5
    with pytest.raises(RunError, match="expected float32 .*, got float\n"):
        checked({"scale": 1.5}, scale, manifest)


class Wrapped:
    """An array of another library, which converts to NumPy's."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return self.array


def taken(x: Any) -> np.ndarray:
    manifest: Any = SimpleNamespace(inputs=SPECS, shapes={}, rebuild="")
    return host_arrays(checked({"x": x, "ids": IDS}, SPECS, manifest))["x"]


def test_arrays_of_other_libraries_are_read_without_a_copy() -> None:
    tensor = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    for given in (tensor, Wrapped(X), torch.tensor(X.T.copy()).T):
        np.testing.assert_array_equal(taken(given), X)
    assert np.shares_memory(taken(tensor), tensor.numpy())
    np.testing.assert_array_equal(taken(tensor.half()), X)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros((2, 3), dtype=torch.int32), r"expected float32 \(2, 3\), got int32 \(2, 3\)"),
        (torch.zeros((3, 2)), r"expected float32 \(2, 3\), got \(3, 2\)"),
        (torch.zeros((2, 3), requires_grad=True), r"got Tensor, which does not convert to an array: Can't call numpy"),
        (torch.zeros((2, 3), dtype=torch.bfloat16), "got Tensor, which does not convert to an array: .*BFloat16"),
        (torch.zeros((2, 3), device="meta"), "got Tensor, which does not convert to an array"),
        (Wrapped(np.array([[None] * 3] * 2)), r"got object \(2, 3\)"),
        (X.tolist(), "got list"),
        ("x", "got str"),
    ],
)
def test_other_inputs_are_refused_with_a_way_on(x: Any, message: str) -> None:
    with pytest.raises(RunError, match=message) as error:
        taken(x)
    assert error.value.hint or "3, 2" in message
