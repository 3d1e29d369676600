"""Deserializes TensorRT plan files, once per process, and refits the weights of weight-stripped plans."""

from __future__ import annotations

import hashlib
import mmap
import os
import threading
from pathlib import Path
from typing import Any

from edgekit.arguments import either
from edgekit.engine.tensorrt.log import made_with_log, process_log
from edgekit.errors import EngineMismatch, RunError
from edgekit.storage import cache_folder, write_atomic

__all__ = ["Plan", "RuntimeCache"]

# The file next to the plan that weights are refitted from.
GRAPH = "graph.onnx"

# A version-compatible plan contains a runtime, that is code from its builder, which runs only if this is set to 1.
TRUST = "EDGEKIT_ENGINE_CODE"

_plans: dict[tuple[str, str, int, int], Plan] = {}
_lock = threading.Lock()


class Plan:
    """A deserialized engine, shared by all sessions of this process, so that its weights are on the device once.

    Attributes:
        engine: TensorRT's ``ICudaEngine``.
    """

    def __init__(self, library: Any, file: Path, key: tuple[str, str, int, int]) -> None:
        self._key = key
        self._users = 0
        self._runtime: Any = _runtime(library)
        self.engine: Any = _deserialized(library, self._runtime, file)
        if self.engine.refittable:
            _refit_weights(library, self.engine, file)

    @classmethod
    def acquire(cls, library: Any, file: Path) -> Plan:
        """Returns the engine in ``file``, deserialized if this process does not use it yet; pair with `release`.

        The CUDA context must be current.

        Raises:
            EngineMismatch: the file cannot be read, or TensorRT rejects it; the message has TensorRT's reason.
        """
        try:
            status = file.stat()
        except OSError as e:
            raise EngineMismatch(f"cannot read {file}: {e.strerror}", hint=_rebuild()) from e
        key = (library.__name__, str(file.resolve()), status.st_mtime_ns, status.st_size)
        with _lock:
            plan = _plans.get(key) or cls(library, file, key)
            _plans[key] = plan
            plan._users += 1
            return plan

    def release(self) -> None:
        """Frees the engine if this process does not use it any more."""
        with _lock:
            self._users -= 1
            if not self._users:
                del _plans[self._key]
                self.engine = None
                self._runtime = None


def _runtime(library: Any) -> Any:
    words = process_log(library)
    words.take()
    try:
        return made_with_log(library.Runtime, words)
    except (RuntimeError, TypeError) as e:  # TypeError: pybind11 raises it if a factory returns null
        raise RunError(f"{_title(library)} does not start: {words.take() or e}") from e


def _deserialized(library: Any, runtime: Any, file: Path) -> Any:
    words = process_log(library)
    words.take()
    trusted = os.environ.get(TRUST) == "1"
    if hasattr(runtime, "engine_host_code_allowed"):
        runtime.engine_host_code_allowed = trusted
    try:
        with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            engine = runtime.deserialize_cuda_engine(data)
    except (OSError, ValueError, RuntimeError) as e:  # ValueError: the file is empty
        raise EngineMismatch(f"cannot load {file}: {e}", hint=_rebuild()) from e
    if engine is None:
        reason = words.take() or "it gives no reason"
        code = not trusted and "HostCodeAllowed" in reason
        hint = f"it contains a runtime of its own; if you trust it, set {TRUST}=1" if code else _rebuild()
        raise EngineMismatch(f"{_title(library)} does not take {file}: {reason}", hint=hint)
    return engine


def _refit_weights(library: Any, engine: Any, file: Path) -> None:
    """Refits an engine that was written without weights."""
    if not _stripped(library, engine):
        return
    graph = file.parent / GRAPH
    if not graph.is_file():
        raise EngineMismatch(f"{file} has no weights, and there is no {GRAPH} next to it to read them from")
    words = process_log(library)
    words.take()
    refitter = made_with_log(library.Refitter, engine, words)
    parser = library.OnnxParserRefitter(refitter, words)
    if not parser.refit_from_file(str(graph)) or not refitter.refit_cuda_engine():
        reason = words.take() or "it gives no reason"
        raise EngineMismatch(
            f"{_title(library)} cannot put the weights of {graph} into {file}: {reason}", hint=_rebuild()
        )


def _stripped(library: Any, engine: Any) -> bool:
    """Whether the plan was written without weights; True if unknown, since refitting is harmless."""
    if not hasattr(library, "EngineStat"):
        return hasattr(library, "OnnxParserRefitter")
    return int(engine.get_engine_stat(library.EngineStat.STRIPPED_WEIGHTS_SIZE)) > 0


def _title(library: Any) -> str:
    return f"{library.__name__} {library.__version__}"


class RuntimeCache:
    """TensorRT-RTX's runtime cache: kernels compiled for this GPU, in a file, so that the next start is fast.

    The file is next to the plan, hidden, since it is not part of the bundle; if that folder is not writable, it is in
    the user's cache. The library itself rejects a cache from another GPU, driver or version.

    Args:
        config: TensorRT-RTX's ``IRuntimeConfig``, which receives the cache.
        plan: the engine's file.
    """

    def __init__(self, config: Any, plan: Path) -> None:
        self._cache: Any = config.create_runtime_cache()
        self._files = _cache_files(plan)
        self._known = b""
        for file in self._files:
            try:
                blob = file.read_bytes()
            except OSError:
                continue  # the first start here
            if blob and self._cache.deserialize(blob):
                self._known = blob
                break
        config.set_runtime_cache(self._cache)

    def save(self) -> str:
        """Writes the file if the cache has changed.

        Returns:
            Why the file could not be written; empty on success.
        """
        memory = self._cache.serialize()
        blob = bytes(memory) if memory is not None else b""
        if blob == self._known:
            return ""
        reason = ""
        for file in self._files:
            try:
                write_atomic(file, blob)
            except OSError as e:
                reason = f"{file}: {e.strerror}"
            else:
                self._known = blob
                return ""
        return f"the runtime cache of kernels compiled for this GPU could not be written: {reason}"


def _cache_files(plan: Path) -> tuple[Path, Path]:
    place = str(plan.resolve())
    name = f"{plan.stem}-{hashlib.sha256(place.encode()).hexdigest()[:16]}.cache"
    return plan.parent / f".{plan.name}.runtime-cache", cache_folder() / "runtime" / name


def _rebuild() -> str:
    return either(
        "rebuild it with edgekit build, or on this machine with edgekit compile",
        "rebuild it with edgekit.build, or on this machine with edgekit.compile",
    )
