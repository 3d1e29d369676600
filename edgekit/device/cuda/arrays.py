"""Arrays in device memory, exchanged with other libraries without a copy: DLPack and ``__cuda_array_interface__``.

The formats are those of https://dmlc.github.io/dlpack/latest/ (``DLManagedTensor``) and of Numba's documentation, "CUDA
Array Interface (Version 3)". PyTorch and CuPy have both protocols; Numba and pycuda have the second.
"""

from __future__ import annotations

import ctypes
import math
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from edgekit.device.cuda.resources import Context, HostMemory, Stream
from edgekit.errors import UsageError

__all__ = ["DeviceArray", "ForeignArray", "foreign_array", "is_on_device"]

_CPU, _CUDA, _CUDA_MANAGED = 1, 2, 13  # DLDeviceType
_NAMES = {0: "int", 1: "uint", 2: "float", 4: "bfloat"}  # DLDataTypeCode; the name of a type is this and its bits
_CODES = {"i": 0, "u": 1, "f": 2, "b": 6}  # DLDataTypeCode of numpy's kinds
_BOOL = 6
_UNUSED, _USED = b"dltensor", b"used_dltensor"


class _Device(ctypes.Structure):
    _fields_ = [("type", ctypes.c_int32), ("index", ctypes.c_int32)]  # noqa: RUF012  # ctypes wants a list


