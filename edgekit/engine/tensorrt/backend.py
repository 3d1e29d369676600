"""The backends ``tensorrt`` and ``tensorrt-rtx``: shared code, with checks for the differences of the two libraries.

TensorRT's own parser reads the graphs, so that a board needs neither torch nor onnx. The network is strongly typed:
the graph sets all types, and there is neither a calibrator nor a precision for the builder to choose.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from edgekit.arguments import argument
from edgekit.device.cuda.choose import device_properties
from edgekit.device.cuda.driver import DeviceProperties
from edgekit.device.cuda.packages import bindings_command
from edgekit.device.jetson import jetson
from edgekit.engine.backend import BuildOptions, BuildResult, Engine
from edgekit.engine.bundle.manifest import compile_hint
from edgekit.engine.layers import Layer, assert_precision, layer_counts
from edgekit.engine.tensorrt.attention_runtime import PLUGINS_FILE
from edgekit.engine.tensorrt.builder_config import (
    config_from_options,
    dla_note,
    engine_options,
    listed_capabilities,
    save_timing_cache,
)
from edgekit.engine.tensorrt.dla import dla_elsewhere, require_dla
from edgekit.engine.tensorrt.layers import (
    EngineLayer,
    inspected_layers,
    layers_of_network,
    nodes_in_words,
    product_layers,
    quantized_products,
)
from edgekit.engine.tensorrt.log import builder_log, last_words, made_with_log
from edgekit.engine.tensorrt.network import add_profile, parse_graph, replace_operator
from edgekit.engine.tensorrt.options import TensorRtOptions, engine_argument
from edgekit.engine.tensorrt.runtime import load_engine
from edgekit.errors import BackendUnavailable, BuildError, EngineMismatch, UsageError
from edgekit.extras import requirements
from edgekit.kernels.sdpa.node import NAMESPACE, PLUGINS
from edgekit.specs import Precision, QuantScheme
from edgekit.storage import cache_folder

if TYPE_CHECKING:
    import tensorrt as trt

__all__ = ["TensorRt", "TensorRtRtx"]

ENGINE = "engine.plan"
LAYERS = "layers.json"

# The compute capability of an engine that runs on Ampere and later GPUs.
AMPERE_AND_LATER = "8.0+"

# Where the packages of JetPack and Debian put Python modules; a virtual environment does not see them by default.
SYSTEM_MODULES = "usr/lib/python3*/dist-packages/tensorrt"

NEEDS_EDGEKIT = "the engine's attention runs in EdgeKit, which has to load it: trtexec and Triton cannot"

NO_KERNEL = re.compile(r"no runners|could not find any implementation", re.I)


class TensorRt:
    """TensorRT, on Jetson and on GPUs in desktops and data centres; builds for the GPU of this machine."""

    name = "tensorrt"
    precisions = frozenset({Precision.FP32, Precision.FP16, Precision.BF16, Precision.INT8})
    on_gpu = True
    computes = True
    rounds_to_fp8 = True
    module = "tensorrt"

    def require(self) -> None:
        """See `Backend.require`; needs a GPU, on which the builder tunes the engine."""
        self._library()
        device_properties()

    def require_device(self, compute_capabilities: Sequence[str]) -> None:
        """See `Backend.require_device`; ``8.0+`` means compute capability 8.0 and higher."""
        self._library()
        here = device_properties()
        if compute_capabilities and not any(_covers(built, here.compute_capability) for built in compute_capabilities):
            raise EngineMismatch(
                f"the engine was built for compute capability {' or '.join(compute_capabilities)}; "
                f"{here.name} here has {_text(here.compute_capability)}",
                hint=f"build it for this GPU: {compile_hint('BUNDLE', self.name)}",
            )

    def version(self) -> str:
        """See `Backend.version`."""
        return str(self._library().__version__)

    def scheme(self) -> QuantScheme:
        """See `Backend.scheme`."""
        # Only a build quantizes: `edgekit compile` on a board does not reach `edgekit.graph`, which the scheme uses.
        from edgekit.engine.tensorrt.scheme import SCHEME

        return SCHEME

    def check_options(self, precision: Precision, options: Mapping[str, Any]) -> None:
        """See `ChecksOptions`: the library's own options, and whether this version has a DLA for the precision."""
        given = msgspec.convert(dict(options), TensorRtOptions)
        self._check(given)
        if given.dla is not None:
            require_dla(self.version(), precision, jetson(), given.dla)

    def check_options_elsewhere(self, precision: Precision, options: Mapping[str, Any]) -> tuple[str, ...]:
        """See `ChecksOptions`: which versions have a DLA for the precision, if one is to be used."""
        given = msgspec.convert(dict(options), TensorRtOptions)
        self._check(given)
        return () if given.dla is None else (dla_elsewhere(precision, given.dla),)

    def build(self, graph: Path, folder: Path, options: BuildOptions) -> BuildResult:
        """Builds ``engine.plan``, in the format of trtexec and Triton, and ``layers.json``; see `Backend.build`.

        If EdgeKit runs some of its layers, there is ``plugins.json`` too, which makes `load` register them.
        """
        library = self._library()
        self.check_options(options.precision, options.engine)
        gpu = self._gpu()
        with builder_log(library) as log:
            plan, network, notes, needs_edgekit = self._built(library, log, graph, options, gpu)
            # The plan may be large, so it is written without a copy.
            (folder / ENGINE).write_bytes(memoryview(plan))
            built = inspected_layers(library, plan, log) if gpu else ()
        (folder / LAYERS).write_bytes(_lines(built or network))
        files: tuple[str, ...] = (ENGINE, LAYERS)
        if needs_edgekit:
            (folder / PLUGINS_FILE).write_bytes(msgspec.json.encode([f"{NAMESPACE}::{name}" for name in PLUGINS]))
            files = (*files, PLUGINS_FILE)
            notes.append(f"{library.__name__} {library.__version__}: {NEEDS_EDGEKIT}")
        return BuildResult(
            engine=ENGINE,
            files=files,
            layers=layer_counts(self._assert_precision(options, network, built)),
            backend_version=self.version(),
            compute_capabilities=self._capabilities(library, engine_options(options), gpu),
            notes=tuple(notes),
        )

    def load(self, engine: Path, *, threads: int = 0) -> Engine:
        """See `Backend.load`."""
        return load_engine(self._library(), engine, name=self.name)

    def _library(self) -> Any:
        try:
            library = importlib.import_module(self.module)
        except (ImportError, OSError, RuntimeError) as e:
            raise BackendUnavailable(
                f"target '{self.name}' needs the Python package '{self.module}': {e}", hint=self._how_to_install()
            ) from e
        if not hasattr(library, "Builder"):  # type stubs, or a folder of that name
            raise BackendUnavailable(
                f"target '{self.name}' needs the Python package '{self.module}': what is found has no builder in it",
                hint=self._how_to_install(),
            )
        return library

    def _how_to_install(self, root: Path = Path("/")) -> str:
        apart = sys.prefix != sys.base_prefix
        environment = "python3 -m venv --system-site-packages ENVIRONMENT"
        if apart and any(root.glob(SYSTEM_MODULES)):
            return f"TensorRT is installed for the system's Python, which this environment does not see: {environment}"
        if jetson(root):
            return f"sudo apt-get install python3-libnvinfer{f', and {environment}' if apart else ''}"
        return (
            "pip install tensorrt-cu13 --extra-index-url https://pypi.nvidia.com; on a Jetson it comes with JetPack: "
            f"sudo apt-get install python3-libnvinfer, and {environment}"
        )

    def _check(self, options: TensorRtOptions) -> None:
        """Raises `UsageError` if an option does not apply to this library."""
        if options.sm:
            raise UsageError(
                f"{engine_argument('sm')} goes with tensorrt-rtx: target '{self.name}' builds for the GPU that is here",
                hint="leave it out and build on the machine that the engine is for, or add "
                f"{engine_argument('hardware_compatible', True)}",
            )

    def _notes(self, network: Sequence[EngineLayer]) -> list[str]:
        return []

    def _gpu(self) -> DeviceProperties | None:
        """Returns the GPU that the builder uses; None if it needs none."""
        return device_properties()

    def _memory_bytes(self, gpu: DeviceProperties | None) -> int:
        """Returns the memory that the builder may use for timing kernels; 0: the library's default."""
        if gpu is None:
            return 0
        # On a Jetson, GPU and CPU share memory, and the builder also needs CPU memory.
        return gpu.free_bytes // 2 if gpu.integrated else gpu.free_bytes

    def _timing_cache(self, gpu: DeviceProperties | None) -> str:
        """Returns EdgeKit's own timing cache file for this GPU and TensorRT version."""
        if gpu is None:
            return ""
        name = f"{self.name}-{self.version()}-{'-'.join(gpu.name.split())}.cache"
        return str(cache_folder() / "timing" / name)

    def _capabilities(self, library: Any, options: TensorRtOptions, gpu: DeviceProperties | None) -> tuple[str, ...]:
        if options.hardware_compatible:
            return (AMPERE_AND_LATER,)
        return (_text(gpu.compute_capability),) if gpu else ()

    def _built(
        self, library: Any, log: Any, graph: Path, options: BuildOptions, gpu: DeviceProperties | None
    ) -> tuple[trt.IHostMemory, tuple[EngineLayer, ...], list[str], bool]:
        """Returns the plan, its network's layers, notes, and if it needs EdgeKit; frees the builder and weights."""
        try:
            builder: trt.Builder = made_with_log(library.Builder, log)
        except TypeError as e:  # pybind11 raises it for a null pointer
            raise BackendUnavailable(f"TensorRT cannot use the GPU: {last_words(log)}") from e
        engine = engine_options(options)
        parsed = parse_graph(library, builder, log, graph, for_dla=engine.dla is not None)
        cache = self._timing_cache(gpu) if engine.timing_cache is None else engine.timing_cache
        config = config_from_options(library, builder, options, self._memory_bytes(gpu), cache)
        add_profile(builder, config, parsed.network, options.shapes)
        network = layers_of_network(library, parsed.network)
        self._assert_precision(options, network, ())  # before a build that may take many minutes
        plan: trt.IHostMemory | None = builder.build_serialized_network(parsed.network, config)
        if plan is None:
            words = last_words(log)
            nodes = nodes_in_words(network, words)
            where = f" at node {' and '.join(map(repr, nodes))}" if nodes else ""
            hint = replace_operator() if nodes and NO_KERNEL.search(words) else self._hint(engine, words)
            raise BuildError(f"{self.name} failed to build the engine{where}: {words}", hint=hint)
        notes = [*self._notes(network), *save_timing_cache(library, config, cache)]
        if engine.dla is not None:
            notes.append(dla_note(config, parsed.network))
        return plan, network, notes, parsed.needs_edgekit

    def _hint(self, options: TensorRtOptions, words: str) -> str:
        if "bad_alloc" in words or "out of memory" in words.lower():
            return (
                "it needs more memory than there is: close programs, add swap, or lower "
                f"{engine_argument('workspace_mib')}"
            )
        return (
            f"allow it more memory with {engine_argument('workspace_mib')}, or leave the option out"
            if options.workspace_mib
            else ""
        )

    def _assert_precision(
        self, options: BuildOptions, network: Sequence[EngineLayer], built: Sequence[EngineLayer]
    ) -> list[Layer]:
        """Returns the convolutions and matrix products as built; raises `BuildError` on another precision."""
        products = product_layers(network, built)
        assert_precision(self.name, options.precision, quantized_products(network), products)
        return products


