"""The backend ``cpu``: ONNX Runtime on the CPU. The only module that uses ONNX Runtime sessions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.device.cpu import cpu
from edgekit.device.huge_pages import huge_pages
from edgekit.engine.backend import BuildOptions, BuildResult
from edgekit.engine.base import BaseEngine
from edgekit.engine.layers import Layer, assert_precision, layer_counts
from edgekit.engine.onnxruntime.layer_timer import OnnxRuntimeLayerTimer
from edgekit.engine.onnxruntime.lowering import has_float_biases, lower_after, lower_before, opt_element_counts
from edgekit.engine.onnxruntime.scheme import scheme_of_processor
from edgekit.engine.planes import with_planes_as_one
from edgekit.engine.source_graph import name_nodes, quantized_layers, read_graph, saved_beside, weight_files
from edgekit.errors import BackendUnavailable, BuildError, EdgeKitError, EngineMismatch, GraphError, RunError
from edgekit.extras import install_command
from edgekit.interrupts import run_options
from edgekit.specs import Precision, QuantScheme, TensorSpec
from edgekit.storage import path_for_library
from edgekit.telemetry import import_onnxruntime

if TYPE_CHECKING:
    import onnx_ir as ir
    import onnxruntime

__all__ = ["OnnxRuntime", "load_plain"]

ENGINE = "engine.onnx"
WEIGHTS = "engine.onnx.data"

# A protobuf is limited to 2 GiB; above this size, weights are written to an external file.
INLINE_LIMIT_BYTES = 1_800_000_000

MANY_WEIGHTS = 2_000
"""Engines with more weights, scales and zero points have them in the order in which they are loaded quickly."""

DISABLED = ("ConstantSharing", "QDQPropagationTransformer", "EliminateDropout", "WeightBiasQuantization")
"""Optimizers of ONNX Runtime that are off.

The first makes one of equal scalars, which no kernel is faster for, and whose time takes the square of their number:
1.5 of the 6.9 s in which 42,000 nodes with Q/DQ pairs are fused. The second moves a Q in front of the pooling before
it, so that the pooling leaves the blocked layout of the float convolution: on YOLOv3-tiny the first pooling then took
14 ms instead of 0.6 ms. The third removes every Dropout; those that a graph still has are of a model that draws random
numbers in inference. The last quantizes the weights of each convolution between integers, also of one that was kept in
float."""

NUMPY_NAMES = {"float": "float32", "double": "float64", "string": "str"}


class OnnxRuntime:
    """ONNX Runtime's CPU execution provider."""

    name = "cpu"
    precisions = frozenset({Precision.FP32, Precision.INT8})
    on_gpu = False
    computes = True
    rounds_to_fp8 = True

    def require(self) -> None:
        """See `Backend.require`."""
        _library()

    def require_device(self, compute_capabilities: Sequence[str]) -> None:
        """See `Backend.require_device`; the CPU is always available."""

    def version(self) -> str:
        """See `Backend.version`."""
        return str(_library().__version__)

    def scheme(self) -> QuantScheme:
        """See `Backend.scheme`."""
        return scheme_of_processor()

    def build(self, graph: Path, folder: Path, options: BuildOptions) -> BuildResult:
        """Fuses the graph and writes it as ONNX; see `Backend.build`.

        The saved optimizations are those that are valid on any CPU (``ENABLE_EXTENDED``: constant folding,
        ``DQ -> Conv -> Q`` to ``QLinearConv``, activations into convolutions). The memory layouts for this CPU
        (``ENABLE_ALL``: NHWC for integers, NCHWc for floats) are chosen when the engine is loaded. A graph that is
        saved and loaded this way has the same operators, results and latency as one that is optimized in one step,
        and the file can be used on another CPU.
        """
        # Not for those who only load engines.
        from edgekit.graph.initializer_order import order_initializers_of_file
        from edgekit.graph.packing import leave_weights_unpacked

        ort = _library()
        source = read_graph(graph)
        named = name_nodes(source)
        quantized, lowers = quantized_layers(source, bodies=True), options.precision is Precision.INT8
        opt_counts = opt_element_counts(source, options) if lowers else {}
        file_bytes = sum(file.stat().st_size for file in (graph, *weight_files(source)))
        large = file_bytes > INLINE_LIMIT_BYTES
        settings = _settings(ort, options.threads)
        settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        settings.optimized_model_filepath = str(folder / ENGINE)
        leave_weights_unpacked(settings)  # the session never runs
        if large:
            settings.add_session_config_entry("session.optimized_model_external_initializers_file_name", WEIGHTS)
        try:
            lowered, notes = lower_before(source, options)
            with saved_beside(source, folder, large=large) if lowered or named else nullcontext(graph) as path:
                # A graph that was quantized elsewhere may have float biases, which the integer kernels do not take.
                disabled = DISABLED[:-1] if has_float_biases(source) else DISABLED
                _session(ort, path, settings, disabled)
        except _failures(ort) as e:
            raise _build_error(graph, e) from e
        built = read_graph(folder / ENGINE)
        if lowers and lower_after(built, opt_counts):
            _save(built, folder / ENGINE)
        if len(built.graph.initializers) > MANY_WEIGHTS:
            order_initializers_of_file(built, folder / ENGINE)
        layers = _layers(built)
        others = assert_precision(
            self.name, options.precision, quantized, layers, came_quantized=options.came_quantized
        )
        return BuildResult(
            engine=ENGINE,
            files=tuple(name for name in (ENGINE, WEIGHTS) if (folder / name).exists()),
            layers=layer_counts(layers),
            backend_version=self.version(),
            notes=(*notes, *others),
        )

    def load(self, engine: Path, *, threads: int = 0) -> Session:
        """See `Backend.load`."""
        ort = _library()

        def loaded(profile: str, spinning: bool) -> onnxruntime.InferenceSession:
            return _loaded(ort, engine, threads, profile=profile, spinning=spinning)

        return Session(ort, engine, loaded)


