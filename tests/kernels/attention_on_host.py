"""Attention of numpy arrays through `Attention` and the recording driver; the kernels run on the host."""

from __future__ import annotations

import math
import os
import pickle
import re
import struct
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.device.cuda.resources import Context, DeviceMemory, HostMemory, Stream
from edgekit.kernels.sdpa.device import Array, Attention, AttentionShape, workspace_bytes
from edgekit.kernels.sdpa.variants import variants
from tests.fakes.fake_cuda import FakeDriver, Pointer


class Frame:
    """Inputs, output and workspace of one shape in device memory.

    Arrays are in memory as (batch, length, heads, head size), as a projection writes them, with a gap between rows, or
    as (batch, heads, length, head size) if ``heads_first``, as a mask always is.
    """

    def __init__(
        self,
        stack: ExitStack,
        driver: FakeDriver,
        arrays: dict[str, np.ndarray],
        *,
        gap: int = 0,
        heads_first: bool = False,
        **options: Any,
    ) -> None:
        q, k = arrays["q"], arrays["k"]
        self.shape = AttentionShape(
            batch=q.shape[0],
            heads=q.shape[1],
            key_heads=k.shape[1],
            query_length=q.shape[2],
            key_length=k.shape[2],
            head_size=q.shape[3],
        )
        self.options = options | {"dtype": q.dtype.name}
        self.gap, self.heads_first = gap, heads_first
        self.context = stack.enter_context(Context(driver))
        self.stream = stack.enter_context(Stream(self.context))
        self.attention = stack.enter_context(Attention(self.context))
        self.host: dict[str, HostMemory] = {}
        self.device: dict[str, DeviceMemory] = {}
        self.views: dict[str, np.ndarray] = {}
        self.arrays: dict[str, Array] = {}
        for name, array in (arrays | {"out": np.empty(q.shape, q.dtype)}).items():
            sizes, axes = self._layout(name, array)
            self.host[name] = stack.enter_context(HostMemory(self.context, math.prod(sizes) * array.itemsize))
            self.device[name] = stack.enter_context(DeviceMemory(self.context, math.prod(sizes) * array.itemsize))
            view = self.host[name].array[:].view(np.ndarray).view(array.dtype).reshape(sizes)
            self.views[name] = view[..., : array.shape[-1]].transpose(axes)
            if array.ndim == 4:
                strides = [stride // array.itemsize for stride in self.views[name].strides[:3]]
                if name == "mask":
                    strides = [0 if size == 1 else stride for size, stride in zip(array.shape, strides, strict=False)]
                self.arrays[name] = Array(self.device[name].address, (strides[0], strides[1], strides[2]))
        size = workspace_bytes(self.shape, int8=bool(options.get("int8")), masked="mask" in arrays)
        self.workspace = stack.enter_context(DeviceMemory(self.context, size)) if size else None

    def _layout(self, name: str, array: np.ndarray) -> tuple[list[int], tuple[int, ...]]:
        """Sizes in memory, and the axes that make them (batch, heads, length, head size)."""
        if array.ndim != 4 or name == "mask":
            return list(array.shape), tuple(range(array.ndim))
        axes = (0, 1, 2, 3) if self.heads_first else (0, 2, 1, 3)
        sizes = [array.shape[axis] for axis in axes]
        return [*sizes[:3], sizes[3] + self.gap], axes

    def submit(self) -> None:
        for name in self.host:
            if name != "out":
                self.stream.copy_to_device(self.device[name].address, self.host[name].array)
        lengths = self.device.get("key_lengths")
        self.attention.launch(
            self.stream,
            self.shape,
            **self.arrays,  # type: ignore[arg-type]
            key_lengths=lengths.address if lengths else 0,
            workspace=self.workspace.address if self.workspace else 0,
            **self.options,
        )
        self.stream.copy_to_host(self.host["out"].array, self.device["out"].address)

    def fill(self, arrays: dict[str, np.ndarray]) -> None:
        for name, array in arrays.items():
            self.views[name][...] = array

    def result(self) -> np.ndarray:
        return self.views["out"].copy()


def attention_on_host(driver: FakeDriver, arrays: dict[str, np.ndarray], **options: Any) -> np.ndarray:
    """Runs `Attention.launch` with arrays ``q``, ``k``, ``v`` and, if any, ``mask`` and ``key_lengths``."""
    with ExitStack() as stack:
        frame = Frame(stack, driver, arrays, **options)
        frame.fill(arrays)
        with frame.context.current():
            frame.submit()
            frame.stream.synchronize()
            return frame.result()


def parameters(kernel: str, capability: int = 80) -> tuple[str, str, dict[str, int | bool], list[str]]:
    """Type, function, constants and parameters of a kernel of ``triton_kernels.py``, by its name in the binaries."""
    name, type_name, head_size = re.fullmatch(r"attention_(\w+)_(b?float16)_(\d+)", kernel).groups()  # type: ignore[union-attr]
    variant = variants(type_name, int(head_size), capability=capability)[name]
    source = Path(sys.modules[variants.__module__].__file__).with_name("triton_kernels.py").read_text()  # type: ignore[arg-type]
    (signature,) = re.findall(rf"\ndef {variant.function}\((.*?)\):", source, re.DOTALL)
    names = re.findall(r"(\w+)(?:: tl\.constexpr)?,", signature)
    return type_name, variant.function, variant.constants, [name for name in names if name not in variant.constants]


def dtype_of(parameter: str, type_name: str, constants: dict[str, int | bool]) -> str:
    if parameter in ("query_scales", "key_scales", "means", "scales", "states", "sums"):
        return "float32"
    if parameter == "lengths":
        return "int32"
    if parameter == "quantized" or (parameter in ("queries", "keys") and constants.get("INT8")):
        return "int8"
    return type_name


class InterpretedKernels:
    """The kernels of ``triton_kernels.py`` in Triton's interpreter, in a process of its own.

    Attributes:
        capability: compute capability times ten of the GPU whose tiles they have.
    """

    def __init__(self) -> None:
        self.capability = 80
        # The interpreter is chosen when Triton is imported, for the whole process.
        command = [sys.executable, str(Path(__file__).with_name("triton_interpreter.py"))]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)

    def __call__(self, kernel: str, grid: tuple[int, int, int], arguments: list[Any]) -> None:
        type_name, function, constants, names = parameters(kernel, self.capability)
        assert len(arguments) == len(names) + 2 and [pointer.memory.size for pointer in arguments[-2:]] == [0, 0]
        memories: dict[int, np.ndarray] = {}
        values: list[Any] = []
        for name, argument in zip(names, arguments, strict=False):
            if isinstance(argument, Pointer):
                memories[id(argument.memory)] = argument.memory
                dtype = dtype_of(name, type_name, constants)
                values.append((id(argument.memory), argument.offset, dtype))
            else:
                values.append(argument)
        self._send((function, constants, grid, {key: memory.tobytes() for key, memory in memories.items()}, values))
        for key, data in self._receive().items():
            memories[key][...] = np.frombuffer(data, np.uint8)

    def _send(self, message: Any) -> None:
        assert self._process.stdin is not None
        data = pickle.dumps(message)
        self._process.stdin.write(struct.pack("<Q", len(data)) + data)
        self._process.stdin.flush()

    def _receive(self) -> dict[int, bytes]:
        assert self._process.stdout is not None
        header = self._process.stdout.read(8)
        assert len(header) == 8, "the process of Triton's interpreter has ended; its error is above"
        found: dict[int, bytes] = pickle.loads(self._process.stdout.read(struct.unpack("<Q", header)[0]))
        return found

    def close(self) -> None:
        self._process.communicate(timeout=30)