class TensorRtRtx(TensorRt):
    """TensorRT for desktop RTX GPUs: builds ahead of time, without a GPU; kernels are compiled on the target GPU."""

    name = "tensorrt-rtx"
    module = "tensorrt_rtx"

    def require(self) -> None:
        """See `Backend.require`."""
        self._library()

    def _how_to_install(self, root: Path = Path("/")) -> str:
        return bindings_command(*requirements("rtx", "tensorrt-rtx-cu13"), root=root)

    def _check(self, options: TensorRtOptions) -> None:
        if options.hardware_compatible:
            raise UsageError(
                f"{engine_argument('hardware_compatible')} goes with tensorrt: TensorRT-RTX's engines run on all "
                "GPUs they are built for",
                hint=f"name them with {engine_argument('sm')}, such as "
                f"{engine_argument('sm', (86, 89, 120), shell='86,89,120')}",
            )
        if options.dla is not None:
            raise UsageError(
                f"{engine_argument('dla')} goes with tensorrt: TensorRT-RTX's boards have no DLA", hint="leave it out"
            )

    def _notes(self, network: Sequence[EngineLayer]) -> list[str]:
        if not quantized_products(network):
            return []
        return [
            "TensorRT-RTX's support matrix lists INT8 for weight-only matrix products alone; how fast it runs "
            "convolutions and products of two INT8 factors is not yet measured, and until it is "
            f"{argument('precision', 'fp16')} is recommended"
        ]

    def _gpu(self) -> DeviceProperties | None:
        try:
            return device_properties()
        except BackendUnavailable:
            return None

    def _memory_bytes(self, gpu: DeviceProperties | None) -> int:
        return 0  # no kernels are timed in the build

    def _capabilities(self, library: Any, options: TensorRtOptions, gpu: DeviceProperties | None) -> tuple[str, ...]:
        listed = listed_capabilities(library)
        # "By default, an engine built by TensorRT-RTX can be run on GPU devices with compute capability 8.0, 8.6, 8.9,
        # 12.0, and later", and not on 7.5 (NVIDIA, "CPU-Only AOT and TensorRT-RTX Engines").
        chosen = options.sm or [number for number in listed if number >= 80]
        return tuple(_text(divmod(number, 10)) for number in chosen)

    def _hint(self, options: TensorRtOptions, words: str) -> str:
        if (options.refittable or options.strip_weights) and self._gpu() is None:
            return "TensorRT-RTX needs a GPU to build refittable plans and plans without weights: build it there"
        return super()._hint(options, words)


def _text(compute_capability: Sequence[int]) -> str:
    return ".".join(map(str, compute_capability))


def _covers(built: str, here: tuple[int, int]) -> bool:
    if built.endswith("+"):
        return here >= tuple(map(int, built[:-1].split(".")))
    return built == _text(here)


def _lines(layers: Sequence[EngineLayer]) -> bytes:
    """Encodes layers as JSON, one per line."""
    return b"[\n" + b",\n".join(map(msgspec.json.encode, layers)) + b"\n]\n"
