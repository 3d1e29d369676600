"""Makes what the benchmarks measure: EdgeKit's bundles, the peers' graphs, and the calibration arrays."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

import edgekit
from edgekit.data.calibration.calibration_set import calibration_set
from edgekit.engine.bundle.manifest import Manifest, read_manifest
from tools.bench.process import run_watched

__all__ = ["PeerGraph", "Workshop"]

PEERS = Path(__file__).parent / "peers"
LIBRARIES = ("edgekit", "onnxruntime", "openvino", "torch", "numpy")
MODULES = {"onnxruntime": "onnxruntime.quantization", "nncf": "nncf", "modelopt": "modelopt.onnx.quantization"}


@dataclass(frozen=True)
class PeerGraph:
    """A graph that a peer quantized.

    Attributes:
        path: path of the graph.
        seconds: from the loaded float graph and the feed files to the quantized graph in memory.
        largest_bytes: peak of its largest process, imports included.
        version: version of the peer.
        others: CPU load of other processes, as a share of all CPUs.
    """

    path: Path
    seconds: float
    largest_bytes: int
    version: str
    others: float


class Workshop:
    """Makes bundles, graphs and arrays in one folder, each once per run.

    Args:
        folder: output folder; a peer's graph in it is reused if it was made from the same inputs.
        interpreters: Python interpreters whose environments may have peers.
        threads: number of threads for building and measuring.
        quick: whether to use few images and runs.
        models: folder of other people's ONNX files; None for none.
        only: names of the models of that folder to measure; empty for all.
        nodes: numbers of nodes of the graphs of the part 'growth'; empty for its own.
        times: whether to measure times of these models, not only noise.
        results: folder with the results of earlier runs; None for none.
    """

    def __init__(
        self,
        folder: Path,
        interpreters: Sequence[Path],
        *,
        threads: int,
        quick: bool,
        models: Path | None = None,
        only: Sequence[str] = (),
        nodes: Sequence[int] = (),
        times: bool = True,
        results: Path | None = None,
    ) -> None:
        self.folder = folder
        self.threads = threads
        self.quick = quick
        self.models = models
        self.only = tuple(only)
        self.nodes = tuple(nodes)
        self.times = times
        self._results = results
        self._interpreters = interpreters
        # A cache of its own, without calibration tables of earlier runs.
        self.environment = {**os.environ, "EDGEKIT_CACHE": str(folder / "cache")}

    @functools.cache  # noqa: B019 - lives as long as the run
    def bundle(self, model: str, precision: str, target: str = "cpu", *options: str) -> Path:
        """Builds a bundle with ``edgekit build``."""
        name = "-".join((Path(model).stem, precision, target, hashlib.sha256(repr(options).encode()).hexdigest()[:6]))
        output = self.folder / name
        command = [sys.executable, "-m", "edgekit", "build", model, f"--{precision}", "--target", target, *options]
        run_watched([*command, "--no-profile", "--output", output], environment=self.environment)
        return output

    def earlier(self, part: str) -> dict[str, Any]:
        """Returns the results of a part in an earlier run; empty if there is none."""
        file = self._results / f"{part}.json" if self._results else None
        return json.loads(file.read_text()) if file and file.exists() else {}

    def versions(self) -> dict[str, str]:
        """Returns the versions of EdgeKit and of the libraries that it measures with."""
        return {name: _version(name) for name in LIBRARIES}

    def manifest(self, bundle: Path) -> Manifest:
        """Returns the manifest of a bundle."""
        return read_manifest(bundle)

    @functools.cache  # noqa: B019
    def feeds(self, source: str, images: int, bundle: Path) -> Path:
        """Writes the preprocessed images of a calibration set as ``.npy`` files, and returns their folder.

        A set with fewer than ``images`` images is repeated.
        """
        manifest = self.manifest(bundle)
        folder = self.folder / f"feeds-{Path(source).stem}-{images}-{manifest.name}"
        folder.mkdir(exist_ok=True)
        samples = calibration_set(source, limit=images)
        arrays = [next(iter(feed.values())) for _, feed in samples.feeds(manifest.inputs, manifest.preprocess)]
        for index in range(images):
            np.save(folder / f"{index:04d}.npy", arrays[index % len(arrays)])
        return folder

    @functools.cache  # noqa: B019
    def interpreter(self, peer: str) -> Path | None:
        """Returns the interpreter whose environment has the peer; None if there is none."""
        candidates = [Path(sys.executable)] if peer == "onnxruntime" else list(self._interpreters)
        for python in candidates:
            probe = subprocess.run([python, "-c", f"import {MODULES[peer]}"], capture_output=True)
            if probe.returncode == 0:
                return python
        print(f"{peer}: skipped, no interpreter of --peers can import it", file=sys.stderr)
        return None

    def peer_graph(
        self, peer: str, graph: Path, feeds: Path, images: int, suffix: str, *options: str, fresh: bool = False
    ) -> PeerGraph:
        """Returns the graph that a peer quantizes from the float graph and the feeds.

        Args:
            peer: name of the peer; the environment of one of the interpreters has it.
            graph: the float graph.
            feeds: folder of ``.npy`` files.
            images: number of files to use.
            suffix: suffix of the output file.
            options: options of the peer's script.
            fresh: whether to quantize even if the graph exists, to measure the time.
        """
        python = self.interpreter(peer)
        assert python is not None
        script = PEERS / f"{peer}_quantize.py"
        key = _digest(
            [script, Path(__file__), graph, *sorted(feeds.glob("*.np[yz]"))[:images]],
            (images, suffix, options, str(python)),
        )
        output = self.folder / f"{peer}-{key}{suffix}"
        record = output.with_suffix(".json")
        if fresh or not record.exists():
            done = run_watched([python, script, graph, feeds, output, images, *options], environment=self.environment)
            facts: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
            record.write_text(json.dumps({**facts, "largest_bytes": done.largest_bytes, "others": done.others}))
        return PeerGraph(output, **json.loads(record.read_text()))


def _version(library: str) -> str:
    if library == "edgekit":
        return edgekit.__version__
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return "not installed"


def _digest(files: Sequence[Path], facts: object) -> str:
    digest = hashlib.sha256(repr(facts).encode())
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:12]
