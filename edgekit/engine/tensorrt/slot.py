"""Buffers of one TensorRT run, on host and device, and the CUDA graphs captured with them."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

import msgspec
import numpy as np

from edgekit.device.cuda.resources import Context, DeviceMemory, Event, Graph, HostMemory, Stream

__all__ = ["Lanes", "Recording", "Shapes", "Slot", "Tensor"]

# Each graph uses memory; an engine that runs with ever new shapes must not use more and more.
GRAPHS_KEPT = 8

# The shapes of all inputs, in the engine's order.
Shapes = tuple[tuple[int, ...], ...]


class Tensor(msgspec.Struct, frozen=True, kw_only=True):
    """An input or an output of the engine.

    Attributes:
        name: name in the engine.
        dtype: element type.
        shape: shape; -1 is a dynamic size.
        size_bytes: max size.
    """

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    size_bytes: int = 0

    def size_of(self, shape: tuple[int, ...]) -> int:
        """Returns the size in bytes of an array with this shape."""
        return math.prod(shape) * self.dtype.itemsize


class Recording(msgspec.Struct, frozen=True):
    """A captured run, and the shapes of its outputs."""

    graph: Graph
    output_shapes: list[tuple[int, ...]]


class Lanes(msgspec.Struct, frozen=True):
    """The streams of a run: three, so that copies overlap the computation of other runs, or the same one thrice."""

    copy_in: Stream
    compute: Stream
    copy_out: Stream


class Buffer:
    """Memory of one tensor: pinned host memory and device memory, or memory that both share."""

    def __init__(self, context: Context, tensor: Tensor, stack: ExitStack, *, shared: bool) -> None:
        self.tensor = tensor
        self._shared = shared
        size_bytes = max(tensor.size_bytes, 1)
        host = stack.enter_context(HostMemory(context, size_bytes, mapped=shared))
        self._host = host.array
        if shared:
            self.address = host.mapped_address
        else:
            self.address = stack.enter_context(DeviceMemory(context, size_bytes)).address

    def fill(self, array: np.ndarray) -> None:
        np.copyto(self._view(array.shape), array)

    def read(self, shape: tuple[int, ...]) -> np.ndarray:
        return np.array(self._view(shape))

    def to_device(self, stream: Stream, shape: tuple[int, ...]) -> None:
        if not self._shared and (host := self._bytes(shape)).size:
            stream.copy_to_device(self.address, host)

    def to_host(self, stream: Stream, shape: tuple[int, ...]) -> None:
        if not self._shared and (host := self._bytes(shape)).size:
            stream.copy_to_host(host, self.address)

    def _bytes(self, shape: tuple[int, ...]) -> np.ndarray:
        return self._host[: self.tensor.size_of(shape)]

    def _view(self, shape: tuple[int, ...]) -> np.ndarray:
        return self._bytes(shape).view(self.tensor.dtype).reshape(shape)


class Slot:
    """The resources of one run in flight; reusable when the run is done and its outputs are collected.

    Args:
        context: the CUDA context.
        inputs: the engine's inputs.
        outputs: the engine's outputs.
        shared: host and device share memory.
    """

    def __init__(self, context: Context, inputs: Sequence[Tensor], outputs: Sequence[Tensor], *, shared: bool) -> None:
        self._recordings: OrderedDict[Shapes, Recording] = OrderedDict()
        with ExitStack() as stack:
            self._inputs = [Buffer(context, tensor, stack, shared=shared) for tensor in inputs]
            self._outputs = [Buffer(context, tensor, stack, shared=shared) for tensor in outputs]
            self._copied_in, self._computed, self.finished = (stack.enter_context(Event(context)) for _ in range(3))
            stack.callback(self.drop_recordings)
            self._stack = stack.pop_all()

    def close(self) -> None:
        """Frees all resources; no run may be in flight."""
        self._stack.close()

    def addresses(self) -> dict[str, int]:
        """Returns the device address of each tensor."""
        return {buffer.tensor.name: buffer.address for buffer in (*self._inputs, *self._outputs)}

    def send(self, feeds: Mapping[str, np.ndarray], lanes: Lanes) -> None:
        """Enqueues the copy of inputs to the device; later work on the compute stream waits for it."""
        for buffer in self._inputs:
            array = feeds[buffer.tensor.name]
            buffer.fill(array)
            buffer.to_device(lanes.copy_in, array.shape)
        _follow(lanes.compute, lanes.copy_in, self._copied_in)

    def fetch(self, shapes: Sequence[tuple[int, ...]], lanes: Lanes) -> None:
        """Enqueues the copy of outputs to the host, after the current work on the compute stream; sets `finished`."""
        _follow(lanes.copy_out, lanes.compute, self._computed)
        for buffer, shape in zip(self._outputs, shapes, strict=True):
            buffer.to_host(lanes.copy_out, shape)
        self.finished.record(lanes.copy_out)

    def outputs(self, shapes: Sequence[tuple[int, ...]]) -> dict[str, np.ndarray]:
        """Returns copies of the fetched outputs by name; `finished` must have occurred."""
        return {buffer.tensor.name: buffer.read(shape) for buffer, shape in zip(self._outputs, shapes, strict=True)}

    def recording(self, shapes: Shapes) -> Recording | None:
        """Returns the run captured for these input shapes, if any."""
        found = self._recordings.get(shapes)
        if found is not None:
            self._recordings.move_to_end(shapes)
        return found

    def keep(self, shapes: Shapes, recording: Recording) -> None:
        """Stores a captured run; removes the least recently used one if there are too many."""
        self._recordings[shapes] = recording
        if len(self._recordings) > GRAPHS_KEPT:
            self._recordings.popitem(last=False)[1].graph.close()

    def drop_recordings(self) -> None:
        """Removes all captured runs; no run may be in flight."""
        with ExitStack() as stack:
            while self._recordings:
                stack.callback(self._recordings.popitem()[1].graph.close)


def _follow(later: Stream, earlier: Stream, event: Event) -> None:
    """Makes later work on ``later`` wait for the current work on ``earlier``."""
    if later is not earlier:
        event.record(earlier)
        later.wait(event)
