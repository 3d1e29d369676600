"""The backend ``cpu``: ONNX Runtime on the CPU. The only module that uses ONNX Runtime sessions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
from edgekit.engine.planes import with_planes_as_one
from edgekit.engine.source_graph import quantized_layers, read_graph, saved_beside, weight_files
from edgekit.errors import BackendUnavailable, BuildError, EdgeKitError, EngineMismatch, GraphError, RunError
from edgekit.extras import install_command
from edgekit.specs import Precision, QuantScheme, SlowConvolution, TensorSpec
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

# Operators that ONNX Runtime computes on integers in the pattern `DQ -> operator -> Q` (its QDQ selectors).
INTEGER_OPERATORS = frozenset(
    "Add AveragePool Concat Conv Flatten Gemm GlobalAveragePool LeakyRelu MatMul MaxPool Mul Reshape Resize Sigmoid "
    "Slice Split Squeeze Transpose Unsqueeze".split()
)

SLOW_CONVOLUTIONS = (
    SlowConvolution(kind="plain", channels=2, window=9),
    SlowConvolution(kind="grouped", channels=4),
    SlowConvolution(kind="depthwise", channels=1, window=25),
)
"""ONNX Runtime has an integer kernel for depthwise convolutions, and takes a matrix product for each group of others.

Measured with 1.32 on x86 with VNNI, one thread, between two 1x1 convolutions on integers, with ReLU, groups with SiLU
too, 7 to 112 pixels wide. With this one layer in float, the network takes, as a share of the time with all on integers:

- one channel a group with several outputs 0.13 to 0.33, two channels 0.27 to 0.33, four 0.44 to 0.84, eight 0.76 to
  1.20;
- without groups, windows of 3x3, 7x7 and 1x64: one channel 0.32 to 0.53, two 0.51 to 0.71, three 0.59 to 0.87, four
  0.76 to 1.26, eight 0.69 to 1.21. Three are those of an image, whose layers the stem rule decides on;
- depthwise 7x7 0.62, 5x5 0.74 to 1.01, 3x3 0.77 to 1.16;
- small products gain nothing: matrix products from 1 x 16 x 16 on 0.97 to 1.73, both of squeeze-and-excitation 1.02 to
  1.09.
"""

# Names in `edgekit.quantize.kernel_limits`.
LIMITS = frozenset({"average-dilated", "average-of-pads-rounded-up"})

DISABLED = ("QDQPropagationTransformer", "WeightBiasQuantization")
"""Optimizers of ONNX Runtime that are off.

