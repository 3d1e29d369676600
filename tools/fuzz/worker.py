"""The child process of a campaign: runs inputs until its time of the processor is over, and records findings."""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from edgekit.errors import EdgeKitError
from tools.fuzz.mutate import mutated

__all__ = ["Growth", "Hang", "finding_of", "main"]

SECONDS = 5.0
MEMORY_BYTES = 1 << 30


class Hang(BaseException):
    """A reader has computed for more than 5 s. No `Exception`, so that nothing converts it."""


def finding_of(name: str, content: bytes, folder: Path) -> str:
    """Reads an input; returns what is wrong with that, or an empty text.

    The time is that of the processor, so that other programs make no difference.
    """
    from tools.fuzz.targets import TARGETS

    try:
        with _limited_time():
            TARGETS[name].read(content, folder)
    except EdgeKitError as e:
        return "" if e.message else "an error without a message"
    except Hang:
        return f"more than {SECONDS:g} s"
    except Exception as e:
        last = traceback.extract_tb(e.__traceback__)[-1]
        own = [frame for frame in traceback.extract_tb(e.__traceback__) if "/edgekit/" in frame.filename]
        at = own[-1] if own else last
        return f"{type(e).__name__} in {Path(at.filename).name}:{at.lineno}: {str(e)[:120]}"
    return ""


@contextmanager
def _limited_time() -> Iterator[None]:
    def stop(_number: int, _frame: FrameType | None) -> None:
        raise Hang

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        # By default the signal ends the process, and one that was sent before may still come.
        signal.signal(signal.SIGPROF, signal.SIG_IGN if before == signal.SIG_DFL else before)


class _Run:
    """Counts runs and writes findings, each kind once."""

    def __init__(self, name: str, seconds: float, folder: Path) -> None:
        self.name, self.folder = name, folder
        self.runs = 0
        self.newest: float | None = None
        """At how many seconds an input last reached new code; nothing without coverage."""
        self.findings: dict[str, str] = {}
        self.limits_memory = False
        self._begin = time.process_time()
        self._seconds = seconds
        self._scratch = tempfile.TemporaryDirectory()
        self._written = 0.0

    @property
    def is_over(self) -> bool:
        return self.seconds > self._seconds

    @property
    def seconds(self) -> float:
        """Time of the processor that the runs have taken, so that a busy machine shortens no campaign."""
        return time.process_time() - self._begin

    def take(self, content: bytes) -> None:
        (self.folder / "current").write_bytes(content)  # for the case that the process ends
        place = Path(self._scratch.name)
        found = finding_of(self.name, content, place)
        if self.limits_memory and found.startswith("MemoryError"):
            # The corpus of libFuzzer grows to hundreds of megabytes in a long campaign, and counts too.
            limit_memory()
            found = finding_of(self.name, content, place)
        self.runs += 1
        kind = found.partition(":")[0] + ":" + found.partition(":")[2].partition(":")[0]
        if found and kind not in self.findings:
            self.findings[kind] = found
            (self.folder / f"{self.name}-{len(self.findings)}").write_bytes(content)
        if found or time.monotonic() > self._written + 1:
            self.write()

    def write(self) -> None:
        self._written = time.monotonic()
        findings = list(self.findings.values())
        result = {"runs": self.runs, "seconds": self.seconds, "findings": findings, "newest": self.newest}
        partial = self.folder / "result.partial"
        partial.write_text(json.dumps(result))
        partial.replace(self.folder / "result.json")  # whole at every moment, for a campaign that is stopped


def limit_memory() -> None:
    """Lets this process take `MEMORY_BYTES` more than it has now."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, resource.RLIM_INFINITY))


class Growth:
    """Whether a corpus has grown: libFuzzer adds a file for new code, and replaces one by a shorter input."""

    def __init__(self, corpus: Path) -> None:
        self._corpus = corpus
        self._changed, self._files = self._state()

    def has_grown(self) -> bool:
        """Whether there are more files than when it was asked before; folders that did not change are not listed."""
        if self._corpus.stat().st_mtime_ns == self._changed:
            return False
        before = self._files
        self._changed, self._files = self._state()
        return self._files > before

    def _state(self) -> tuple[int, int]:
        return self._corpus.stat().st_mtime_ns, len(os.listdir(self._corpus))


def _fuzz_by_mutation(run: _Run, seeds: list[bytes], seed: int) -> None:
    generator = random.Random(seed)
    while not run.is_over:
        run.take(mutated(generator.choice(seeds), generator, seeds))


def _fuzz_by_coverage(run: _Run, seeds: list[bytes], seed: int, corpus: Path) -> None:
    import atheris

    corpus.mkdir(parents=True, exist_ok=True)
    for index, content in enumerate(seeds):
        (corpus / f"seed-{index}").write_bytes(content)
    growth = Growth(corpus)
    run.newest = 0.0

    def take(content: bytes) -> None:
        if growth.has_grown():
            run.newest = run.seconds
        run.take(content)
        if run.is_over:  # libFuzzer itself ends by the clock on the wall only
            run.write()
            os._exit(0)

    limits = ["-timeout=60", "-rss_limit_mb=0", "-max_len=65536"]
    quiet = ["-verbosity=0", "-print_final_stats=0", f"-artifact_prefix={run.folder}/"]
    atheris.Setup([sys.argv[0], str(corpus), *limits, *quiet, f"-seed={seed + 1}"], take)
    atheris.Fuzz()


def main() -> None:
    """Runs a target; the parent process starts it as ``python -m tools.fuzz.worker``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("target")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--coverage", action="store_true")
    parser.add_argument("--corpus", type=Path, help="folder of inputs that reached new code; it is read and added to")
    options = parser.parse_args()
    if options.coverage:
        import atheris

        with atheris.instrument_imports(include=["edgekit"], exclude=["edgekit.errors"]):
            from tools.fuzz.targets import TARGETS
    else:
        from tools.fuzz.targets import TARGETS
    seeds = TARGETS[options.target].seeds()
    run = _Run(options.target, options.seconds, options.folder)
    for content in seeds:  # what is imported on first use is no part of an input's memory
        run.take(content)
    limit_memory()
    run.limits_memory = True
    if options.coverage:
        _fuzz_by_coverage(run, seeds, options.seed, options.corpus or options.folder / "corpus")
    else:
        _fuzz_by_mutation(run, seeds, options.seed)
    run.write()


if __name__ == "__main__":
    main()
