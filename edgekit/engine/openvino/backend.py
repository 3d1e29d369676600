"""The backend ``openvino``: OpenVINO's CPU plugin. The only file that talks to OpenVINO."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.device.cpu import cpu
from edgekit.device.huge_pages import huge_pages
from edgekit.engine.backend import BuildOptions, BuildResult
from edgekit.engine.layers import Layer, assert_precision, layer_counts
from edgekit.engine.planes import with_planes_as_one
from edgekit.engine.source_graph import quantized_layers, read_graph, saved_beside, weight_files
from edgekit.errors import BackendUnavailable, BuildError, EngineMismatch, GraphError, RunError
from edgekit.extras import install_command
from edgekit.specs import Precision, QuantScheme, TensorSpec

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["OpenVino"]

ENGINE = "engine.xml"
WEIGHTS = "engine.bin"

INTEGER_OPERATORS = frozenset(
    "Add AveragePool Concat Conv ConvTranspose Gemm GlobalAveragePool MatMul MaxPool ReduceMean Resize".split()
)

# Where the arithmetic of what is not quantized is kept in the engine's own file.
ARITHMETIC = ["edgekit", "arithmetic"]

# And the names of its outputs, in order.
OUTPUTS = ["edgekit", "outputs"]

# And of those whose channels are last in the engine, and not in the graph.
CHANNELS_LAST = ["edgekit", "channels_last"]

# Axes of such an output in the order that the graph means.
CHANNELS_FIRST = (0, 3, 1, 2)

# On processors with AMX or AVX512-BF16 the plugin computes float32 graphs in bfloat16 unless it is told not to,
# with 8 bits of mantissa instead of 24. What is built is what was asked for.
HINTS = {Precision.FP32: "f32", Precision.FP16: "f16", Precision.BF16: "bf16", Precision.INT8: "f32"}

DTYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16", "u8": "int8", "i8": "int8"}

# The first with an axis of DequantizeLinear; Pad and MaxPool take bytes from 12 on.
LEAST_OPSET = 13

PRODUCTS = frozenset({"Convolution", "GroupConvolution", "Deconvolution", "FullyConnected", "MatMul"})


class OpenVino:
    """OpenVINO on the processor."""

    name = "openvino"
    precisions = frozenset({Precision.FP32, Precision.INT8})
    on_gpu = False

    def require(self) -> None:
        """See `Backend.require`."""
        _library()

    def require_device(self, compute_capabilities: Sequence[str]) -> None:
        """See `Backend.require_device`; the processor is always there."""

    def version(self) -> str:
        """Such as ``2026.4.1``; what follows in OpenVINO's own words names the commit."""
        return str(_library().__version__).split("-", 1)[0]

    def scheme(self) -> QuantScheme:
        """uint8 activations at the inputs of products, and of what stands between one and the next.

        OpenVINO fuses activation functions, residual sums and the next Q into the convolution before if Q/DQ stand at
        both summands, and it pools and joins integers if Q/DQ stand before and not behind. With pairs at products
        only, sums and poolings run in float32 and numbers go to and fro: measured against NNCF's INT8, 1.33 times
        as slow on residual blocks as in ResNet, 1.10 on YOLOv3 and 1.09 on YOLOv3-tiny; with them at all of these,
        1.00, 1.02 and 1.05, of which the float heads are the rest. Signed activations are as fast as unsigned.
        Without VNNI, oneDNN's products of 8 bits overflow as ONNX Runtime's do.
        """
        from edgekit.lower.split_float_weights import LEAST_CHANNELS  # needs onnx_ir, as those who quantize do

        here = cpu()
        return QuantScheme(
            activation_dtype="uint8",
            operators=INTEGER_OPERATORS,
            fused_activations=frozenset({"Clip", "HardSwish", "LeakyRelu", "Relu", "Sigmoid"}),
            per_channel_weights=True,
            weight_bits=7 if here.arch == "x86_64" and not here.fast_int8 else 8,
            float_bias=True,
            split_channels=LEAST_CHANNELS if _may_lower() else 0,
        )

    def build(self, graph: Path, folder: Path, options: BuildOptions) -> BuildResult:
        """Writes the graph in OpenVINO's format, and compiles it once to read back what it computes in."""
        ov = _library()
        source = read_graph(graph)
        engine = folder / ENGINE
        quantized = quantized_layers(source, joining=True)
        lowered, turned = _lower_for_this_processor(source, options)
        with saved_beside(source, folder, large=bool(weight_files(source))) if lowered else nullcontext(graph) as path:
            try:
                model = ov.Core().read_model(path)
            except RuntimeError as e:
                raise GraphError(f"OpenVINO cannot take {graph.name}: {_words(e)}") from e
            _bound(ov, model, options)
            # A tensor may have several names, and lose one when it is saved and read.
            model.set_rt_info("\n".join(output.name or "" for output in source.graph.outputs), OUTPUTS)
            model.set_rt_info("\n".join(turned), CHANNELS_LAST)
            model.set_rt_info(HINTS[options.precision], ARITHMETIC)
            try:
                # Half-precision weights, its default, would round what the graph says.
                ov.save_model(model, engine, compress_to_fp16=False)
                layers = _layers(_compile(ov, engine, options.threads)[0].get_runtime_model())
            except RuntimeError as e:
                raise BuildError(f"OpenVINO failed to build {graph.name}: {_words(e)}") from e
        assert_precision(self.name, options.precision, quantized, layers)
        return BuildResult(
            engine=ENGINE, files=(ENGINE, WEIGHTS), layers=layer_counts(layers), backend_version=self.version()
        )

    def load(self, engine: Path, *, threads: int = 0) -> Request:
        """See `Backend.load`."""
        ov = _library()
        try:
            with huge_pages():
                return Request(*_compile(ov, engine, threads))
        except RuntimeError as e:
            raise EngineMismatch(f"OpenVINO {self.version()} cannot load {engine}: {_words(e)}") from e


