"""An engine file of TensorRT's, deserialized: once for all who load it, with its weights put back if it has none."""

from __future__ import annotations

import hashlib
import mmap
import os
import threading
from pathlib import Path
from typing import Any

from edgekit.engine.tensorrt.log import made_with_log, process_log
from edgekit.errors import EngineMismatch, RunError
from edgekit.storage import cache_folder, write_atomic

__all__ = ["Plan", "RuntimeCache"]

# What weights are put back from, beside the plan.
GRAPH = "graph.onnx"

# A version-compatible plan has a runtime in it: code of whoever has built it, which is run by who says so alone.
TRUST = "EDGEKIT_ENGINE_CODE"

REBUILD = "rebuild it with edgekit build, or on this machine with edgekit compile"

_plans: dict[tuple[str, str, int, int], Plan] = {}
_lock = threading.Lock()


class Plan:
    """A deserialized engine, which all sessions of this process share: its weights are on the device once.

    Attributes:
        engine: TensorRT's ``ICudaEngine``.
    """

    def __init__(self, library: Any, file: Path, key: tuple[str, str, int, int]) -> None:
        self._key = key
        self._users = 0
        self._runtime: Any = _runtime(library)
        self.engine: Any = _deserialized(library, self._runtime, file)
        if self.engine.refittable:
            _put_weights_back(library, self.engine, file)

    @classmethod
    def acquire(cls, library: Any, file: Path) -> Plan:
        """The engine in ``file``, deserialized now if nobody here uses it yet; to be released as often.

        The CUDA context is current.

        Raises:
            EngineMismatch: the file cannot be read, or TensorRT does not take it, in its own words.
        """
        try:
            status = file.stat()
        except OSError as e:
            raise EngineMismatch(f"cannot read {file}: {e.strerror}", hint=REBUILD) from e
        key = (library.__name__, str(file.resolve()), status.st_mtime_ns, status.st_size)
        with _lock:
            plan = _plans.get(key) or cls(library, file, key)
            _plans[key] = plan
            plan._users += 1
            return plan

    def release(self) -> None:
        """Gives the engine back if nobody here uses it any more."""
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
    except (RuntimeError, TypeError) as e:  # TypeError: what pybind11 makes of a factory that gives nothing
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
        raise EngineMismatch(f"cannot load {file}: {e}", hint=REBUILD) from e
    if engine is None:
        reason = words.take() or "it gives no reason"
        code = not trusted and "HostCodeAllowed" in reason
        hint = f"it has a runtime of its own in it, which is run if you trust it: {TRUST}=1" if code else REBUILD
        raise EngineMismatch(f"{_title(library)} does not take {file}: {reason}", hint=hint)
    return engine


def _put_weights_back(library: Any, engine: Any, file: Path) -> None:
    """Refits an engine that was written without weights."""
    if not _stripped(library, engine):
        return
    graph = file.parent / GRAPH
    if not graph.is_file():
        raise EngineMismatch(f"{file} has no weights, and there is no {GRAPH} beside it to take them from")
    words = process_log(library)
    words.take()
    refitter = made_with_log(library.Refitter, engine, words)
    parser = library.OnnxParserRefitter(refitter, words)
    if not parser.refit_from_file(str(graph)) or not refitter.refit_cuda_engine():
        reason = words.take() or "it gives no reason"
        raise EngineMismatch(f"{_title(library)} cannot put the weights of {graph} into {file}: {reason}", hint=REBUILD)


def _stripped(library: Any, engine: Any) -> bool:
    """Whether the plan was written without weights; where the library cannot tell, putting them back does no harm."""
    if not hasattr(library, "EngineStat"):
        return hasattr(library, "OnnxParserRefitter")
    return int(engine.get_engine_stat(library.EngineStat.STRIPPED_WEIGHTS_SIZE)) > 0


def _title(library: Any) -> str:
    return f"{library.__name__} {library.__version__}"


class RuntimeCache:
    """What TensorRT-RTX has compiled for this GPU, kept in a file so that the next start is fast.

    The file stands beside the plan, hidden, since it is no part of the bundle; where that folder cannot be written,
    in the user's cache. The library itself refuses one of another GPU, driver or version.

    Args:
        config: TensorRT-RTX's ``IRuntimeConfig``, which gets the cache.
        plan: file of the engine.
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
        """Writes the file if there is anything new.

        Returns:
            Why it could not be written, or nothing.
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
        return f"what was compiled for this GPU could not be kept for the next start: {reason}"


def _cache_files(plan: Path) -> tuple[Path, Path]:
    place = str(plan.resolve())
    name = f"{plan.stem}-{hashlib.sha256(place.encode()).hexdigest()[:16]}.cache"
    return plan.parent / f".{plan.name}.runtime-cache", cache_folder() / "runtime" / name