def load_plain(path: Path, *, threads: int = 0) -> Session:
    """Loads an ONNX file with ONNX Runtime's default optimizations, as a baseline for EdgeKit's engines.

    Only the number of threads is set, to that of EdgeKit's engines: ONNX Runtime's default counts the cores of the
    host, not those of a container.

    Args:
        path: the ONNX file; the graph is not changed.
        threads: threads of the session; 0 for one per core that this process may use.

    Raises:
        GraphError: ONNX Runtime cannot load the file.
        BackendUnavailable: ONNX Runtime is not installed.
    """
    ort = _library()

    def loaded(profile: str, spinning: bool) -> onnxruntime.InferenceSession:
        settings = ort.SessionOptions()
        settings.intra_op_num_threads = threads or cpu().compute_threads
        _set_spinning(settings, spinning=spinning)
        settings.log_severity_level = 4  # errors are raised as exceptions
        _enable_profile(settings, profile)
        with path_for_library(path) as name:
            return ort.InferenceSession(name, settings, providers=["CPUExecutionProvider"])

    try:
        return Session(ort, path, loaded)
    except _failures(ort) as e:
        raise GraphError(f"ONNX Runtime {ort.__version__} cannot load {path}: {_words(e)}") from e


class Session(BaseEngine):
    """An `Engine` that runs on ONNX Runtime.

    Args:
        ort: the module ``onnxruntime``.
        engine: the file.
        load: loads it; its arguments are the start of the name of the file that the profiler writes, or empty, and
            whether threads that wait keep their processor.
    """

    notes: Sequence[str] = ()

    def __init__(self, ort: Any, engine: Path, load: Callable[[str, bool], onnxruntime.InferenceSession]) -> None:
        self._failures, self._options = _failures(ort), run_options()
        self._engine, self._load = engine, load
        self._spinning = True
        self._session: onnxruntime.InferenceSession = load("", True)
        session = self._session
        self.inputs = tuple(_spec(value) for value in session.get_inputs())
        self.outputs = tuple(_spec(value) for value in session.get_outputs())
        self._names = [spec.name for spec in self.outputs]

    def layer_timer(self) -> OnnxRuntimeLayerTimer:
        """See `TimesLayers.layer_timer`."""
        self._require_open()
        return OnnxRuntimeLayerTimer(
            lambda profile: self._load(profile, self._spinning), self._run_session, self._engine
        )

    def share_processors(self) -> None:
        """See `SharesProcessors.share_processors`; the file is loaded again, because ONNX Runtime cannot change it."""
        self._require_open()
        if self._spinning:
            self._spinning = False
            self._session = self._load("", False)

    def _run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return self._run_session(self._session, feeds)

    def _run_session(
        self, session: onnxruntime.InferenceSession, feeds: dict[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        try:
            # I/O binding was measured and is not faster: copying outputs takes little time.
            return dict(zip(self._names, session.run(self._names, feeds, self._options), strict=True))
        except self._failures as e:
            raise RunError(f"ONNX Runtime failed while running: {_words(e)}") from e

    def _release(self) -> None:
        del self._session


def _library() -> Any:
    try:
        return import_onnxruntime()
    except ImportError as e:
        hint = install_command("cpu")
        raise BackendUnavailable(f"target 'cpu' needs the package 'onnxruntime': {e}", hint=hint) from e


def _loaded(ort: Any, engine: Path, threads: int, *, profile: str, spinning: bool) -> onnxruntime.InferenceSession:
    """Loads an engine; with ``profile``, its profiler writes a file whose name starts so."""
    from edgekit.graph import convolutions_in_file as convolutions  # not for those who only compile

    settings = _settings(ort, threads)
    _set_spinning(settings, spinning=spinning)
    levels = ort.GraphOptimizationLevel
    operators = convolutions.operators_in_file(engine)
    vast = convolutions.has_very_many_convolutions(operators)
    settings.graph_optimization_level = levels.ORT_ENABLE_EXTENDED if vast else levels.ORT_ENABLE_ALL
    # Weights of 8 bits, which a graph that was quantized elsewhere has, become unsigned where products of unsigned by
    # signed bytes overflow (`scheme`). Measured with AVX2, a convolution then takes 1.6 times as long; weights of 7
    # bits stay signed. ONNX Runtime does it on some CPUs with VNNI too, where nothing overflows: a YOLOX took 1.8
    # times as long there.
    if not cpu().fast_int8:
        settings.add_session_config_entry("session.x64quantprecision", "1")
    elif not convolutions.has_float_convolutions_and_transposes(operators):
        # What integer operators are fused from was fused in the build. What is off here would make a DequantizeLinear
        # for each reader of a tensor (`MergeDequantizers`). Measured with 1.32, one thread, with the same numbers:
        # PP-OCR's classifier takes 0.91 of the time, and PP-OCRv4's detector 0.94. Where Transposes stand beside float
        # convolutions, as in ConvNeXt, ONNX Runtime then takes one layout for the other.
        settings.add_session_config_entry("session.disable_quant_qdq", "1")
    _enable_profile(settings, profile)
    try:
        with huge_pages():
            return _session(ort, engine, settings)
    except _failures(ort) as e:
        raise EngineMismatch(f"ONNX Runtime {ort.__version__} cannot load {engine}: {_words(e)}") from e


def _enable_profile(settings: Any, start_of_name: str) -> None:
    if start_of_name:
        settings.enable_profiling = True
        settings.profile_file_prefix = start_of_name


def _settings(ort: Any, threads: int) -> Any:
    settings = ort.SessionOptions()
    # ONNX Runtime's default counts the host's cores, not those of the container.
    settings.intra_op_num_threads = threads or cpu().compute_threads
    settings.inter_op_num_threads = 1
    settings.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    settings.log_severity_level = 4  # errors are raised as exceptions
    return settings


def _set_spinning(settings: Any, *, spinning: bool) -> None:
    """Sets whether threads spin between operators: measured, 10 % lower INT8 latency on two cores, which stay busy."""
    settings.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))


