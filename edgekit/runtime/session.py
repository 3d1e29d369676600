"""A loaded engine that checks what it is given: arrays in and out, or a picture in and detections or classes out."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from edgekit.data.images import ImageSource, Placement, preprocess
from edgekit.engine.backend import Engine, backend
from edgekit.engine.bundle.manifest import Manifest, read_bundle
from edgekit.errors import RunError, nearest
from edgekit.runtime.stream import Pending, StartsRuns
from edgekit.runtime.tasks.classify import TASK as CLASSIFY
from edgekit.runtime.tasks.classify import Classes
from edgekit.runtime.tasks.detect import TASK as DETECT
from edgekit.runtime.tasks.detect import Detections, detections_from_outputs
from edgekit.runtime.tasks.translate import TASK as TRANSLATE
from edgekit.specs import Size, SizeRange, TensorSpec, sizes_of, sizes_take, specs_at, specs_text

__all__ = ["Session", "session_from_bundle"]

# While one frame is computed the next is made ready; more would only be late.
IN_FLIGHT = 2


def session_from_bundle(path: str | Path, *, threads: int = 0) -> Session:
    """Loads the engine of a bundle.

    Args:
        path: the bundle's folder.
        threads: threads that the engine runs on; 0 leaves it to the backend.

    Raises:
        EngineMismatch: the bundle was built for another machine or backend, or was changed since.
        BackendUnavailable: the backend that it was built for is not installed here.
    """
    bundle = read_bundle(Path(path))
    target = backend(bundle.manifest.backend)
    return Session(target.load(bundle.path / bundle.manifest.engine, threads=threads), bundle.manifest)


class Session:
    """An engine and what is known of it; a context manager, which closes it.

    Several threads may use a session. The engine runs for one of them at a time, under a lock; what happens to a
    picture before and to its detections after runs side by side.

    Args:
        engine: the loaded engine; the session closes it.
        manifest: what is known of it.
    """

    def __init__(self, engine: Engine, manifest: Manifest) -> None:
        self.manifest = manifest
        self._engine: Engine | None = engine
        self._lock = threading.Lock()
        self._starting = threading.Lock()
        self._closing = False  # set without the lock, so that no further run begins before it is ours
        self._worker: ThreadPoolExecutor | None = None
        self.inputs = tuple(engine.inputs)
        self.outputs = tuple(engine.outputs)

    def __enter__(self) -> Session:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._engine is None else specs_text(self.inputs, self.manifest.shapes)
        return f"<Session {self.manifest.name} {self.manifest.precision} on {self.manifest.backend}: {state}>"

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user has to know: of how the engine was built, and of how it runs here."""
        return (*self.manifest.notes, *(self._engine.notes if self._engine is not None else ()))

    def close(self) -> None:
        """Gives back what the engine holds, after the run that may be going on; a second call does nothing.

        Runs that were started with `run_async` and have not begun are refused; their `result` says so.
        """
        self._closing = True
        with self._lock, self._starting:
            engine, self._engine = self._engine, None
            worker, self._worker = self._worker, None
            if worker is not None:
                worker.shutdown(wait=False)
            if engine is not None:
                engine.close()

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name for inputs by name.

        Types and shapes must be the engine's own, and sizes that are chosen at run time in the range that it was built
        for; memory order and byte order need not be. Values are not looked at: NaN goes in as it is. Outputs are the
        caller's own, and may be views in another memory order; `numpy.ascontiguousarray` makes one in C order.

        Raises:
            RunError: an input is missing, unknown, of another type or shape, or out of range; the session is closed.
        """
        return self._run(_checked(feeds, self.inputs, self.manifest))

    def run_async(self, feeds: Mapping[str, np.ndarray]) -> Pending:
        """Starts a run and returns before it is done; ``result()`` of what it returns waits for the outputs.

        Runs are done in the order in which they were started. The arrays may be changed at once. On a GPU two runs are
        in flight at most, so that copying the second overlaps computing the first; the third waits for the first.

        Raises:
            RunError: as `run` does.
        """
        arrays = _checked(feeds, self.inputs, self.manifest)
        if isinstance(self._open_engine(), StartsRuns):
            with self._lock:
                engine = self._open_engine()
                assert isinstance(engine, StartsRuns)
                return engine.run_async(arrays)
        # Not under the engine's lock, which the run before this one holds until it is done.
        with self._starting:
            self._open_engine()
            if self._worker is None:
                self._worker = ThreadPoolExecutor(1, thread_name_prefix="edgekit")
            return self._worker.submit(self._run, {name: array.copy() for name, array in arrays.items()})

    def stream(self, frames: Iterable[Mapping[str, np.ndarray]]) -> Iterator[dict[str, np.ndarray]]:
        """Outputs of one frame after the other, for video: the next frame is taken and made ready meanwhile.

        So the outputs of a frame come when the next one has been taken, and two frames are held at most.

        Args:
            frames: inputs as `run` takes them, in order; may be endless.

        Raises:
            RunError: as `run` does, when it is that frame's turn.
        """
        pending: deque[Pending] = deque()
        for feeds in frames:
            pending.append(self.run_async(feeds))
            if len(pending) == IN_FLIGHT:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()

    def _run(self, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        with self._lock:
            return self._open_engine().run(arrays)

    def _open_engine(self) -> Engine:
        if self._engine is None or self._closing:
            raise RunError(f"session of '{self.manifest.name}': expected an open one, got a closed one")
        return self._engine

    def preprocess(self, image: ImageSource) -> tuple[dict[str, np.ndarray], Placement]:
        """A picture as `run` takes it, and its place in the input.

        Where the engine takes pictures of several sizes, it is made to fit the usual one.

        Args:
            image: a file, a Pillow image, or a uint8 RGB array of shape ``(H, W, 3)``.

        Raises:
            DataError: the picture cannot be read.
            RunError: the engine takes no pictures, or only several at once.
        """
        how = self.manifest.preprocess
        if how is None or len(self.inputs) != 1:
            raise RunError(
                f"'{self.manifest.name}': expected an engine that takes pictures, got one for task "
                f"'{self.manifest.task}' with the inputs {', '.join(spec.name for spec in self.inputs)}",
                hint="hand arrays to run()",
            )
        spec = self.inputs[0]
        first = sizes_of(spec, self.manifest.shapes)[0]
        if not sizes_take([first], [1]):
            raise RunError(
                f"input '{spec.name}': expected one picture at a time, got an engine built for {first}",
                hint="build it with a batch of 1, or hand arrays to run()",
            )
        batch, placement = preprocess(image, how, specs_at([spec], self.manifest.shapes)[0].shape)
        return {spec.name: np.asarray(batch, spec.dtype)}, placement  # half, where the engine's inputs are

    def postprocess(
        self,
        outputs: Mapping[str, np.ndarray],
        placement: Placement,
        *,
        score_threshold: float | None = None,
        iou_threshold: float | None = None,
        max_detections: int | None = None,
    ) -> Detections:
        """Detections out of what `run` has returned; see `detections_from_outputs`."""
        return detections_from_outputs(
            outputs,
            self.manifest,
            placement,
            score_threshold=score_threshold,
            iou_threshold=iou_threshold,
            max_detections=max_detections,
        )

    def detect(
        self,
        image: ImageSource,
        *,
        score_threshold: float | None = None,
        iou_threshold: float | None = None,
        max_detections: int | None = None,
    ) -> Detections:
        """Finds objects in a picture: `preprocess`, `run` and `postprocess` in one.

        Args:
            image: a file, a Pillow image, or a uint8 RGB array of shape ``(H, W, 3)``.
            score_threshold: a detection's score is greater; the recipe's where none is given, as with the others.
            iou_threshold: a box that overlaps a better one of its class by more than this is dropped.
            max_detections: at most so many.

        Raises:
            DataError: the picture cannot be read.
            RunError: the engine is no detector, or the session is closed.
            UsageError: a threshold is out of range.
        """
        return DETECT.answer(
            self,
            image,
            score_threshold=score_threshold,
            iou_threshold=iou_threshold,
            max_detections=max_detections,
        )

    def classify(self, image: ImageSource, *, top: int = 5) -> Classes:
        """The likeliest classes of a picture with their probabilities, best first.

        Args:
            image: a file, a Pillow image, or a uint8 RGB array of shape ``(H, W, 3)``.
            top: at most so many.

        Raises:
            DataError: the picture cannot be read.
            RunError: the engine is no classifier of pictures, or the session is closed.
            UsageError: ``top`` is less than 1.
        """
        return CLASSIFY.answer(self, image, top=top)

    def translate(self, text: str) -> str:
        """The text that the engine makes of ``text``, decoded greedily.

        Characters and words that its vocabulary lacks are handed to it as unknown ones.

        Raises:
            RunError: the text is too long; the engine is no translator, or takes several texts at once.
        """
        return TRANSLATE.answer(self, text)

    def tokens(self, source: np.ndarray) -> list[list[int]]:
        """The tokens that a translator writes for each row of ``source``, decoded greedily; see `greedy_tokens`.

        Args:
            source: numbers of tokens, the one that ends a text behind it, then padding; int64, shape ``(N, S)``.

        Raises:
            RunError: as `run` does; or the engine is no translator.
        """
        return TRANSLATE.tokens(self, source)


def _checked(feeds: Any, specs: tuple[TensorSpec, ...], manifest: Manifest) -> dict[str, np.ndarray]:
    """The arrays as an engine takes them: contiguous, in native byte order."""
    names = [spec.name for spec in specs]
    if not isinstance(feeds, Mapping):
        raise RunError(
            f"inputs: expected a dictionary of arrays by name, got {type(feeds).__name__}",
            hint=f"names: {', '.join(names)}",
        )
    for name in feeds:
        if name not in names:
            raise RunError(f"unknown input '{name}'", hint=nearest(str(name), names))
    chosen: dict[str, int] = {}
    return {spec.name: _checked_array(feeds, spec, chosen, manifest) for spec in specs}


def _checked_array(
    feeds: Mapping[str, Any], spec: TensorSpec, chosen: dict[str, int], manifest: Manifest
) -> np.ndarray:
    sizes = sizes_of(spec, manifest.shapes)
    expected = f"input '{spec.name}': expected {spec.dtype} ({_dimensions(sizes)})"
    if spec.name not in feeds:
        raise RunError(f"{expected}, got nothing", hint=f"given: {', '.join(map(str, feeds)) or 'no input at all'}")
    array = feeds[spec.name]
    if not isinstance(array, np.ndarray):
        raise RunError(f"{expected}, got {type(array).__name__}", hint="numpy.asarray makes an array of it")
    got = f"({_dimensions(array.shape)})"
    if array.dtype.name != spec.dtype:
        raise RunError(f"{expected}, got {array.dtype.name} {got}", hint=f"convert it: array.astype('{spec.dtype}')")
    if not sizes_take(sizes, array.shape):
        raise RunError(f"{expected}, got {got}", hint=_shape_hint(array.shape, sizes, manifest.rebuild))
    # Not every engine keeps the names that dimensions have in the graph.
    named = next((own.shape for own in manifest.inputs if own.name == spec.name), spec.shape)
    for size, name in zip(array.shape, named, strict=True):
        if isinstance(name, str) and chosen.setdefault(name, size) != size:
            raise RunError(
                f"{expected}, got {got}: '{name}' is {chosen[name]} at an input before",
                hint="dimensions of one name have one size in a run",
            )
    return np.asarray(array, dtype=array.dtype.newbyteorder("="), order="C")


def _dimensions(shape: Sequence[Size | str]) -> str:
    return f"{shape[0]}," if len(shape) == 1 else ", ".join(map(str, shape))


def _shape_hint(got: tuple[int, ...], expected: Sequence[Size | str], rebuild: str) -> str:
    if expected[0] == 1 and sizes_take(expected[1:], got):
        return "add the batch's axis: array[None]"
    ranged = any(isinstance(size, SizeRange) for size in expected)
    if not ranged and len(got) == len(expected) == 4 and got[:2] == tuple(expected[:2]):
        return f"build it with --shape {got[2]}x{got[3]}"
    if not rebuild:
        return ""
    return f"build it for {'another range' if ranged else 'another shape'}: {rebuild}"
