"""Measures the peaks of this machine's CPU: multiply-accumulates per second, and bandwidth by size of the working set.

The peaks are those that kernels reach, not those of a data sheet: large convolutions and matrix products through the
installed backends, and copies and reductions of numpy, each the best of several runs. They are measured once and kept
in the cache folder under the fingerprint of the machine. What instruction sets and the clock would allow is listed
beside them, marked as theoretical.
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from edgekit.device.cpu import Cpu, clock_mhz, cpu, last_cache_bytes
from edgekit.engine.backend import BuildOptions, backend
from edgekit.engine.bundle.manifest import timestamp
from edgekit.errors import UsageError, needs_extra
from edgekit.measure.machine import Machine, disturbance_by_others, processor_time, this_machine
from edgekit.measure.roofline import BandwidthLevel, Peaks
from edgekit.measure.theoretical_peaks import TheoreticalPeak, theoretical_peaks
from edgekit.progress import Progress, Warnings
from edgekit.scratch import scratch_folder
from edgekit.specs import Precision
from edgekit.storage import cache_folder, read_cached, write_cached
from edgekit.text import json_bytes, json_value

__all__ = [
    "BandwidthPeak",
    "ComputePeak",
    "MachinePeaks",
    "cached_peaks",
    "machine_peaks",
    "peaks_from_machine",
]

FORMAT = 1
BACKENDS = {"cpu": "onnxruntime", "openvino": "openvino"}
KERNEL_S = 0.2
"""Seconds for which one kernel is repeated; its fastest run counts."""
MIN_RUNS = 5
BANDWIDTH_S = 0.06
SMALLEST_BYTES = 2**15
LARGEST_BYTES = 2**29


class ComputePeak(msgspec.Struct, frozen=True, kw_only=True):
    """The fastest kernel in one precision.

    Attributes:
        precision: numpy's name of the element type.
        threads: number of threads.
        macs_per_s: multiply-accumulates per second.
        backend: the backend that has the kernel.
        kernel: what was computed.
    """

    precision: str
    threads: int
    macs_per_s: float
    backend: str
    kernel: str


class BandwidthPeak(msgspec.Struct, frozen=True, kw_only=True):
    """The highest bandwidth for one size of the working set.

    Attributes:
        working_set_bytes: size of all data that all threads use together.
        threads: number of threads.
        bytes_per_s: bytes read and written per second by the program; lines that a cache reads before it overwrites
            them do not count.
        kernel: ``copy`` or ``read``, whichever was faster.
    """

    working_set_bytes: int
    threads: int
    bytes_per_s: float
    kernel: str


class MachinePeaks(msgspec.Struct, frozen=True, kw_only=True):
    """The peaks of a machine; the file in the cache folder.

    Attributes:
        format: version of this format.
        fingerprint: of the machine and the libraries that were measured.
        machine: the machine.
        backends: version of each backend that was measured, by name.
        created: time of the measurement, ISO 8601, UTC.
        seconds: its duration.
        compute: the fastest kernel by precision and number of threads.
        bandwidth: by size of the working set, ascending, and number of threads.
        theoretical: what the instruction sets would allow; empty if the clock is not known.
        disturbance: load by other processes during the measurement, as a sentence; empty if there was none.
    """

    format: int = FORMAT
    fingerprint: str
    machine: Machine
    backends: dict[str, str]
    created: str
    seconds: float
    compute: tuple[ComputePeak, ...]
    bandwidth: tuple[BandwidthPeak, ...]
    theoretical: tuple[TheoreticalPeak, ...]
    disturbance: str = ""


def cached_peaks(folder: Path | None = None) -> MachinePeaks | None:
    """Returns the peaks that were measured on this machine before; None if there are none.

    Args:
        folder: where they are kept; default: the cache folder.
    """
    content = read_cached(_file(folder))
    try:
        found = json_value(content, type=MachinePeaks) if content else None
    except msgspec.MsgspecError:
        return None  # written by another version: measured again
    return found if found is not None and found.format == FORMAT else None


def machine_peaks(
    *, recalibrate: bool = False, progress: Progress | None = None, folder: Path | None = None
) -> MachinePeaks:
    """Returns the peaks of this machine; measures them for some seconds if they are not in the cache folder.

    Args:
        recalibrate: measure them again.
        progress: shows what is measured.
        folder: where they are kept; default: the cache folder.

    Raises:
        BackendUnavailable: ``onnx-ir`` or ONNX Runtime, which the measurement needs, is not installed.
        UsageError: the file cannot be written.
    """
    if not recalibrate and (found := cached_peaks(folder)) is not None:
        return found
    made = _measured(progress or Warnings())
    file = _file(folder)
    try:
        write_cached(file, json_bytes(made))
    except OSError as e:
        hint = "set EDGEKIT_CACHE to a folder that can be written"
        raise UsageError(f"{file}: cannot be written: {e.strerror}", hint=hint) from e
    return made


def peaks_from_machine(found: MachinePeaks, threads: int = 0) -> Peaks:
    """Returns the measured peaks for a number of threads.

    Args:
        found: the machine's peaks.
        threads: threads of the engine; 0: as many as backends use by default. A number that was not measured has the
            peaks of the next larger one, so that a bound stays a bound.
    """
    counts = sorted({peak.threads for peak in found.compute})
    threads = threads or cpu().compute_threads
    threads = next((count for count in counts if count >= threads), counts[-1])
    # An engine may use fewer threads than it has: the best of these counts too.
    macs_per_s: dict[str, float] = {}
    for peak in found.compute:
        if peak.threads <= threads:
            macs_per_s[peak.precision] = max(macs_per_s.get(peak.precision, 0.0), peak.macs_per_s)
    levels: list[BandwidthLevel] = []
    fastest = 0.0
    for size in sorted({peak.working_set_bytes for peak in found.bandwidth}, reverse=True):
        rates = [p.bytes_per_s for p in found.bandwidth if p.working_set_bytes == size and p.threads <= threads]
        # In small working sets numpy's calls take more time than its copies: a cache is as fast as the one behind it.
        fastest = max(fastest, *rates)
        levels.append(BandwidthLevel(working_set_bytes=size, bytes_per_s=fastest))
    return Peaks(
        name=found.machine.cpu,
        kind="measured",
        macs_per_s=macs_per_s,
        bytes_per_s=levels[0].bytes_per_s,
        levels=tuple(reversed(levels)),
        threads=threads,
    )


def _file(folder: Path | None) -> Path:
    return (folder or cache_folder() / "peaks") / f"{_fingerprint()}.json"


def _fingerprint() -> str:
    """Hashes what changes the peaks: processor, power mode, governor, and the versions of the libraries."""
    here = this_machine()
    facts = (FORMAT, here.cpu, here.arch, here.features, here.cores, here.threads, here.governor, here.board)
    versions = (here.numpy, *_versions().items())
    return hashlib.sha256(repr((facts, versions)).encode()).hexdigest()[:16]


def _versions() -> dict[str, str]:
    return {
        name: metadata.version(package)
        for name, package in BACKENDS.items()
        if importlib.util.find_spec(package) is not None
    }


def _thread_counts(here: Cpu) -> list[int]:
    """Every power of two below the number of threads, and that number."""
    most = here.compute_threads
    return sorted({most, *(1 << bit for bit in range(most.bit_length()) if 1 << bit < most)})


def _measured(progress: Progress) -> MachinePeaks:
    here, started = cpu(), time.perf_counter()
    before = processor_time()
    # Only the measurement needs packages that boards do not have.
    with needs_extra("measuring the peaks of this machine", "build"):
        compute = _compute_peaks(_thread_counts(here), progress)
    with progress.stage("measuring bandwidth"):
        bandwidth = tuple(_bandwidth_peaks(here))
    disturbed = disturbance_by_others(before, processor_time())
    return MachinePeaks(
        fingerprint=_fingerprint(),
        machine=this_machine(),
        backends=_versions(),
        created=timestamp(),
        seconds=round(time.perf_counter() - started, 1),
        compute=compute,
        bandwidth=bandwidth,
        theoretical=theoretical_peaks(here, clock_mhz()),
        disturbance=disturbed.text if disturbed else "",
    )


class _Kernel(NamedTuple):
    """A graph of equal products one after another, and its multiply-accumulates."""

    name: str
    plural: str
    shape: tuple[int, ...]
    weight: tuple[int, ...]
    operator: str
    attributes: dict[str, tuple[int, ...]]
    macs: int


# A run takes a few ms: long against the start of its threads, and short enough to fit between those of other processes.
PRODUCTS = 2
CONVOLUTION = _Kernel(
    "convolution 3x3, 128 channels, 28x28",
    "convolutions",
    (1, 128, 28, 28),
    (128, 128, 3, 3),
    "Conv",
    {"pads": (1, 1, 1, 1)},
    PRODUCTS * 28 * 28 * 128 * 128 * 9,
)
PRODUCT = _Kernel(
    "matrix product 128x1024x1024",
    "matrix products",
    (128, 1024),
    (1024, 1024),
    "MatMul",
    {},
    PRODUCTS * 128 * 1024 * 1024,
)


def _compute_peaks(thread_counts: Sequence[int], progress: Progress) -> tuple[ComputePeak, ...]:
    found: dict[tuple[str, int], ComputePeak] = {}
    for name in _versions() or {"cpu": ""}:
        for precision in (Precision.FP32, Precision.INT8):
            for kernel in (CONVOLUTION, PRODUCT):
                with progress.stage(f"measuring {precision} {kernel.plural} on {name}"):
                    for peak in _peaks_of(name, precision, kernel, thread_counts):
                        key = (peak.precision, peak.threads)
                        if key not in found or peak.macs_per_s > found[key].macs_per_s:
                            found[key] = peak
    return tuple(found[key] for key in sorted(found))


def _peaks_of(name: str, precision: Precision, kernel: _Kernel, thread_counts: Sequence[int]) -> Iterator[ComputePeak]:
    library = backend(name)
    feeds = {"x": np.random.default_rng(0).standard_normal(kernel.shape, np.float32)}
    with scratch_folder() as folder:
        graph = folder / "graph.onnx"
        _write_graph(kernel, precision, graph)
        built = library.build(graph, folder, BuildOptions(precision=precision))
        for threads in thread_counts:
            engine = library.load(folder / built.engine, threads=threads)
            try:
                fastest_s = _fastest_s(lambda engine=engine: engine.run(feeds))  # type: ignore[misc]
            finally:
                engine.close()
            yield ComputePeak(
                precision="int8" if precision is Precision.INT8 else "float32",
                threads=threads,
                macs_per_s=kernel.macs / fastest_s,
                backend=name,
                kernel=kernel.name,
            )


def _fastest_s(once: Callable[[], object]) -> float:
    once()
    times: list[float] = []
    deadline = time.perf_counter() + KERNEL_S
    while len(times) < MIN_RUNS or time.perf_counter() < deadline:
        start = time.perf_counter()
        once()
        times.append(time.perf_counter() - start)
    return min(times)


def _write_graph(kernel: _Kernel, precision: Precision, file: Path) -> None:
    """Writes products one after another, with Q/DQ around them for INT8, and a small output."""
    import onnx_ir as ir  # boards have no onnx_ir: they show peaks that were measured before, or say what to install

    nodes: list[ir.Node] = []
    initializers: list[ir.Value] = []

    def constant(name: str, array: np.ndarray | np.generic) -> ir.Value:
        initializers.append(ir.Value(name=name, const_value=ir.tensor(np.asarray(array), name=name)))
        return initializers[-1]

    def add(operator: str, *inputs: ir.Value, **attributes: int | Sequence[int]) -> ir.Value:
        nodes.append(ir.node(operator, inputs, attributes, name=f"{operator}.{len(nodes)}"))
        nodes[-1].outputs[0].name = f"v{len(nodes)}"
        return nodes[-1].outputs[0]

    random = np.random.default_rng(1).standard_normal(kernel.weight)
    x = ir.Value(name="x", shape=ir.Shape(kernel.shape), type=ir.TensorType(ir.DataType.FLOAT))
    if precision is Precision.INT8:
        scale, zero = constant("scale", np.float32(0.05)), constant("zero", np.uint8(128))
        stored = constant("w", (30 * random).clip(-63, 63).astype(np.int8))
        weight = add("DequantizeLinear", stored, constant("ws", np.float32(0.001)), constant("wz", np.int8(0)))
    else:
        weight = constant("w", (0.03 * random).astype(np.float32))

    def rounded(value: ir.Value) -> ir.Value:
        if precision is not Precision.INT8:
            return value
        return add("DequantizeLinear", add("QuantizeLinear", value, scale, zero), scale, zero)

    value = rounded(x)
    for _ in range(PRODUCTS):
        value = rounded(add(kernel.operator, value, weight, **kernel.attributes))
    y = add("ReduceMax", value, constant("axes", np.arange(1, len(kernel.shape))), keepdims=0)
    y.shape, y.type = ir.Shape(kernel.shape[:1]), ir.TensorType(ir.DataType.FLOAT)
    graph = ir.Graph([x], [y], nodes=nodes, initializers=initializers, name="kernel", opset_imports={"": 18})
    ir.save(ir.Model(graph, ir_version=8), file)


def _bandwidth_peaks(here: Cpu) -> Iterator[BandwidthPeak]:
    largest = min(max(2**26, 4 * last_cache_bytes()), LARGEST_BYTES, max(SMALLEST_BYTES, here.memory_bytes // 8))
    steps = round(math.log(largest / SMALLEST_BYTES, 4))
    for size in (SMALLEST_BYTES * 4**step for step in range(steps + 1)):
        for threads in _thread_counts(here):
            rates = {kernel: _bandwidth(kernel, size, threads) for kernel in KERNELS}
            fastest = max(rates, key=lambda kernel: rates[kernel])
            yield BandwidthPeak(working_set_bytes=size, threads=threads, bytes_per_s=rates[fastest], kernel=fastest)


def _copy(part: np.ndarray) -> None:
    half = len(part) // 2
    np.copyto(part[:half], part[half:])


def _read(part: np.ndarray) -> None:
    part.max()


KERNELS: dict[str, Callable[[np.ndarray], None]] = {"copy": _copy, "read": _read}


def _bandwidth(kernel: str, size: int, threads: int) -> float:
    """Returns bytes per second of all threads, each on its own part; numpy releases the interpreter's lock."""
    parts = [np.ones(max(1, size // threads // 4), np.float32) for _ in range(threads)]
    repeats = max(1, round(2**23 / size))
    barrier = threading.Barrier(threads)

    def work(part: np.ndarray) -> tuple[float, float]:
        run = KERNELS[kernel]
        barrier.wait()
        start = time.perf_counter()
        for _ in range(repeats):
            run(part)
        return start, time.perf_counter()

    moved = repeats * sum(part.nbytes for part in parts)
    best, deadline = 0.0, time.perf_counter() + BANDWIDTH_S
    with ThreadPoolExecutor(threads) as pool:
        done = 0
        while done < MIN_RUNS or time.perf_counter() < deadline:
            spans = list(pool.map(work, parts))
            best = max(best, moved / (max(end for _, end in spans) - min(start for start, _ in spans)))
            done += 1
    return best