The first moves a Q in front of the pooling before it, so that the pooling leaves the blocked layout of the float
convolution: on YOLOv3-tiny the first pooling then took 14 ms instead of 0.6 ms. The second quantizes the weights of
each convolution between integers, also of one that was kept in float."""

NUMPY_NAMES = {"float": "float32", "double": "float64", "string": "str"}


class OnnxRuntime:
    """ONNX Runtime's CPU execution provider."""

    name = "cpu"
    precisions = frozenset({Precision.FP32, Precision.INT8})
    on_gpu = False
    computes = True

    def require(self) -> None:
        """See `Backend.require`."""
        _library()

    def require_device(self, compute_capabilities: Sequence[str]) -> None:
        """See `Backend.require_device`; the CPU is always available."""

    def version(self) -> str:
        """See `Backend.version`."""
        return str(_library().__version__)

    def scheme(self) -> QuantScheme:
        """Returns a scheme with uint8 activations around every operator, and 7-bit weights where 8 bits would overflow.

        Measured on YOLOv3-416 with VNNI: 133 ms, against 200 ms with int8 at the inputs of convolutions only. x86
        kernels multiply unsigned by signed bytes, so int8 activations are converted first. Arm kernels take both
        at the same speed (MLAS: ``MlasGemmU8X8DispatchUdot`` and ``…Ummla``), and uint8 uses all its values after a
        ReLU. Without VNNI, ``vpmaddubsw`` adds two products in 16 bits: 2 * 255 * 127 does not fit, 2 * 255 * 63
        does. A ReLU or Clip before Q is the same as the saturation of Q.
        """
        here = cpu()
        return QuantScheme(
            activation_dtype="uint8",
            operators=INTEGER_OPERATORS,
            # `FuseIntegerMatMul` outputs floats.
            quantize_outputs=INTEGER_OPERATORS - {"MatMul"},
            fused_activations=frozenset({"Relu", "Clip"}),
            per_channel_weights=True,
            weight_bits=7 if here.arch == "x86_64" and not here.fast_int8 else 8,
            float_bias=False,
            # Measured on YOLOv3-tiny, whose LeakyReLUs are table look-ups on integers: with both convolutions of the
            # stem in float it is equally fast, and they cause half of the quantization noise.
            stem_channels=16,
            channel_multiple=4,
            bodies=True,
            weights_only="blocks",
            limits=LIMITS,
            slow_convolutions=SLOW_CONVOLUTIONS if here.arch == "x86_64" else (),
            # Measured with AVX2, one thread, against attention with Q/DQ pairs at its products: in float, as one
            # operator, it takes 0.47 to 1.06 of the time; as single operators, since it has a mask, 0.79 to 0.89 at 128
            # tokens and 1.12 to 1.14 at 512. Whole models (ViT, MiniLM, BERT, Swin, Whisper, CLIP): 0.96 to 1.01. Not
            # measured with VNNI.
            float_attention=here.arch == "x86_64" and not here.fast_int8,
        )

    def build(self, graph: Path, folder: Path, options: BuildOptions) -> BuildResult:
        """Fuses the graph and writes it as ONNX; see `Backend.build`.

        The saved optimizations are those that are valid on any CPU (``ENABLE_EXTENDED``: constant folding,
        ``DQ -> Conv -> Q`` to ``QLinearConv``, activations into convolutions). The memory layouts for this CPU
        (``ENABLE_ALL``: NHWC for integers, NCHWc for floats) are chosen when the engine is loaded. A graph that is
        saved and loaded this way has the same operators, results and latency as one that is optimized in one step,
        and the file can be used on another CPU.
        """
        ort = _library()
        source = read_graph(graph)
        quantized, lowers = quantized_layers(source, bodies=True), options.precision is Precision.INT8
        opt_counts = _usual_element_counts(source, options) if lowers else {}
        large = sum(file.stat().st_size for file in (graph, *weight_files(source))) > INLINE_LIMIT_BYTES
        settings = _settings(ort, options.threads)
        settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        settings.optimized_model_filepath = str(folder / ENGINE)
        if large:
            settings.add_session_config_entry("session.optimized_model_external_initializers_file_name", WEIGHTS)
        try:
            lowered, notes = _lowered(source, options)
            with saved_beside(source, folder, large=large) if lowered else nullcontext(graph) as path:
                # A graph that was quantized elsewhere may have float biases, which the integer kernels do not take.
                disabled = DISABLED[:1] if _has_float_biases(source) else DISABLED
                _session(ort, path, settings, disabled)
        except _failures(ort) as e:
            raise _build_error(graph, e) from e
        built = read_graph(folder / ENGINE)
        if lowers and _lower_for_this_processor(built, opt_counts):
            _save(built, folder / ENGINE)
        layers = _layers(built)
        assert_precision(self.name, options.precision, quantized, layers)
        return BuildResult(
            engine=ENGINE,
            files=tuple(name for name in (ENGINE, WEIGHTS) if (folder / name).exists()),
            layers=layer_counts(layers),
            backend_version=self.version(),
            notes=notes,
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
        self._failures = _failures(ort)
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
            return dict(zip(self._names, session.run(self._names, feeds), strict=True))
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
    settings = _settings(ort, threads)
    _set_spinning(settings, spinning=spinning)
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    # Weights of 8 bits, which a graph that was quantized elsewhere has, become unsigned where products of unsigned by
    # signed bytes overflow (`scheme`). Measured with AVX2, a convolution then takes 1.6 times as long; weights of 7
    # bits stay signed. ONNX Runtime does it on some CPUs with VNNI too, where nothing overflows: a YOLOX took 1.8
    # times as long there.
    if not cpu().fast_int8:
        settings.add_session_config_entry("session.x64quantprecision", "1")
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


def _has_float_biases(source: ir.Model) -> bool:
    """Whether a product of integers has a bias that is not quantized."""
    # Needs onnx_ir, which runtime-only boards lack.
    from edgekit.graph.operators import BIASED_PRODUCTS

    for node in source.graph.all_nodes():
        if node.op_type in BIASED_PRODUCTS and len(node.inputs) > 2 and node.inputs[2] is not None:
            producers = [value.producer() if value is not None else None for value in node.inputs]
            quantized = [producer is not None and producer.op_type == "DequantizeLinear" for producer in producers]
            if quantized == [True, True, False]:
                return True
    return False


def _usual_element_counts(source: ir.Model, options: BuildOptions) -> Mapping[str, int]:
    from edgekit.lower.rewriting import usual_element_counts  # needs onnx_ir, which runtime-only boards lack

    return usual_element_counts(source, options.shapes)


def _lowered(source: ir.Model, options: BuildOptions) -> tuple[bool, tuple[str, ...]]:
    """Replaces patterns that ONNX Runtime does not fuse, or fuses wrongly; returns whether any were, and notes."""
    # These need onnx_ir, which runtime-only boards lack.
    from edgekit.lower.fuse_attention import FuseAttention
    from edgekit.lower.fuse_integer_matmul import FuseIntegerMatMul
    from edgekit.lower.fuse_rms_norm import FuseRmsNorm
    from edgekit.lower.keep_average_float import KeepAverageFloat
    from edgekit.lower.rewriting import lower
    from edgekit.lower.softmax_on_last_axis import SoftmaxOnLastAxis

    attention = FuseAttention()
    # Measured on x86 only.
    wanted = options.attention == "auto" and cpu().arch == "x86_64"
    modified = lower(
        source,
        [
            FuseIntegerMatMul(),
            KeepAverageFloat(LIMITS),
            SoftmaxOnLastAxis(),
            FuseRmsNorm("Div"),
            FuseRmsNorm("Mul"),
            *([attention] if wanted else []),
        ],
        bodies=True,
    )
    return modified, attention.notes()


def _lower_for_this_processor(built: ir.Model, opt_counts: Mapping[str, int]) -> bool:
    """Replaces operators by others that were measured to be faster on this CPU; returns whether any were replaced.

    Measured on x86 only. On Arm, the graph stays as ONNX Runtime wrote it.
    """
    # These need onnx_ir, which runtime-only boards lack.
    from edgekit.lower.replace_leaky_relu import ReplaceLeakyRelu
    from edgekit.lower.resize_as_gather import ResizeAsGather
    from edgekit.lower.rewriting import lower
    from edgekit.lower.split_float_weights import SplitFloatWeights

    here = cpu()
    if here.arch != "x86_64":
        return False
    # Without VNNI, sums of products with 8-bit weights overflow (`OnnxRuntime.scheme`).
    split = [SplitFloatWeights()] if here.fast_int8 else []
    return lower(built, [*split, ReplaceLeakyRelu(opt_counts), ResizeAsGather()])


def _save(built: ir.Model, engine: Path) -> None:
    """Writes the graph; external weights stay in their file."""
    import onnx_ir as ir

    ir.save(built, engine)


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
        **dict.fromkeys(INTEGER_PRODUCTS | INTEGER_RECURRENT | {"DynamicQuantizeMatMul", "MatMulNBits"}, "int8"),
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
