"""Detection on the GPU: preprocessing, engine, decoding and suppression of a frame as one CUDA graph."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Any

import numpy as np

from edgekit.data.frames import frame_size
from edgekit.device.cuda.arrays import foreign_array, is_on_device
from edgekit.device.cuda.resources import (
    Context,
    DeviceMemory,
    Event,
    Graph,
    HostMemory,
    Stream,
    close_when_idle,
    settle,
)
from edgekit.engine.bundle.manifest import Manifest
from edgekit.errors import RunError
from edgekit.kernels.decode.device import DETECTION, DeviceDetector
from edgekit.kernels.decode.device import PARAMETERS as DECODING
from edgekit.kernels.preprocess.device import PARAMETERS as PREPROCESSING
from edgekit.kernels.preprocess.device import DevicePreprocess, Format, Frame
from edgekit.kernels.preprocess.geometry import placement
from edgekit.runtime.stream import RunsOnDevice
from edgekit.specs import TensorSpec, sizes_of, sizes_take, specs_at

__all__ = ["DetectionPipeline", "PendingRows", "obstacle"]

# While one frame is computed, the next is uploaded; a third frame would only wait.
SLOTS = 2

# Where the parts of a block of memory begin: as aligned as CUDA's own allocations.
_ALIGNMENT = 256


def obstacle(
    inputs: Sequence[TensorSpec], outputs: Mapping[str, tuple[np.dtype, tuple[int, ...]]], manifest: Manifest
) -> str:
    """Returns why frames cannot be preprocessed and decoded on the GPU; empty if they can.

    Args:
        inputs: specifications of the engine's inputs.
        outputs: type and shape of each output, for a batch of one image.
        manifest: the manifest of the engine's bundle.
    """
    if manifest.preprocess is None or manifest.postprocess is None or len(inputs) != 1:
        return "the engine has no known preprocessing and head"
    if inputs[0].dtype not in ("float32", "float16"):
        return f"its input has type {inputs[0].dtype}; expected float32 or float16"
    return DeviceDetector.supports(manifest.postprocess.head, outputs)


class DetectionPipeline:
    """Detects objects in frames, from pixels to boxes on the GPU, without host synchronization in between.

    A frame in host memory is uploaded on a stream of its own. All else is one CUDA graph: parameters to the device,
    preprocessing, engine, decoding, suppression, detections to the host. The graph has the addresses of buffers that
    do not change; what differs from frame to frame (address, size, thresholds) is in the parameters. A frame that is
    already on the GPU is read where it is. If host and device share memory, nothing is copied.

    Threads may share a pipeline under one lock, which each caller of `start` and `collect` holds.

    Args:
        engine: the engine; it must live longer than the pipeline.
        inputs: specifications of its inputs.
        outputs: specifications of its outputs.
        manifest: the manifest of its bundle, of task ``detect``.
        max_detections: maximum number of detections of a frame.

    Attributes:
        notes: why there is no CUDA graph, if so.

    Raises:
        BackendUnavailable: no compiled kernel fits the GPU and its driver.
        RunError: the frames cannot be handled on the GPU (the message is the reason), or memory is short.
    """

    def __init__(
        self,
        engine: RunsOnDevice,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        manifest: Manifest,
        *,
        max_detections: int,
    ) -> None:
        context, index = engine.context, engine.context.index
        self.max_detections = max_detections
        self.notes: list[str] = []
        self._engine = engine
        self._context = context
        self._graphs = True
        self._pending: deque[PendingRows] = deque()
        with context.current(), ExitStack() as stack:
            shape = _input_shape(inputs, manifest)
            self._shapes = {inputs[0].name: shape}
            shapes = engine.output_shapes(self._shapes)
            layouts = {spec.name: (np.dtype(spec.dtype), shapes[spec.name]) for spec in outputs}
            if reason := obstacle(inputs, layouts, manifest):
                raise RunError(reason)
            assert manifest.preprocess is not None and manifest.postprocess is not None
            self._how, dtype = manifest.preprocess, np.dtype(inputs[0].dtype)
            height, width = shape[2:] if self._how.layout == "nchw" else shape[1:3]
            self._size = (width, height)
            self._preprocess = stack.enter_context(
                DevicePreprocess(context, self._how, height=height, width=width, dtype=dtype, images=1, index=index)
            )
            self._detector = stack.enter_context(
                DeviceDetector(
                    context,
                    manifest.postprocess.head,
                    outputs=layouts,
                    input_size=self._size,
                    images=1,
                    max_detections=max_detections,
                    index=index,
                )
            )
            sizes = {name: int(np.prod(of)) * kind.itemsize for name, (kind, of) in layouts.items()}
            sizes[inputs[0].name] = int(np.prod(shape)) * dtype.itemsize
            memories = {name: stack.enter_context(DeviceMemory(context, size)) for name, size in sizes.items()}
            self._addresses = {name: memory.address for name, memory in memories.items()}
            self._input = self._addresses[inputs[0].name]
            self._outputs = {name: self._addresses[name] for name in layouts}
            self._shared = context.driver.properties(index).integrated
            self._upload = engine.stream if self._shared else stack.enter_context(Stream(context))
            self._slots = [
                stack.enter_context(_Slot(context, max_detections, shared=self._shared)) for _ in range(SLOTS)
            ]
            self._stack = stack.pop_all()
        self._finalizer = weakref.finalize(self, close_when_idle, context, [self._upload, engine.stream], self._stack)

    def close(self) -> None:
        """Waits for the frames in flight, whose detections stay available, and frees all resources."""
        if self._finalizer.alive:
            while self._pending:
                self.collect(self._pending[0])
            self._finalizer()

    def start(
        self, frame: Any, format: Format, *, score_threshold: float, iou_threshold: float, max_detections: int
    ) -> PendingRows:
        """Starts the detection in a frame; at most two are in flight, so a third call waits for the first.

        Args:
            frame: array in host memory, which may be changed after the call; or in device memory, which must not be
                changed until the result is there.
            format: its pixel format; see `edgekit.data.frames.frame_size` for the shapes.
            score_threshold: only boxes with a greater score are detected.
            iou_threshold: maximum overlap of a detection with a better one of its class.
            max_detections: maximum number of detections, at most that of the pipeline.

        Raises:
            DataError: the array is not of this format.
            RunError: the engine or CUDA failed.
        """
        slot = self._free_slot()
        try:
            with self._context.current():
                there = self._on_device(slot, frame, format)
                where = placement(self._how, (there.width, there.height), self._size).placement
                decoding = self._detector.record(
                    scale=where.scale,
                    offset=where.offset,
                    size=where.size,
                    score_threshold=score_threshold,
                    iou_threshold=iou_threshold,
                    max_detections=max_detections,
                )
                slot.write_parameters(self._preprocess.record(there), decoding)
                self._submit(slot)
        except BaseException:
            self._settle()
            raise
        pending = PendingRows(slot)
        self._pending.append(pending)
        return pending

    def collect(self, pending: PendingRows) -> np.ndarray:
        """Waits for a frame and returns its detections, best first; of type `DETECTION`.

        Raises:
            RunError: CUDA failed.
        """
        if pending in self._pending:
            self._pending.remove(pending)
            try:
                with self._context.current():
                    pending.slot.finished.synchronize()
                pending.rows = pending.slot.rows()
            except RunError as e:
                pending.error = e
                self._settle()
            pending.slot.frame = None
        if pending.error is not None:
            raise pending.error
        assert pending.rows is not None
        return pending.rows

    def is_done(self, pending: PendingRows) -> bool:
        """Whether `collect` returns without waiting."""
        if pending not in self._pending:
            return True
        with self._context.current():
            return pending.slot.finished.done

    def _free_slot(self) -> _Slot:
        if len(self._pending) == len(self._slots):
            with suppress(RunError):  # the frame's own caller gets the error
                self.collect(self._pending[0])
        busy = [pending.slot for pending in self._pending]
        return next(slot for slot in self._slots if slot not in busy)

    def _on_device(self, slot: _Slot, frame: Any, format: Format) -> Frame:
        """Returns where a frame is on the device; one in host memory is uploaded."""
        if is_on_device(frame):
            array = foreign_array(frame, self._engine.stream)
            slot.frame = array  # keeps its memory alive
            width, height = frame_size(array.shape, array.dtype, format)
            address, pitch = array.address, array.strides[0]
            _require_dense_rows(array.shape, array.strides, format)
        else:
            width, height = frame_size(frame.shape, frame.dtype.name, format)
            address, pitch = slot.upload(self._context, frame, self._upload), frame.nbytes // frame.shape[0]
            if self._upload is not self._engine.stream:
                slot.uploaded.record(self._upload)
                self._engine.stream.wait(slot.uploaded)
        chroma = {"chroma_address": address + height * pitch, "chroma_pitch_bytes": pitch} if format == "nv12" else {}
        return Frame(address, pitch, width, height, format, **chroma)

    def _submit(self, slot: _Slot) -> None:
        stream = self._engine.stream
        if slot.graph is not None and slot.graphs_dropped == self._engine.graphs_dropped:
            slot.graph.launch(stream)
        else:
            slot.drop_graph()
            self._work(slot)  # an engine needs one plain run of new shapes before it can be captured
            self._capture(slot)
        slot.finished.record(stream)

    def _work(self, slot: _Slot) -> None:
        stream = self._engine.stream
        slot.send_parameters(stream)
        self._preprocess.launch(stream, parameters=slot.preprocessing_address, output=self._input, images=1)
        self._engine.enqueue(self._shapes, self._addresses)
        self._detector.launch(
            stream,
            outputs=self._outputs,
            parameters=slot.decoding_address,
            detections=slot.detections_address,
            number=slot.number_address,
            images=1,
        )
        slot.fetch_detections(stream)

    def _capture(self, slot: _Slot) -> None:
        if not self._graphs:
            return
        reason = self._engine.capture_obstacle()
        if not reason:
            try:
                slot.graph = Graph(self._context, self._engine.stream, lambda: self._work(slot))
                slot.graphs_dropped = self._engine.graphs_dropped
            except RunError as e:
                reason = e.message
        if reason:
            self._graphs = False
            self.notes.append(f"detection without a CUDA graph, so every kernel is launched by itself: {reason}")

    def _settle(self) -> None:
        """Waits until no work is in flight, after a failure that is reported already."""
        settle(self._context, [self._upload, self._engine.stream])


class PendingRows:
    """A frame whose detections are being computed."""

    def __init__(self, slot: _Slot) -> None:
        self.slot = slot
        self.rows: np.ndarray | None = None
        self.error: RunError | None = None


class _Slot:
    """What each frame in flight has of its own: pixels, parameters, detections, and the graph with their addresses."""

    def __init__(self, context: Context, max_detections: int, *, shared: bool) -> None:
        self.graph: Graph | None = None
        self.graphs_dropped = 0
        self.frame: object = None
        self._shared = shared
        self._pixels = ExitStack()
        self._pixels_bytes = 0
        self._parts = {
            "preprocessing": np.dtype((PREPROCESSING, (1,))),
            "decoding": np.dtype((DECODING, (1,))),
            "number": np.dtype((np.int32, (1,))),
            "detections": np.dtype((DETECTION, (max(1, max_detections),))),
        }
        self._offsets, end = {}, 0
        for name, dtype in self._parts.items():
            self._offsets[name] = end
            end += -(-dtype.itemsize // _ALIGNMENT) * _ALIGNMENT
        self._end = end
        with ExitStack() as stack:
            self._host = stack.enter_context(HostMemory(context, end, mapped=shared))
            device = self._host.mapped_address
            if not shared:
                device = stack.enter_context(DeviceMemory(context, end)).address
            self._device = device
            start = self._offsets["number"]
            self._sent, self._fetched = self._host.array[:start], self._host.array[start:]
            self.uploaded, self.finished = (stack.enter_context(Event(context)) for _ in range(2))
            stack.callback(self._pixels.close)
            stack.callback(self.drop_graph)
            self._stack = stack.pop_all()
        self.preprocessing_address, self.decoding_address, self.number_address, self.detections_address = (
            device + offset for offset in self._offsets.values()
        )

    def __enter__(self) -> _Slot:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def drop_graph(self) -> None:
        """Destroys the captured graph, if any; it must not be in flight."""
        if self.graph is not None:
            self.graph.close()
            self.graph = None

    def write_parameters(self, preprocessing: np.void, decoding: np.void) -> None:
        """Stores the parameters of a frame in host memory."""
        self._part("preprocessing")[0] = preprocessing
        self._part("decoding")[0] = decoding

    def send_parameters(self, stream: Stream) -> None:
        """Enqueues the copy of the parameters to the device."""
        if not self._shared:
            stream.copy_to_device(self._device, self._sent)

    def fetch_detections(self, stream: Stream) -> None:
        """Enqueues the copy of the detections to the host."""
        if not self._shared:
            stream.copy_to_host(self._fetched, self.number_address)

    def rows(self) -> np.ndarray:
        """Returns the detections of the frame, which must be finished."""
        number = int(self._part("number")[0])
        return np.array(self._part("detections")[:number])

    def upload(self, context: Context, frame: np.ndarray, stream: Stream) -> int:
        """Enqueues the copy of a frame to the device; returns its address there."""
        if frame.nbytes > self._pixels_bytes:
            self._pixels.close()
            self._pixels_bytes = 0
            self._pixels_host = self._pixels.enter_context(HostMemory(context, frame.nbytes, mapped=self._shared))
            self._pixels_address = self._pixels_host.mapped_address
            if not self._shared:
                self._pixels_address = self._pixels.enter_context(DeviceMemory(context, frame.nbytes)).address
            self._pixels_bytes = frame.nbytes
        pinned = self._pixels_host.array[: frame.nbytes]
        np.copyto(pinned.reshape(frame.shape), frame)
        if not self._shared:
            stream.copy_to_device(self._pixels_address, pinned)
        return self._pixels_address

    def _part(self, name: str) -> np.ndarray:
        start, dtype = self._offsets[name], self._parts[name]
        part: np.ndarray = self._host.array[start : start + dtype.itemsize].view(dtype.base)
        return part


def _input_shape(inputs: Sequence[TensorSpec], manifest: Manifest) -> tuple[int, ...]:
    """Returns the shape of the input for one image: the opt size if sizes are dynamic.

    Raises:
        RunError: the engine does not take a batch of 1, or its sizes are unknown.
    """
    if len(inputs) != 1:
        raise RunError(f"expected one input, got {len(inputs)}")
    spec = specs_at(inputs, manifest.shapes)[0]
    shape = tuple(int(size) for size in (1, *spec.shape[1:]) if not isinstance(size, str))
    if not sizes_take(sizes_of(inputs[0], manifest.shapes), shape):
        raise RunError(f"input '{spec.name}': expected one that takes a batch of 1, got {inputs[0].shape}")
    return shape


def _require_dense_rows(shape: tuple[int, ...], strides: tuple[int, ...], format: Format) -> None:
    """Checks that the samples of a row follow each other; rows may have a pitch."""
    expected = [int(np.prod(shape[axis + 1 :])) for axis in range(1, len(shape))]
    if list(strides[1:]) != expected or strides[0] < int(np.prod(shape[1:])):
        raise RunError(
            f"frame: expected rows without gaps for '{format}', got strides of {strides} bytes for shape {shape}",
            hint="copy it: frame.contiguous()",
        )
