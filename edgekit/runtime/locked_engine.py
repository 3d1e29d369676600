"""An engine that runs for one thread at a time, until it is closed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import numpy as np

from edgekit.device.cuda.arrays import DeviceArray
from edgekit.engine.backend import Engine
from edgekit.engine.bundle.manifest import Manifest
from edgekit.engine.layer_timer import LayerTimer, TimesLayers
from edgekit.errors import RunError
from edgekit.runtime.on_device import copied_to_host, run_on_device
from edgekit.runtime.stream import Pending, RunsOnDevice, SharesProcessors, StartsRuns

__all__ = ["LockedEngine"]


class LockedEngine:
    """Runs an engine under a lock; every method but `close` raises `RunError` once it is closed.

    Args:
        engine: the loaded engine; `close` closes it.
        manifest: the manifest of its bundle.

    Attributes:
        inputs: specifications of the engine's inputs.
        outputs: specifications of its outputs.
        lock: held while the engine runs.
    """

    def __init__(self, engine: Engine, manifest: Manifest) -> None:
        self.inputs = tuple(engine.inputs)
        self.outputs = tuple(engine.outputs)
        self.lock = threading.Lock()
        self._engine: Engine | None = engine
        self._manifest = manifest
        self._starting = threading.Lock()
        self._closing = False  # set without the lock, so that no run starts while `close` waits for the lock
        self._worker: ThreadPoolExecutor | None = None

    @property
    def is_closed(self) -> bool:
        """Whether the engine is closed."""
        return self._engine is None

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes of the engine; none once it is closed."""
        return () if self._engine is None else tuple(self._engine.notes)

    @property
    def starts_runs(self) -> bool:
        """Whether runs are in flight without a thread of the host, as on a GPU."""
        return isinstance(self._engine, (RunsOnDevice, StartsRuns))

    def opened(self) -> Engine:
        """Returns the engine; what runs it holds the lock."""
        if self._engine is None or self._closing:
            raise RunError(f"'{self._manifest.name}': expected an open session, got a closed one")
        return self._engine

    def run(self, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Runs the engine on arrays that fit its inputs."""
        with self.lock:
            return self.opened().run(arrays)

    def run_async(self, arrays: dict[str, np.ndarray]) -> Pending[dict[str, np.ndarray]]:
        """Starts a run on arrays that fit the inputs, which the caller may change after the call."""
        if isinstance(self.opened(), StartsRuns):
            with self.lock:
                engine = self.opened()
                assert isinstance(engine, StartsRuns)
                return engine.run_async(arrays)
        # Not under the engine's lock, which the previous run holds until it is done.
        with self._starting:
            self.opened()
            if self._worker is None:
                self._worker = ThreadPoolExecutor(1, thread_name_prefix="edgekit")
            return self._worker.submit(self.run, {name: array.copy() for name, array in arrays.items()})

    def run_on_device(self, feeds: Mapping[str, Any], manifest: Manifest) -> dict[str, DeviceArray]:
        """Runs the engine on arrays of which some are in the memory of its GPU, where the outputs stay."""
        with self.lock:
            return run_on_device(self._on_device(), self.outputs, feeds, self.inputs, manifest)

    def copied_to_host(self, array: Any) -> np.ndarray:
        """Copies an array from the GPU, for a step that has to run on the CPU."""
        with self.lock:
            return copied_to_host(self._on_device(), array)

    def share_processors(self) -> None:
        """Lets other work run on the processors that the engine's waiting threads would keep."""
        engine = self.opened()
        if isinstance(engine, SharesProcessors):
            engine.share_processors()

    def layer_timer(self, names: Callable[[], AbstractContextManager[None]]) -> LayerTimer:
        """Loads another instance of the engine, which times each layer; ``names`` corrects the messages of errors."""
        with self.lock:
            engine = self.opened()
            if not isinstance(engine, TimesLayers):
                raise RunError(
                    f"'{self._manifest.name}': expected a backend that reports the times of layers, got "
                    f"'{self._manifest.backend}', which does not",
                    hint="build it for another target, such as cpu",
                )
            with names():
                return engine.layer_timer()

    def close(self, first: Callable[[], None]) -> None:
        """Closes the engine after the current run, if any, and after ``first``; a second call closes nothing.

        Runs of `run_async` that have not begun are not executed.
        """
        self._closing = True
        with self.lock, self._starting:
            engine, self._engine = self._engine, None
            worker, self._worker = self._worker, None
            if worker is not None:
                worker.shutdown(wait=False)
            with ExitStack() as stack:
                if engine is not None:
                    stack.callback(engine.close)
                first()

    def _on_device(self) -> RunsOnDevice:
        engine = self.opened()
        if isinstance(engine, RunsOnDevice):
            return engine
        raise RunError(
            f"'{self._manifest.name}': expected numpy arrays for an engine on the CPU, got arrays on a GPU",
            hint="copy them first: x.cpu().numpy()",
        )
