"""The backend ``openvino``: OpenVINO's CPU plugin. The only module that uses OpenVINO."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from edgekit.arguments import argument
from edgekit.device.cpu import cpu
from edgekit.device.huge_pages import huge_pages
from edgekit.engine.backend import BuildOptions, BuildResult
from edgekit.engine.base import BaseEngine
from edgekit.engine.layers import Layer, assert_precision, layer_counts
from edgekit.engine.openvino.executed import PRODUCTS, fact, group_size, is_integer, original_names, product_type
from edgekit.engine.openvino.layer_timer import OpenVinoLayerTimer
from edgekit.engine.openvino.lowering import lower_for_processor, narrow_for_processor
from edgekit.engine.openvino.messages import compilation_error, conversion_error, words_of
from edgekit.engine.openvino.scheme import scheme_of_processor
from edgekit.engine.openvino.stable_top_k import sort_equal_values
from edgekit.engine.planes import with_planes_as_one
from edgekit.engine.source_graph import name_nodes, quantized_layers, read_graph, saved_beside, weight_files
from edgekit.errors import BackendUnavailable, BuildError, EngineMismatch, RunError
from edgekit.extras import install_command
from edgekit.specs import Precision, QuantScheme, TensorSpec
from edgekit.storage import path_for_library
from edgekit.telemetry import import_openvino

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["OpenVino"]

ENGINE = "engine.xml"
WEIGHTS = "engine.bin"

# Key of the precision of layers that are not quantized, in the engine file.
ARITHMETIC = ["edgekit", "arithmetic"]

# Key of the number of elements that get one range in each run, in products that quantize their inputs themselves.
GROUP_SIZE = ["edgekit", "group_size"]

# OpenVINO's default, for graphs whose weights alone are quantized, and for weights that OpenVINO multiplies by no
# integers of a Q/DQ pair. Elsewhere, these pairs say what is quantized, and nothing else is.
OWN_GROUP_SIZE = 32

# Keys of the names of its inputs and outputs, in order: OpenVINO may give a tensor another name.
INPUTS = ["edgekit", "inputs"]
OUTPUTS = ["edgekit", "outputs"]


# Key of the names of the outputs that are channels-last in the engine, but not in the graph.
CHANNELS_LAST = ["edgekit", "channels_last"]

# Axes of such an output in the order of the graph.
CHANNELS_FIRST = (0, 3, 1, 2)

# On CPUs with AMX or AVX512-BF16 the plugin computes float32 graphs in bfloat16 by default, with 8 bits of mantissa
# instead of 24. The hint sets the requested precision.
HINTS = {Precision.FP32: "f32", Precision.FP16: "f16", Precision.BF16: "bf16", Precision.INT8: "f32"}

WIDE_INTEGERS = frozenset({"int64", "uint32", "uint64"})


# Queries, keys and values of an attention.
FACTORS = 3


class OpenVino:
    """OpenVINO on the CPU."""

    name = "openvino"
    precisions = frozenset({Precision.FP32, Precision.INT8})
    on_gpu = False
    computes = True
    rounds_to_fp8 = False  # it rounds to 16 bits first

    def require(self) -> None:
        """See `Backend.require`."""
        _library()

    def require_device(self, compute_capabilities: Sequence[str]) -> None:
        """See `Backend.require_device`; the CPU is always available."""

    def version(self) -> str:
        """Returns the version, such as ``2026.4.1``; the rest of OpenVINO's version string names the commit."""
        return str(_library().__version__).split("-", 1)[0]

    def scheme(self) -> QuantScheme:
        """See `Backend.scheme`."""
        return scheme_of_processor()

    def build(self, graph: Path, folder: Path, options: BuildOptions) -> BuildResult:
        """Writes the graph in OpenVINO's format, and compiles it once to read back the element types."""
        ov = _library()
        source = read_graph(graph)  # says so where onnx_ir is missing, which the next import needs
        from edgekit.lower.openvino_as_onnx import compute_as_onnx
        from edgekit.lower.round_in_floats import ROUNDED, round_in_floats
        from edgekit.lower.weights_without_zero_point import has_weights_with_zero_points

        engine = folder / ENGINE
        named = name_nodes(source)
        weights_only = options.precision is Precision.INT8 and not _has_quantizer(source)
        quantized = quantized_layers(source, joining=True, weights_only=weights_only)
        attentions, products = _attention_products(source), _products(source)
        in_floats = options.precision is Precision.FP32 and round_in_floats(source, ROUNDED)
        corrected = compute_as_onnx(source)
        narrowed = narrow_for_processor(source, options)
        lowered, turned = lower_for_processor(source, options)
        changed = named or in_floats or corrected or lowered or narrowed > 0
        own = weights_only or (options.precision is Precision.INT8 and has_weights_with_zero_points(source))
        group = OWN_GROUP_SIZE if own else 0
        with saved_beside(source, folder, large=bool(weight_files(source))) if changed else nullcontext(graph) as path:
            try:
                model = ov.Core().read_model(path)
            except RuntimeError as e:
                raise conversion_error(source, graph, e) from e
            sort_equal_values(model)
            inputs = [value.name or "" for value in source.graph.inputs if not value.is_initializer()]
            _bound(ov, model, inputs, options)
            # A tensor may have several names, and may lose one when the model is saved and loaded.
            model.set_rt_info("\n".join(inputs), INPUTS)
            model.set_rt_info("\n".join(output.name or "" for output in source.graph.outputs), OUTPUTS)
            model.set_rt_info("\n".join(turned), CHANNELS_LAST)
            model.set_rt_info(HINTS[options.precision], ARITHMETIC)
            model.set_rt_info(str(group), GROUP_SIZE)
            try:
                # OpenVINO's default, half-precision weights, would round the graph's weights.
                ov.save_model(model, engine, compress_to_fp16=False)
                compiled = _compile(ov, engine, options.threads).model
                executed = compiled.get_runtime_model()
                layers = _layers(executed, group_size(compiled), products)
            except RuntimeError as e:
                raise compilation_error(source, graph, e) from e
        _require_shapes(model, compiled)
        others = assert_precision(
            self.name,
            options.precision,
            quantized,
            layers,
            came_quantized=options.came_quantized,
            weights_only=weights_only,
        )
        return BuildResult(
            engine=ENGINE,
            files=(ENGINE, WEIGHTS),
            layers=layer_counts(layers),
            backend_version=self.version(),
            notes=(
                *others,
                *_narrowing_notes(narrowed),
                *_attention_notes(attentions, layers, _integer_kernels(executed)),
            ),
        )

    def load(self, engine: Path, *, threads: int = 0) -> Request:
        """See `Backend.load`."""
        ov = _library()
        try:
            with huge_pages():
                return Request(ov, engine, threads)
        except RuntimeError as e:
            raise EngineMismatch(f"OpenVINO {self.version()} cannot load {engine}: {words_of(e)}") from e