def _save(built: ir.Model, engine: Path) -> None:
    """Writes the graph; external weights stay in their file."""
    from edgekit.graph.writing import write_graph  # needs onnx_ir, which runtime-only boards lack

    write_graph(built, engine, inline=False)


def _session(ort: Any, model: Path, settings: Any, disabled: Sequence[str] = DISABLED) -> Any:
    with path_for_library(model) as path:
        return ort.InferenceSession(
            path,
            settings,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=disabled,
        )


def _failures(ort: Any) -> tuple[type[Exception], ...]:
    """Returns ONNX Runtime's exception classes, which have no common base class."""
    state = ort.capi.onnxruntime_pybind11_state
    found = [value for value in vars(state).values() if isinstance(value, type) and issubclass(value, Exception)]
    return (*found, RuntimeError, ValueError)


def _words(error: Exception) -> str:
    """``[ONNXRuntimeError] : 9 : NOT_IMPLEMENTED : what happened`` -> ``what happened``."""
    return str(error).removeprefix("[ONNXRuntimeError] : ").split(" : ", 2)[-1].strip()


def _build_error(graph: Path, error: Exception) -> EdgeKitError:
    words = _words(error)
    if "serialization failed" in words:
        return BuildError(f"ONNX Runtime could not write the engine of {graph.name}: {words}")
    unknown = "is not a registered function/op" in words or "Could not find an implementation" in words
    if unknown or type(error).__name__ in {"NotImplemented", "InvalidGraph", "InvalidProtobuf", "InvalidArgument"}:
        return GraphError(f"ONNX Runtime cannot take {graph.name}: {words}")
    return BuildError(f"ONNX Runtime failed to build {graph.name}: {words}")


def _layers(built: ir.Model) -> list[Layer]:
    """Returns the convolutions and matrix products of the graph that ONNX Runtime has optimized."""
    from edgekit.graph.operators import INTEGER_PRODUCTS, INTEGER_RECURRENT, PRODUCTS  # needs onnx_ir

    dtypes = {
        **dict.fromkeys(INTEGER_PRODUCTS | INTEGER_RECURRENT | {"MatMulNBits"}, "int8"),
        **dict.fromkeys(PRODUCTS | {"FusedConv", "FusedGemm", "FusedMatMul", "MultiHeadAttention"}, "float32"),
    }
    products = (node for node in built.graph.all_nodes() if node.op_type in dtypes)
    return with_planes_as_one(Layer((node.name or "",), dtypes[node.op_type]) for node in products)


def _spec(value: onnxruntime.NodeArg) -> TensorSpec:
    """Converts ``tensor(float)`` and a shape in which dynamic sizes are None or a name."""
    element = value.type.removeprefix("tensor(").removesuffix(")")
    shape = tuple(
        size if isinstance(size, int) else str(size or f"{value.name}_{axis}") for axis, size in enumerate(value.shape)
    )
    return TensorSpec(value.name, NUMPY_NAMES.get(element, element), shape)
