"""Arrays that are exchanged with other libraries; numpy's and torch's own DLPack stand in for those on a GPU."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from fake_cuda import FakeDriver

from edgekit.device.cuda import arrays
from edgekit.device.cuda.arrays import DeviceArray, foreign_array, is_on_device
from edgekit.device.cuda.resources import Context, DeviceMemory, Stream
from edgekit.errors import UsageError


class OnGpu:
    """A host array of another library that says that it is on a GPU, and records the stream that it is given."""

    def __init__(self, array: Any) -> None:
        self.array = array
        self.stream = 0

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0

    def __dlpack__(self, *, stream: int) -> Any:
        self.stream = stream
        return self.array.__dlpack__()


class Interface:
    def __init__(self, **fields: Any) -> None:
        self.__cuda_array_interface__ = fields


@pytest.fixture
def stream() -> Any:
    driver = FakeDriver()
    with Context(driver) as context, Stream(context) as stream, context.current():
        yield stream


DTYPES = [np.float32, np.float16, np.uint8, np.int64, np.bool_]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_dlpack_array_is_read_where_it_lies(stream: Stream, dtype: type) -> None:
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    given = OnGpu(array)
    found = foreign_array(given, stream)
    assert (found.address, found.shape, found.strides) == (array.ctypes.data, (2, 3, 4), array.strides)
    assert (found.dtype, found.itemsize, found.size_bytes) == (array.dtype.name, array.itemsize, array.nbytes)
    assert found.is_contiguous
    assert given.stream == stream.address


def test_strides_are_in_bytes_and_show_what_is_not_contiguous(stream: Stream) -> None:
    array = np.zeros((4, 6), np.float32)[:, ::2]
    found = foreign_array(OnGpu(array), stream)
    assert found.strides == array.strides and not found.is_contiguous
    assert foreign_array(OnGpu(np.zeros((1, 6), np.float32)[:, 2:3]), stream).is_contiguous


def test_bfloat16_has_its_name(stream: Stream) -> None:
    found = foreign_array(OnGpu(torch.zeros(3, dtype=torch.bfloat16)), stream)
    assert (found.dtype, found.itemsize) == ("bfloat16", 2)


def test_complex_numbers_are_refused(stream: Stream) -> None:
    with pytest.raises(UsageError, match="expected numbers, got DLPack's type code 5"):
        foreign_array(OnGpu(np.zeros(2, np.complex64)), stream)


def test_the_memory_lives_as_long_as_what_was_taken(stream: Stream) -> None:
    tensor = torch.ones(5)
    storage = weakref.ref(tensor.untyped_storage())
    found = foreign_array(OnGpu(tensor), stream)
    address = tensor.data_ptr()
    del tensor
    gc.collect()
    assert (
        found.address == address
        and np.ctypeslib.as_array((np.ctypeslib.ctypes.c_float * 5).from_address(address))[0] == 1
    )
    del found
    gc.collect()
    assert storage() is None


def test_a_capsule_is_taken_once(stream: Stream) -> None:
    capsule = np.zeros(3).__dlpack__()

    class Twice(OnGpu):
        def __dlpack__(self, *, stream: int) -> Any:
            return capsule

    foreign_array(Twice(None), stream)
    with pytest.raises(UsageError, match="expected an unused DLPack capsule"):
        foreign_array(Twice(None), stream)


def test_the_array_interface_waits_for_its_stream(stream: Stream) -> None:
    fields: dict[str, Any] = {"shape": (2, 3), "typestr": "<f2", "data": (4096, False), "version": 3}
    found = foreign_array(Interface(**fields, stream=1), stream)
    assert (found.address, found.shape, found.strides, found.dtype) == (4096, (2, 3), (6, 2), "float16")
    assert stream.driver.waited_for == [1]  # type: ignore[attr-defined]
    foreign_array(Interface(**fields), stream)
    assert stream.driver.waited_for == [1]  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match="got one with a mask"):
        foreign_array(Interface(**fields, mask=object()), stream)


def test_only_arrays_on_a_gpu_are_device_arrays() -> None:
    assert is_on_device(OnGpu(None)) and is_on_device(Interface(shape=()))
    assert not any(map(is_on_device, (np.zeros(1), torch.zeros(1), "photo.jpg", [1, 2])))


@pytest.mark.parametrize("dtype", DTYPES)
def test_numpy_takes_what_is_exported(dtype: type) -> None:
    # The same capsule on the host, so that numpy can read it.
    array = np.arange(6).reshape(2, 3).astype(dtype)

    class Exported:
        def __dlpack_device__(self) -> tuple[int, int]:
            return 1, 0

        def __dlpack__(self, **options: Any) -> Any:
            return arrays._capsule(array.ctypes.data, array.shape, array.dtype, (1, 0), array)

    before = len(arrays._exported)
    taken = np.from_dlpack(Exported())
    assert taken.ctypes.data == array.ctypes.data
    np.testing.assert_array_equal(taken, array)
    assert len(arrays._exported) == before + 1
    del taken
    gc.collect()
    assert len(arrays._exported) == before


def test_a_capsule_that_nobody_takes_is_freed() -> None:
    before = len(arrays._exported)
    capsule = arrays._capsule(4096, (1,), np.dtype(np.float32), (1, 0), object())
    assert len(arrays._exported) == before + 1
    del capsule
    gc.collect()
    assert len(arrays._exported) == before


def test_a_device_array_has_both_protocols_and_copies_to_the_host() -> None:
    driver = FakeDriver()
    with Context(driver) as context:
        memory = DeviceMemory(context, 24)
        values = np.arange(6, dtype=np.float32)
        memory.handle.data[:] = values.view(np.uint8)
        array = DeviceArray(context, memory.address, (2, 3), np.dtype(np.float32), owner=memory)
        np.testing.assert_array_equal(array.numpy(), values.reshape(2, 3))
        assert is_on_device(array) and array.__dlpack_device__() == (2, 0)
        assert array.__cuda_array_interface__["data"] == (memory.address, False)
        assert repr(array) == "<DeviceArray float32 (2, 3) on GPU 0>"
        with Stream(context) as stream, context.current():
            again = foreign_array(array, stream)
        assert (again.address, again.shape, again.dtype) == (memory.address, (2, 3), "float32")
        with pytest.raises(BufferError, match="got a request for a copy"):
            array.__dlpack__(copy=True)
        del array, memory
        gc.collect()
        assert driver.leaks()["memory"] == 1  # `again` holds it
        del again
        gc.collect()
        assert not driver.leaks()["memory"]


def test_an_empty_device_array_is_copied_too() -> None:
    driver = FakeDriver()
    with Context(driver) as context, DeviceMemory(context, 1) as memory:
        array = DeviceArray(context, memory.address, (0, 3), np.dtype(np.int32), owner=memory)
        assert array.numpy().shape == (0, 3)