def _require_32_bits(name: str, array: np.ndarray) -> None:
    """Refuses integers that OpenVINO would cut: it computes all in 32 bits with a sign."""
    limits = np.iinfo(np.int32)
    if array.size and (array.max() > limits.max or array.min() < limits.min):
        worst = max(array.max(), array.min(), key=lambda number: abs(int(number)))
        raise RunError(
            f"input '{name}': OpenVINO computes integers in 32 bits: expected numbers from {limits.min} to "
            f"{limits.max}, got {worst}",
            hint=f"build the model with {argument('target', 'cpu')}",
        )


class Request(BaseEngine):
    """An `Engine` that runs on OpenVINO."""

    notes: Sequence[str] = ()

    def __init__(self, ov: Any, engine: Path, threads: int) -> None:
        compiled, inputs, names, turned = _compile(ov, engine, threads)
        self._loaded = (ov, engine, threads)
        self._tensor = ov.Tensor
        self._request = compiled.create_infer_request()
        self._turned = {index for index, name in enumerate(names) if name in turned}
        self.inputs = tuple(_spec(port, name) for port, name in zip(compiled.inputs, inputs, strict=True))
        self.outputs = tuple(
            _spec(port, name, CHANNELS_FIRST if index in self._turned else None)
            for index, (port, name) in enumerate(zip(compiled.outputs, names, strict=True))
        )

    def layer_timer(self) -> OpenVinoLayerTimer:
        """See `TimesLayers.layer_timer`."""
        self._require_open()
        ov, engine, threads = self._loaded
        try:
            with huge_pages():
                return OpenVinoLayerTimer(_compile(ov, engine, threads, counters=True).model, self._run_request)
        except RuntimeError as e:
            raise EngineMismatch(f"OpenVINO cannot load {engine} with performance counters: {words_of(e)}") from e

    def _run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return self._run_request(self._request, feeds)

    def _run_request(self, request: Any, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        for spec in self.inputs:
            if spec.dtype in WIDE_INTEGERS:
                _require_32_bits(spec.name, feeds[spec.name])
        try:
            feed = {index: self._shared(feeds[spec.name]) for index, spec in enumerate(self.inputs)}
            # Keys of the returned dictionary are ports; looking one up by its index takes longer than a small layer.
            results = request.infer(feed, share_inputs=True).to_tuple()
        except (RuntimeError, ValueError, TypeError) as e:
            raise RunError(f"OpenVINO failed while running: {words_of(e)}") from e
        return {
            spec.name: results[index].transpose(CHANNELS_FIRST) if index in self._turned else results[index]
            for index, spec in enumerate(self.outputs)
        }

    def _shared(self, array: np.ndarray) -> Any:
        """Returns a tensor over the memory of an array, or the array where OpenVINO has to copy it."""
        if array.ndim and array.dtype.kind in "fiub" and array.flags.writeable and array.flags.c_contiguous:
            return self._tensor(array, shared_memory=True)
        return array

    def _release(self) -> None:
        del self._request


def _library() -> Any:
    try:
        return import_openvino()
    except ImportError as e:
        hint = install_command("openvino")
        raise BackendUnavailable(f"target 'openvino' needs the package 'openvino': {e}", hint=hint) from e


class _Compiled(NamedTuple):
    """A compiled engine, the names of its inputs and outputs, and those of its channels-last outputs."""

    model: Any
    inputs: list[str]
    outputs: list[str]
    turned: list[str]


def _require_shapes(model: Any, compiled: Any) -> None:
    for wanted, got in zip(model.outputs, compiled.outputs, strict=True):
        if not wanted.partial_shape.compatible(got.partial_shape):
            raise BuildError(
                f"output '{wanted.any_name}': expected the shape {wanted.partial_shape}, OpenVINO computes "
                f"{got.partial_shape}",
                hint="build it for cpu, and report the model",
            )


def _compile(ov: Any, engine: Path, threads: int, *, counters: bool = False) -> _Compiled:
    core = ov.Core()
    with path_for_library(engine) as path:
        model = core.read_model(path)
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads or cpu().compute_threads,
        "INFERENCE_PRECISION_HINT": model.get_rt_info(ARITHMETIC).astype(str),
    }
    # Engines from earlier versions do not have this key.
    if model.has_rt_info(GROUP_SIZE):
        settings["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = model.get_rt_info(GROUP_SIZE).astype(str)
    if counters:
        settings["PERF_COUNT"] = True
    if _may_chain_integer_products(model):
        settings["SNIPPETS_MODE"] = "DISABLE"
    outputs = model.get_rt_info(OUTPUTS).astype(str).split("\n")
    # Engines from earlier versions do not have these keys.
    inputs = [port.get_any_name() for port in model.inputs]
    if model.has_rt_info(INPUTS):
        inputs = list(filter(None, model.get_rt_info(INPUTS).astype(str).split("\n")))
    turned = model.get_rt_info(CHANNELS_LAST).astype(str).split("\n") if model.has_rt_info(CHANNELS_LAST) else []
    return _Compiled(_compiled_model(core, model, settings), inputs, outputs, turned)


def _compiled_model(core: Any, model: Any, settings: dict[str, Any]) -> Any:
    """Compiles a model, without OpenVINO's code generator "snippets" if that is what fails.

    2026.4 fails to fuse two products in a row if the first has one column: "Layout rank can't be larger than tensor
    rank".
    """
    try:
        return core.compile_model(model, "CPU", settings)
    except RuntimeError as e:
        if "snippets" not in str(e):
            raise
        return core.compile_model(model, "CPU", {**settings, "SNIPPETS_MODE": "DISABLE"})


def _narrowing_notes(count: int) -> tuple[str, ...]:
    why = "sums of products with 8-bit weights would overflow on this processor"
    return (f"weights of {count} quantized layers were rounded to 7 bits: {why}",) if count else ()


def _may_chain_integer_products(model: Any) -> bool:
    """Whether there are two quantized 2-D matrix products, which the plugin may fuse into one kernel.

    OpenVINO 2026.4 fuses them for few rows (4, but not 1 or 64) with its code generator "snippets", and if the first
    product has no bias, the result is wrong: an SNR of -185 dB, against 37 dB without snippets. Other engines keep
    snippets: YOLOv3-tiny is 2 % faster with them, and a small transformer, with 3-D products, 5 %.
    """
    operators = model.get_ops()
    ranks = [op.get_output_partial_shape(0).rank for op in operators if op.get_type_name() == "MatMul"]
    quantized = any(op.get_type_name() == "FakeQuantize" for op in operators)
    return quantized and sum(rank.is_dynamic or rank.get_length() <= 2 for rank in ranks) > 1


def _bound(ov: Any, model: Any, inputs: Sequence[str], options: BuildOptions) -> None:
    """Sets the range of each dynamic size, which the plugin uses to plan memory."""
    bounds = {
        port: ov.PartialShape(list(map(ov.Dimension, options.shapes[name].min, options.shapes[name].max)))
        for port, name in zip(model.inputs, inputs, strict=True)
        if name in options.shapes
    }
    if bounds:
        model.reshape(bounds)


def _layers(executed: Any, group: int, products: Sequence[str]) -> list[Layer]:
    """Returns the convolutions and matrix products of the graph that the plugin executes.

    OpenVINO 2026.4 loses the name of a product whose weights it dequantizes itself: such layers get the names of the
    products that no layer has, if there are as many.
    """
    names = {operator: original_names(operator) for operator in executed.get_ops()}
    found = {name for each in names.values() for name in each}
    layers = [operator for operator in names if fact(operator, "layerType") in PRODUCTS]
    nameless = [operator for operator in layers if found.intersection(products).isdisjoint(names[operator])]
    lost = [name for name in products if name not in found]
    if len(lost) == len(nameless):
        names.update(zip(nameless, ((name,) for name in lost), strict=True))
    return with_planes_as_one(Layer(names[operator], product_type(operator, group)) for operator in layers)


def _products(source: ir.Model) -> list[str]:
    from edgekit.graph.operators import PRODUCTS as OPERATORS  # needs onnx_ir

    return [node.name for node in source.graph.all_nodes() if node.op_type in OPERATORS and node.name]


def _has_quantizer(source: ir.Model) -> bool:
    return any(node.op_type == "QuantizeLinear" for node in source.graph)


def _attention_products(source: ir.Model) -> list[set[str]]:
    """Returns the names of both products of each attention."""
    from edgekit.graph.attention import find_attention  # needs onnx_ir

    return [{found.scores.name or "", found.mean.name or ""} for found in find_attention(source)]


def _integer_kernels(executed: Any) -> set[str]:
    """Returns the names of the operators that generated kernels for whole attentions compute on integers.

    Such a kernel reads queries, keys and values in integers. OpenVINO names the kernel after one of them.
    """
    return {
        name
        for operator in executed.get_ops()
        if fact(operator, "layerType") == "Subgraph" and sum(map(is_integer, operator.input_values())) >= FACTORS
        for name in original_names(operator)
    }


def _attention_notes(attentions: Sequence[set[str]], layers: Sequence[Layer], integer: set[str]) -> tuple[str, ...]:
    """Says how many attentions the plugin fuses.

    It takes single operators and ``ScaledDotProductAttention`` alike: it decomposes the latter, and makes one kernel of
    products, mask and Softmax with its code generator "snippets". Measured with 2026.4 on AVX2: the same kernels, and
    0.98 to 1.09 of the time with the operator, so the graph keeps its single operators.
    """
    if not attentions:
        return ()
    alone = {name for layer in layers for name in layer.names}
    fused = [names for names in attentions if names.isdisjoint(alone)]
    whole = sum(names <= integer for names in fused)
    on_integers = f", {whole} on integers" if whole else ""
    one_each = f"attention: {len(fused)} of {len(attentions)} run as one kernel each, which OpenVINO fuses itself"
    return (one_each + on_integers,)


def _spec(port: Any, name: str, order: Sequence[int] | None = None) -> TensorSpec:
    """Makes the specification of a port; ``order`` permutes the axes."""
    sizes = list(port.get_partial_shape())
    sizes = sizes if order is None else [sizes[axis] for axis in order]
    shape = tuple(f"{name}_{axis}" if size.is_dynamic else size.get_length() for axis, size in enumerate(sizes))
    return TensorSpec(name, port.get_element_type().to_dtype().name, shape)