class Request:
    """An `Engine` that OpenVINO runs."""

    notes: Sequence[str] = ()

    def __init__(self, compiled: Any, names: Sequence[str], turned: Collection[str]) -> None:
        self._request = compiled.create_infer_request()
        self._turned = {index for index, name in enumerate(names) if name in turned}
        self.inputs = tuple(_spec(port, port.get_any_name()) for port in compiled.inputs)
        self.outputs = tuple(
            _spec(port, name, CHANNELS_FIRST if index in self._turned else None)
            for index, (port, name) in enumerate(zip(compiled.outputs, names, strict=True))
        )

    def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """See `Engine.run`."""
        if self._request is None:
            raise RunError("the engine is closed")
        try:
            results = self._request.infer(feeds, share_inputs=True)
        except (RuntimeError, ValueError, TypeError) as e:
            raise RunError(f"OpenVINO failed while running: {_words(e)}") from e
        return {
            spec.name: results[index].transpose(CHANNELS_FIRST) if index in self._turned else results[index]
            for index, spec in enumerate(self.outputs)
        }

    def close(self) -> None:
        """See `Engine.close`."""
        self._request = None


def _library() -> Any:
    try:
        import openvino
    except ImportError as e:
        hint = install_command("openvino")
        raise BackendUnavailable(f"target 'openvino' needs the package 'openvino': {e}", hint=hint) from e
    return openvino


def _compile(ov: Any, engine: Path, threads: int) -> tuple[Any, list[str], list[str]]:
    """The engine, the names of its outputs, and of those with channels last."""
    core = ov.Core()
    model = core.read_model(engine)
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads or cpu().compute_threads,
        "INFERENCE_PRECISION_HINT": model.get_rt_info(ARITHMETIC).astype(str),
    }
    if _may_chain_integer_products(model):
        settings["SNIPPETS_MODE"] = "DISABLE"
    names = model.get_rt_info(OUTPUTS).astype(str).split("\n")
    # Engines that were built before there was such a thing have none.
    turned = model.get_rt_info(CHANNELS_LAST).astype(str).split("\n") if model.has_rt_info(CHANNELS_LAST) else []
    return core.compile_model(model, "CPU", settings), names, turned


