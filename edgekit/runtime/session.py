"""Sessions: run an engine on checked arrays, images or texts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, TypeAlias, overload

import msgspec
import numpy as np

from edgekit.arguments import argument
from edgekit.data.frames import Format, rgb_frame
from edgekit.data.images import ImageSource, Placement, preprocess
from edgekit.data.video.source import Source
from edgekit.device.cuda.arrays import is_on_device
from edgekit.engine.backend import Engine, backend
from edgekit.engine.bundle.checks import bundle_in
from edgekit.engine.bundle.manifest import GRAPH, Manifest, read_engine
from edgekit.engine.bundle.reading import OpenFolder
from edgekit.engine.layer_timer import LayerTimer
from edgekit.errors import RunError, UsageError
from edgekit.option import given_path, given_threads
from edgekit.runtime.class_names import check_class_names, class_count
from edgekit.runtime.detections import Detections
from edgekit.runtime.device_detection import DeviceDetection
from edgekit.runtime.frame_stream import stream_of_frames
from edgekit.runtime.inputs import are_ready, checked, host_arrays
from edgekit.runtime.locked_engine import LockedEngine
from edgekit.runtime.source_stream import stream_of_source
from edgekit.runtime.stream import Pending
from edgekit.runtime.tasks.choose import task_of
from edgekit.runtime.tasks.classify import TASK as CLASSIFY
from edgekit.runtime.tasks.classify import Classes
from edgekit.runtime.tasks.detect import TASK as DETECT
from edgekit.runtime.tasks.detector import DetectorTask, detections_from_outputs
from edgekit.runtime.tasks.task import ImageTask
from edgekit.runtime.tasks.translate import TASK as TRANSLATE
from edgekit.specs import sizes_of, sizes_take, specs_at, specs_text

__all__ = ["Session", "session_from_bundle"]

Images: TypeAlias = "list[ImageSource] | tuple[ImageSource, ...]"


def session_from_bundle(path: str | Path, *, threads: int = 0, labels: Sequence[str] = ()) -> Session:
    """Loads the engine of a bundle.

    Args:
        path: the bundle's folder.
        threads: threads that the engine runs on; 0 lets the backend choose.
        labels: names of the model's classes, in its order; default: those that it was built with.

    Raises:
        UsageError: ``path`` is not a bundle, or the model has another number of classes.
        EngineMismatch: the bundle was built for another machine or backend, or was modified since.
        BackendUnavailable: the backend of the engine is not installed.
    """
    threads = given_threads(threads)

    def load(folder: OpenFolder) -> Session:
        manifest = bundle_in(folder.at)
        if not isinstance(labels, (tuple, list)) or labels:
            check_class_names(labels, class_count(manifest.task, manifest.postprocess, manifest.outputs), manifest.name)
            manifest = msgspec.structs.replace(manifest, labels=tuple(labels))
        engine = backend(manifest.backend).load(folder.at / manifest.engine, threads=threads)
        return Session(engine, manifest, folder)

    return read_engine(given_path("path", path), load, keep_open=True)


class Session:
    """A loaded engine with its manifest; a context manager that closes the engine.

    Several threads may use a session. The engine runs for one thread at a time, under a lock; preprocessing and
    postprocessing run in parallel.

    Args:
        engine: the loaded engine; the session closes it.
        manifest: the manifest of its bundle.
        folder: the bundle's folder; the session closes it. It stays open, because a layer timer loads the engine again.
    """

    def __init__(self, engine: Engine, manifest: Manifest, folder: OpenFolder | None = None) -> None:
        self.manifest = manifest
        self._folder = folder
        self._engine = LockedEngine(engine, manifest)
        self.inputs = self._engine.inputs
        self.outputs = self._engine.outputs
        self._device = DeviceDetection(manifest, self.inputs, self.outputs, self._engine.opened, self._engine.lock)

    def __enter__(self) -> Session:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._engine.is_closed else specs_text(self.inputs, self.manifest.shapes)
        return f"<Session {self.manifest.name} {self.manifest.precision} on {self.manifest.backend}: {state}>"

    def __reduce__(self) -> NoReturn:
        raise UsageError(
            f"the session of '{self.manifest.name}' cannot be copied or pickled: it holds a loaded engine",
            hint="load the engine again, in each process that needs it: edgekit.load(path)",
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for the user from the build, from the loaded engine, and about what runs on the CPU in its place."""
        return (*self.manifest.notes, *self._engine.notes, *self._device.notes)

    def close(self) -> None:
        """Closes the engine after the current run, if any; a second call does nothing.

        Runs of `run_async` that have not begun are not executed; their ``result()`` raises `RunError`.
        """
        with ExitStack() as stack:
            if self._folder is not None:
                stack.callback(self._folder.close)
            self._engine.close(first=self._device.close)

    @property
    def graph(self) -> Path | None:
        """The graph that the engine was built from, of the same version of the bundle; None without a bundle."""
        return None if self._folder is None else self._folder.at / GRAPH

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """Runs the engine on arrays by name and returns its outputs by name.

        If an input is an array in the memory of the GPU (PyTorch, CuPy, or any other with DLPack or
        ``__cuda_array_interface__``), it is read there, and the outputs are `DeviceArray`, which stay there.

        Types and shapes must be those of the engine, but an input of float32 also takes FP16, BF16 and FP64 from the
        host. Arrays of other libraries on the host, such as PyTorch's tensors, are read without a copy if they convert
        to NumPy's (``__array__``); the outputs are NumPy's. Dynamic sizes must be in the range that it was built for;
        memory order and byte order may differ. Values are not checked: NaN is passed on. The caller owns the outputs.
        They may be views that are not contiguous; use `numpy.ascontiguousarray` for C order.

        Raises:
            RunError: an input is missing, unknown, no array, of another type or shape, or out of range; the session is
                closed.
        """
        if are_ready(feeds, self.inputs):
            return self._engine.run(feeds)
        if isinstance(feeds, Mapping) and any(map(is_on_device, feeds.values())):
            return dict(self._engine.run_on_device(feeds, self.manifest))
        return self._engine.run(host_arrays(checked(feeds, self.inputs, self.manifest)))

    def run_async(self, feeds: Mapping[str, Any]) -> Pending[dict[str, np.ndarray]]:
        """Starts a run and returns immediately; ``result()`` of the returned object waits for the outputs.

        Runs execute in the order in which they were started. The caller may change the arrays after the call. On a
        GPU, at most two runs are in flight, so that copying the second overlaps computing the first; a third call waits
        for the first run.

        Raises:
            RunError: as in `run`.
        """
        return self._engine.run_async(host_arrays(checked(feeds, self.inputs, self.manifest)))

    def share_processors(self) -> None:
        """Lets other work run on the processors that an engine's waiting threads would keep, as in a video's stages.

        Raises:
            RunError: the session is closed.
        """
        self._engine.share_processors()

    @property
    def starts_runs(self) -> bool:
        """Whether runs are in flight without a thread of the host, as on a GPU."""
        return self._engine.starts_runs

    def stream(
        self,
        frames: Iterable[Any] | str | Path | Source,
        *,
        format: Format = "rgb",
        batch: int | None = None,
        track: bool = False,
        **options: Any,
    ) -> Iterator[Any]:
        """Yields the result of each frame, for video.

        Of a source (a video file, a folder, ``camera:0``, ``rtsp://``; see `given_sources`), the results are
        `Streamed`: frame, result and times. Decoding, preprocessing, inference and postprocessing run in threads of
        their own; see `SourceStream`, which is returned.

        Of other frames, an iterable of images, as in `detect`, or of inputs by name, as in `run`, the results are those
        of `detect` or `classify`, or the outputs by name. The result of a frame is yielded after the next frame is
        read; at most two frames are in memory.

        Args:
            frames: a source; or the frames in order, which may be infinite.
            format: pixel format of images that are arrays; see `detect`.
            batch: of a source: how many frames run at once, if the engine takes several.
            track: of a source: follow the objects from frame to frame by ByteTrack; the results have ``tracks``.
            options: options of `detect` or `classify`. Results do not keep the frames: pass one to ``plot``.

        Raises:
            BackendUnavailable: a package that the source needs is not installed.
            DataError: an image or the source cannot be read.
            RunError: as in `run`, when the frame is started or its result is yielded.
            UsageError: an option is out of range, or the engine does not take such a batch.
        """
        task_of(self.manifest).require_parameters(options, "stream")
        if isinstance(frames, (str, Path, Source)):
            return stream_of_source(self, frames, batch=batch, track=track, **options)
        if batch is not None or track is not False:
            raise UsageError(f"stream: {argument('batch' if track is False else 'track')} expects a source, got frames")
        if not isinstance(frames, Iterable):
            got = type(frames).__name__
            raise UsageError(
                f"stream: expected a source or an iterable of frames, got {got}", hint="detect() takes one image"
            )
        return stream_of_frames(self, frames, format, options)

    def detect_on_device(
        self, image: ImageSource, format: Format, *, score_threshold: float, iou_threshold: float, max_detections: int
    ) -> Pending[np.ndarray] | None:
        """Starts a detection whose every step runs on the GPU; `detect` and `stream` use it.

        Returns:
            The detections to be, of type `edgekit.kernels.decode.device.DETECTION`. None if a step has to run on the
            CPU: the engine runs there, or more detections are wanted than the GPU's kernels compare, or for the reason
            that is in `notes`.

        Raises:
            DataError: the image cannot be read.
            RunError: the run failed, or the session is closed.
        """
        return self._device.start(
            image,
            format,
            score_threshold=score_threshold,
            iou_threshold=iou_threshold,
            max_detections=max_detections,
        )

    def layer_timer(self) -> LayerTimer:
        """Loads another instance of the engine, which times each layer; the caller closes it.

        Raises:
            RunError: the backend does not report the times of layers, or the session is closed.
        """
        return self._engine.layer_timer(nullcontext if self._folder is None else self._folder.named)

    def preprocess(self, image: ImageSource, *, format: Format = "rgb") -> tuple[dict[str, np.ndarray], Placement]:
        """Converts an image to inputs for `run`; also returns its placement in the input.

        If the engine has dynamic image sizes, the image is resized to the opt size.

        Args:
            image: a file, a Pillow image, or a uint8 array; of shape ``(H, W, 3)`` in RGB.
            format: pixel format of an array; see `edgekit.data.frames.frame_size` for the shapes.

        Raises:
            DataError: the image cannot be read.
            RunError: the engine does not take images, or does not support a batch of 1.
        """
        how = self.manifest.preprocess
        if how is None or len(self.inputs) != 1:
            raise RunError(
                f"'{self.manifest.name}': expected an engine that takes images, got one for task "
                f"'{self.manifest.task}' with the inputs {', '.join(spec.name for spec in self.inputs)}",
                hint="pass arrays to run()",
            )
        spec = self.inputs[0]
        first = sizes_of(spec, self.manifest.shapes)[0]
        if not sizes_take([first], [1]):
            raise RunError(
                f"input '{spec.name}': expected an engine with batch size 1, got one built for {first}",
                hint="give it a list of images, as in predict([image]), or build it with a batch size of 1",
            )
        if is_on_device(image):
            image = self._engine.copied_to_host(image)
        if isinstance(image, np.ndarray):
            image = rgb_frame(image, format)
        # The engine's inputs may be half precision, or bytes.
        batch, placement = preprocess(image, how, specs_at([spec], self.manifest.shapes)[0].shape, spec.dtype)
        return {spec.name: batch}, placement

    def postprocess(
        self,
        outputs: Mapping[str, np.ndarray],
        placement: Placement,
        *,
        score_threshold: float | None = None,
        iou_threshold: float | None = None,
        max_detections: int | None = None,
        multi_label: bool | None = None,
    ) -> Detections:
        """Converts the outputs of `run` to detections; see `detections_from_outputs`."""
        return detections_from_outputs(
            outputs,
            self.manifest,
            placement,
            score_threshold=score_threshold,
            iou_threshold=iou_threshold,
            max_detections=max_detections,
            multi_label=multi_label,
        )

    def predict(self, image: ImageSource | Images, *, format: Format = "rgb", **options: Any) -> Any:
        """Returns the result of an engine for any task with images, of the task's own type.

        ============  ====================
        task          result
        ============  ====================
        ``detect``    `Detections`
        ``segment``   `Segments`
        ``pose``      `Poses`
        ``obb``       `RotatedDetections`
        ``classify``  `Classes`
        ============  ====================

        Args:
            image: a file, a Pillow image, or a uint8 array, see `detect`; or a list of images, which run together as
                far as the engine was built for a batch. Its result is a list.
            format: pixel format of an array; see `detect`.
            options: those of `detect` or `classify`.

        Raises:
            DataError: the image cannot be read.
            RunError: the engine does not take images, or the session is closed.
            UsageError: an option is unknown or out of range.
        """
        task = task_of(self.manifest)
        if not isinstance(task, ImageTask):
            raise RunError(
                f"'{self.manifest.name}': expected an engine that takes images, got one for task "
                f"'{self.manifest.task}'",
                hint=task.method,
            )
        task.require_parameters(options, "predict")
        if isinstance(image, (list, tuple)):
            return task.predict_all(self, image, format=format, **options)
        return task.predict(self, image, format=format, **options)

    @overload
    def detect(
        self,
        image: ImageSource,
        *,
        format: Format = ...,
        score_threshold: float | None = ...,
        iou_threshold: float | None = ...,
        max_detections: int | None = ...,
        multi_label: bool | None = ...,
    ) -> Detections: ...
    @overload
    def detect(
        self,
        image: Images,
        *,
        format: Format = ...,
        score_threshold: float | None = ...,
        iou_threshold: float | None = ...,
        max_detections: int | None = ...,
        multi_label: bool | None = ...,
    ) -> list[Detections]: ...

    def detect(
        self,
        image: ImageSource | Images,
        *,
        format: Format = "rgb",
        score_threshold: float | None = None,
        iou_threshold: float | None = None,
        max_detections: int | None = None,
        multi_label: bool | None = None,
    ) -> Detections | list[Detections]:
        """Finds objects in an image: `preprocess`, `run` and `postprocess` in one call.

        The result is of the type of the engine's task: `Detections`, or `Segments`, `Poses` and `RotatedDetections`,
        which have masks, key points and rotated boxes too.

        An engine on a GPU preprocesses, decodes and suppresses there too, without host synchronization in between.
        Where that is not possible, `notes` says why, and those steps run on the CPU, with the same results. Masks and
        key points are computed on the CPU.

        Args:
            image: a file, a Pillow image, or a uint8 array: on the host, or on the GPU (PyTorch, CuPy, or any other
                with DLPack or ``__cuda_array_interface__``), where it is read without a copy. Of a list of images, the
                result is a list; they run together as far as the engine was built for a batch.
            format: pixel format of an array. ``rgb`` and ``bgr`` have the shape ``(H, W, 3)``, ``rgba`` and ``bgra``
                ``(H, W, 4)``, ``gray`` ``(H, W)``, and ``nv12`` ``(H * 3 / 2, W)``.
            score_threshold: only detections with a greater score are returned. The default of this and of the other
                options is the recipe's value.
            iou_threshold: a box that overlaps a better one of its class by more than this is dropped.
            max_detections: maximum number of detections.
            multi_label: every class of a box whose score passes is a detection; otherwise only the best one, which is
                the default of every family's head. `edgekit.evaluate` takes every class.

        Raises:
            DataError: the image cannot be read.
            RunError: the engine is not a detector, or the session is closed.
            UsageError: a threshold is out of range.
        """
        task = task_of(self.manifest)
        detector = task if isinstance(task, DetectorTask) else DETECT  # which says that the engine is no detector
        options: dict[str, Any] = {
            "format": format,
            "score_threshold": score_threshold,
            "iou_threshold": iou_threshold,
            "max_detections": max_detections,
            "multi_label": multi_label,
        }
        if isinstance(image, (list, tuple)):
            return list(detector.predict_all(self, image, **options))
        found: Detections = detector.predict(self, image, **options)
        return found

    def classify(self, image: ImageSource, *, format: Format = "rgb", top: int = 5) -> Classes:
        """Classifies an image: returns the most probable classes, best first.

        Args:
            image: a file, a Pillow image, or a uint8 array.
            format: pixel format of an array; see `detect`.
            top: maximum number of classes.

        Raises:
            DataError: the image cannot be read.
            RunError: the engine is not an image classifier, or the session is closed.
            UsageError: ``top`` is no whole number from 1 on.
        """
        return CLASSIFY.predict(self, image, format=format, top=top)

    def translate(self, text: str) -> str:
        """Translates a text with greedy decoding.

        Characters and words that are not in the vocabulary become the unknown token.

        Raises:
            RunError: the text is too long; the engine is not a translator, or does not support a batch of 1.
        """
        return TRANSLATE.predict(self, text)

    def tokens(self, source: np.ndarray) -> list[list[int]]:
        """Translates each row of ``source`` to tokens with greedy decoding; see `greedy_tokens`.

        Args:
            source: token ids of each text, then the end token, then padding; int64, shape ``(N, S)``.

        Raises:
            RunError: as in `run`; or the engine is not a translator.
        """
        return TRANSLATE.tokens(self, source)