class _Type(ctypes.Structure):
    _fields_ = [("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16)]  # noqa: RUF012


class _Tensor(ctypes.Structure):
    _fields_ = [  # noqa: RUF012
        ("data", ctypes.c_void_p),
        ("device", _Device),
        ("ndim", ctypes.c_int32),
        ("dtype", _Type),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


class _Managed(ctypes.Structure):
    pass


_Deleter = ctypes.CFUNCTYPE(None, ctypes.POINTER(_Managed))
_Managed._fields_ = [("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", _Deleter)]
_Destructor = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)

_api = ctypes.pythonapi
_api.PyCapsule_New.restype = ctypes.py_object
_api.PyCapsule_New.argtypes = (ctypes.c_void_p, ctypes.c_char_p, _Destructor)
_api.PyCapsule_IsValid.argtypes = (ctypes.c_void_p, ctypes.c_char_p)
_api.PyCapsule_GetPointer.restype = ctypes.c_void_p
_api.PyCapsule_GetPointer.argtypes = (ctypes.c_void_p, ctypes.c_char_p)
_api.PyCapsule_SetName.argtypes = (ctypes.c_void_p, ctypes.c_char_p)


class ForeignArray:
    """Another library's array in device memory; keeps its memory alive.

    Attributes:
        address: device address of the first element.
        shape: the shape.
        strides: the distance between elements along each axis in bytes.
        dtype: element type, such as ``float16`` or ``bfloat16``.
        itemsize: size of an element in bytes.
        index: number of the GPU; -1 if the other library does not tell.
    """

    def __init__(
        self,
        address: int,
        shape: tuple[int, ...],
        strides: tuple[int, ...] | None,
        dtype: str,
        itemsize: int,
        *,
        index: int,
        owner: object,
    ) -> None:
        self.address = address
        self.shape = shape
        self.strides = strides if strides is not None else _contiguous(shape, itemsize)
        self.dtype = dtype
        self.itemsize = itemsize
        self.index = index
        self._owner = owner

    @property
    def is_contiguous(self) -> bool:
        """Whether the elements are in C order without gaps."""
        expected = _contiguous(self.shape, self.itemsize)
        return all(size == 1 or got == want for size, got, want in zip(self.shape, self.strides, expected, strict=True))

    @property
    def size_bytes(self) -> int:
        """Size of all elements in bytes."""
        return math.prod(self.shape) * self.itemsize


class DeviceArray:
    """An array in device memory that EdgeKit owns; contiguous, in C order.

    PyTorch takes it with ``torch.from_dlpack``, CuPy with ``cupy.asarray``. Its values are complete.

    Args:
        context: the CUDA context of the memory.
        address: device address of the first element.
        shape: the shape.
        dtype: element type.
        owner: object that frees the memory when it is garbage-collected.
        index: number of the GPU.
    """

    def __init__(
        self,
        context: Context,
        address: int,
        shape: tuple[int, ...],
        dtype: np.dtype,
        *,
        owner: object,
        index: int = 0,
    ) -> None:
        self.address = address
        self.shape = shape
        self.dtype = np.dtype(dtype)
        self._context = context
        self._owner = owner
        self._index = index

    def __repr__(self) -> str:
        return f"<DeviceArray {self.dtype} {self.shape} on GPU {self._index}>"

    @property
    def size_bytes(self) -> int:
        """Size of all elements in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def numpy(self) -> np.ndarray:
        """Copies the array to the host.

        Raises:
            RunError: CUDA failed.
        """
        with HostMemory(self._context, max(1, self.size_bytes)) as host, Stream(self._context) as stream:
            with self._context.current(), stream.until_done():
                if self.size_bytes:
                    stream.copy_to_host(host.array[: self.size_bytes], self.address)
            return np.array(host.array[: self.size_bytes].view(np.ndarray).view(self.dtype).reshape(self.shape))

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.address, False),
            "version": 3,
            "strides": None,
            "stream": None,  # the values are complete
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        return _CUDA, self._index

    def __dlpack__(self, **options: Any) -> Any:
        """Returns a DLPack capsule; no stream has to wait, since the values are complete.

        Raises:
            BufferError: a copy, or another device, is asked for.
        """
        if options.get("copy") or options.get("dl_device") not in (None, (_CUDA, self._index)):
            raise BufferError("expected to share the memory where it is, got a request for a copy")
        return _capsule(self.address, self.shape, self.dtype, (_CUDA, self._index), self)


def is_on_device(array: object) -> bool:
    """Whether an object is an array in the memory of a CUDA device."""
    if isinstance(array, np.ndarray):
        return False
    if hasattr(array, "__dlpack_device__"):
        try:
            return array.__dlpack_device__()[0] in (_CUDA, _CUDA_MANAGED)
        except ValueError:  # a tensor without memory, as on PyTorch's device 'meta'; refused as any other object
            return False
    return hasattr(array, "__cuda_array_interface__")


def foreign_array(array: Any, stream: Stream) -> ForeignArray:
    """Takes another library's array in device memory, without a copy.

    Work that the other library has submitted to produce the array comes before later work in ``stream``. The context
    of ``stream`` must be current.

    Args:
        array: an object for which `is_on_device` is true.
        stream: the stream that will read the array.

    Raises:
        UsageError: its elements have no type that EdgeKit knows, or it has a mask.
    """
    if hasattr(array, "__dlpack__"):
        return _from_capsule(array.__dlpack__(stream=stream.address))
    interface = array.__cuda_array_interface__
    if interface.get("mask") is not None:
        raise UsageError("device array: expected an array without a mask, got one with a mask")
    producer = interface.get("stream")
    if producer is not None:
        stream.driver.synchronize_foreign(producer)
    dtype = np.dtype(interface["typestr"])
    return ForeignArray(
        interface["data"][0],
        tuple(interface["shape"]),
        interface.get("strides"),
        dtype.name,
        dtype.itemsize,
        index=-1,
        owner=array,
    )


def _contiguous(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    return tuple(itemsize * math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def _from_capsule(capsule: object) -> ForeignArray:
    if not _api.PyCapsule_IsValid(id(capsule), _UNUSED):
        raise UsageError("device array: expected an unused DLPack capsule 'dltensor'")
    managed = ctypes.cast(_api.PyCapsule_GetPointer(id(capsule), _UNUSED), ctypes.POINTER(_Managed))
    _api.PyCapsule_SetName(id(capsule), _USED)  # from now on, freeing it is up to this side
    owner = _Owner(managed)
    tensor = managed.contents.tensor
    kind, bits = tensor.dtype.code, tensor.dtype.bits
    if tensor.dtype.lanes != 1 or (kind not in _NAMES and kind != _BOOL):
        raise UsageError(
            f"device array: expected numbers, got DLPack's type code {kind} with {tensor.dtype.lanes} lanes"
        )
    itemsize = bits // 8
    shape = tuple(tensor.shape[: tensor.ndim])
    strides = tuple(step * itemsize for step in tensor.strides[: tensor.ndim]) if tensor.strides else None
    return ForeignArray(
        (tensor.data or 0) + tensor.byte_offset,
        shape,
        strides,
        "bool" if kind == _BOOL else f"{_NAMES[kind]}{bits}",
        itemsize,
        index=tensor.device.index,
        owner=owner,
    )


class _Owner:
    """Calls the deleter of a DLPack tensor once, when it is garbage-collected."""

    def __init__(self, managed: Any) -> None:
        weakref.finalize(self, _delete, managed)


def _delete(managed: Any) -> None:
    deleter = managed.contents.deleter
    if deleter:
        deleter(managed)


# What exported capsules need, by the address of their structure, until their deleter is called.
_exported: dict[int, tuple[object, ...]] = {}


def _forget(managed: Any) -> None:
    _exported.pop(ctypes.addressof(managed.contents), None)


def _drop(capsule: int) -> None:
    if _api.PyCapsule_IsValid(capsule, _UNUSED):  # nobody took it
        _exported.pop(_api.PyCapsule_GetPointer(capsule, _UNUSED), None)


# Kept for as long as the process lives: other libraries call them.
_FORGET, _DROP = _Deleter(_forget), _Destructor(_drop)


def _capsule(address: int, shape: tuple[int, ...], dtype: np.dtype, device: tuple[int, int], owner: object) -> Any:
    sizes = (ctypes.c_int64 * len(shape))(*shape)
    managed = _Managed(
        tensor=_Tensor(
            data=address,
            device=_Device(*device),
            ndim=len(shape),
            dtype=_Type(_CODES[dtype.kind], 8 * dtype.itemsize, 1),
            shape=sizes,
        ),
        deleter=_FORGET,
    )
    place = ctypes.addressof(managed)
    _exported[place] = (managed, sizes, owner)
    make: Callable[..., Any] = _api.PyCapsule_New
    return make(place, _UNUSED, _DROP)