def _may_lower() -> bool:
    """Whether this is x86 with VNNI, where alone it was measured. Elsewhere OpenVINO gets graphs as they are."""
    here = cpu()
    return here.arch == "x86_64" and here.fast_int8


def _lower_for_this_processor(model: ir.Model, options: BuildOptions) -> tuple[bool, list[str]]:
    """Makes what was measured to be faster here of a graph; whether it did, and the outputs with channels last."""
    # These need onnx_ir, which boards that run engines lack.
    from edgekit.lower.outputs_channels_last import OutputsChannelsLast
    from edgekit.lower.pad_integer_inputs import PadIntegerInputs
    from edgekit.lower.rewriting import lower, usual_element_counts
    from edgekit.lower.split_float_weights import SplitFloatWeights

    opsets = [version for domain, version in model.opset_imports.items() if domain in ("", "ai.onnx")]
    if options.precision is not Precision.INT8 or not _may_lower() or min(opsets, default=0) < LEAST_OPSET:
        return False, []
    outputs = OutputsChannelsLast()
    usual = usual_element_counts(model, options.shapes)
    return lower(model, [SplitFloatWeights(fused=False), PadIntegerInputs(usual), outputs]), outputs.turned


def _may_chain_integer_products(model: Any) -> bool:
    """Whether there are two quantized matrix products of two dimensions, which the plugin may fuse into one kernel.

    OpenVINO 2026.4 does so for few rows, 4 and not 1 or 64, by its code generator "snippets", and where the first
    product has no bias the result is garbage: -185 dB, while without snippets it is 37 dB. Other engines keep them:
    they are 2 % faster so on YOLOv3-tiny and 5 % on a small transformer, whose products have three dimensions.
    """
    operators = model.get_ops()
    ranks = [op.get_output_partial_shape(0).rank for op in operators if op.get_type_name() == "MatMul"]
    quantized = any(op.get_type_name() == "FakeQuantize" for op in operators)
    return quantized and sum(rank.is_dynamic or rank.get_length() <= 2 for rank in ranks) > 1


def _bound(ov: Any, model: Any, options: BuildOptions) -> None:
    """Tells the plugin the range of each size that is chosen at run time, which it plans memory by."""
    names = {port: port.get_any_name() for port in model.inputs}
    bounds = {
        name: ov.PartialShape(list(map(ov.Dimension, options.shapes[name].min, options.shapes[name].max)))
        for name in names.values()
        if name in options.shapes
    }
    if bounds:
        model.reshape(bounds)


def _layers(executed: Any) -> list[Layer]:
    """Convolutions and matrix products of the graph that the plugin executes."""
    layers = []
    for operator in executed.get_ops():
        facts = operator.get_rt_info()
        if _text(facts["layerType"]) in PRODUCTS:
            # A bias that it moves elsewhere leaves `name/WithoutBiases` behind.
            names = (n.removesuffix("/WithoutBiases") for n in _text(facts["originalLayersNames"]).split(","))
            dtype = DTYPES.get(_text(facts["runtimePrecision"]), "float32")
            layers.append(Layer(tuple(dict.fromkeys(names)), dtype))
    return with_planes_as_one(layers)


def _text(value: Any) -> str:
    return str(getattr(value, "value", value))


def _words(error: Exception) -> str:
    """OpenVINO's own words, without the lines that name its source files."""
    lines = (line.strip() for line in str(error).splitlines())
    kept = [line for line in lines if line and not line.startswith(("Exception from src", "Check '"))]
    return " ".join(kept) or str(error).strip()


def _spec(port: Any, name: str, order: Sequence[int] | None = None) -> TensorSpec:
    """``order``: of the axes, if it is another one."""
    sizes = list(port.get_partial_shape())
    sizes = sizes if order is None else [sizes[axis] for axis in order]
    shape = tuple(f"{name}_{axis}" if size.is_dynamic else size.get_length() for axis, size in enumerate(sizes))
    return TensorSpec(name, port.get_element_type().to_dtype().name, shape)
