"""Lists the layers of a TensorRT engine and their precision, read from the engine, or else from its network."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from edgekit.engine.layer_timer import TimedLayer
from edgekit.engine.layers import Layer
from edgekit.engine.tensorrt.log import made_with_log

if TYPE_CHECKING:
    import tensorrt as trt

__all__ = [
    "EngineLayer",
    "inspected_layers",
    "layers_from_inspector",
    "layers_of_network",
    "nodes_in_words",
    "product_layers",
    "quantized_products",
    "timed_layers_from_inspector",
]

# TensorRT's layer types for ONNX's Conv, ConvTranspose, Gemm and MatMul.
PRODUCTS = frozenset({"convolution", "deconvolution", "matrix_multiply"})

# The parser inserts these between a DequantizeLinear and its consumer; they do not change values.
MOVES = frozenset({"SHUFFLE", "IDENTITY", "SQUEEZE", "UNSQUEEZE"})

DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "FP8": "float8",
    "FP4": "float4",
}

# The inspector's formats, such as "Channel major FP16 format where channel % 8 == 0", "Half", "Row major Int8 format".
INSPECTED_DTYPES = (
    (re.compile(r"\bint8\b", re.I), "int8"),
    (re.compile(r"\b(bf16|bfloat16)\b", re.I), "bfloat16"),
    (re.compile(r"\b(fp16|half|float16)\b", re.I), "float16"),
    (re.compile(r"\b(fp8|float8)\b", re.I), "float8"),
    (re.compile(r"\b(fp4|float4)\b", re.I), "float4"),
    (re.compile(r"\b(int4)\b", re.I), "int4"),
    (re.compile(r"\b(fp32|float|float32)\b", re.I), "float32"),
    (re.compile(r"\bint64\b", re.I), "int64"),
    (re.compile(r"\bint32\b", re.I), "int32"),
    (re.compile(r"\bbool\b", re.I), "bool"),
)

# Integer tensor core kernels: "sm80_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32_f32", "ampere_imma_...".
INTEGER_KERNEL = re.compile(r"i8i8|_imma_|_int8_")

BYTES = {
    **dict.fromkeys(("int64",), 8.0),
    **dict.fromkeys(("float32", "int32"), 4.0),
    **dict.fromkeys(("float16", "bfloat16"), 2.0),
    **dict.fromkeys(("int8", "float8", "bool"), 1.0),
    **dict.fromkeys(("float4", "int4"), 0.5),
}

ONNX_NODE = re.compile(r"\[ONNX Layer: ([^\]]*)\]")


class EngineLayer(msgspec.Struct, frozen=True, kw_only=True):
    """A layer of an engine, or of the network that it is built from.

    Attributes:
        name: TensorRT's name of the layer.
        type: layer type, such as ``convolution``.
        precision: element type of the computation; empty if TensorRT does not report it.
        outputs: shapes of the outputs; -1 is a dynamic size.
        nodes: names of the graph's nodes that the layer was made from.
    """

    name: str
    type: str
    precision: str
    outputs: tuple[tuple[int, ...], ...]
    nodes: tuple[str, ...] = ()


class Inspection(msgspec.Struct, frozen=True):
    """The inspector's JSON; an entry is a string if the engine was built without detailed profiling verbosity."""

    Layers: tuple[dict[str, Any] | str, ...] = ()


def layers_of_network(library: Any, network: trt.INetworkDefinition) -> tuple[EngineLayer, ...]:
    """Returns the network's layers without constants; a product of two dequantized factors is int8."""
    layers: list[trt.ILayer] = [network.get_layer(index) for index in range(network.num_layers)]
    makers = {tensor.name: layer for layer in layers for tensor in _outputs(layer)}
    return tuple(
        EngineLayer(
            name=layer.name,
            type=layer.type.name.lower(),
            precision=_precision(library, layer, makers),
            outputs=tuple(_sizes(tensor) for tensor in _outputs(layer)),
            nodes=tuple(ONNX_NODE.findall(layer.metadata)),
        )
        for layer in layers
        if layer.type != library.LayerType.CONSTANT
    )


def inspected_layers(library: Any, plan: trt.IHostMemory, log: Any) -> tuple[EngineLayer, ...]:
    """Returns the layers of a built engine from TensorRT's inspector; empty if the engine cannot be loaded here.

    Args:
        library: ``tensorrt`` or ``tensorrt_rtx``.
        plan: the engine.
        log: the builder's logger, one per process.
    """
    runtime: trt.Runtime = made_with_log(library.Runtime, log)
    runtime.engine_host_code_allowed = True  # a version-compatible plan contains a runtime; it is safe, we built it
    engine: trt.ICudaEngine | None = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        return ()
    inspector: trt.EngineInspector = engine.create_engine_inspector()
    information = inspector.get_engine_information(library.LayerInformationFormat.JSON)
    return layers_from_inspector(information)


def layers_from_inspector(information: str) -> tuple[EngineLayer, ...]:
    """Parses the inspector's JSON; skips layers of which it gives only the name."""
    try:
        entries = msgspec.json.decode(information, type=Inspection).Layers
    except msgspec.MsgspecError:  # the engine is valid without this information
        return ()
    return tuple(_inspected(entry) for entry in entries if isinstance(entry, dict))


def timed_layers_from_inspector(information: str) -> dict[str, TimedLayer]:
    """Describes layers by the inspector's JSON, by name, as its profiler names them; see `layers_from_inspector`."""
    try:
        entries = msgspec.json.decode(information, type=Inspection).Layers
    except msgspec.MsgspecError:  # the engine is valid without this information
        return {}
    return {str(entry["Name"]): _timed(entry) for entry in entries if isinstance(entry, dict) and "Name" in entry}


def product_layers(network: Sequence[EngineLayer], built: Sequence[EngineLayer]) -> list[Layer]:
    """Returns the network's convolutions and matrix products, with their element types as built.

    Args:
        network: the layers of the network.
        built: the layers of the engine, if it could be read back; each may contain several network layers. A network
            layer that is not in ``built`` was computed in the build, or has another name, and keeps its type.
    """
    by_node: defaultdict[str, list[str]] = defaultdict(list)
    for layer in built:
        for node in layer.nodes if layer.precision else ():
            by_node[node].append(layer.precision)
    return [
        Layer((layer.name,), _as_built(layer, [dtype for node in layer.nodes for dtype in by_node[node]]))
        for layer in network
        if layer.type in PRODUCTS
    ]


def quantized_products(network: Sequence[EngineLayer]) -> tuple[str, ...]:
    """Returns the names of the convolutions and matrix products that are quantized in the graph."""
    return tuple(layer.name for layer in network if layer.type in PRODUCTS and layer.precision == "int8")


def nodes_in_words(network: Sequence[EngineLayer], words: str) -> tuple[str, ...]:
    """Returns the names of the graph's nodes whose layers a message of the builder names.

    The builder's asserts speak of layers, such as "the_nms_1 has no runners that implement it".
    """
    named = {
        node: None
        for layer in network
        if layer.name and re.search(rf"(?<![\w/]){re.escape(layer.name)}(?![\w/])", words)
        for node in layer.nodes or (layer.name,)
    }
    return tuple(named)


def _as_built(layer: EngineLayer, dtypes: Sequence[str]) -> str:
    """Chooses the type of a layer from those of the built layers: one of them may only add a Gemm's bias."""
    return "int8" if "int8" in dtypes else next(iter(dtypes), layer.precision)


def _precision(library: Any, layer: trt.ILayer, makers: dict[str, trt.ILayer]) -> str:
    """Returns the type of a layer: that of its factors for a product, else that of its output."""
    if layer.type.name.lower() not in PRODUCTS:
        first = next(_outputs(layer), None)
        return "" if first is None else _dtype(first)
    factors: list[trt.ITensor] = [layer.get_input(index) for index in range(min(2, layer.num_inputs))]
    sources = [_dequantized(library, factor, makers) for factor in factors]
    if len(sources) == 2 and all(source == "int8" for source in sources):
        return "int8"
    return _dtype(factors[0])


def _dequantized(library: Any, tensor: trt.ITensor, makers: dict[str, trt.ILayer]) -> str:
    """Returns the type that a tensor was dequantized from; empty if it was not."""
    maker = makers.get(tensor.name)
    while maker is not None and maker.type.name in MOVES:
        maker = makers.get(maker.get_input(0).name)
    if maker is None or maker.type != library.LayerType.DEQUANTIZE:
        return ""
    return _dtype(maker.get_input(0))


def _outputs(layer: trt.ILayer) -> Iterator[trt.ITensor]:
    return (layer.get_output(index) for index in range(layer.num_outputs))


def _sizes(tensor: trt.ITensor) -> tuple[int, ...]:
    try:
        return tuple(tensor.shape)
    except ValueError:  # the rank is dynamic
        return ()


def _dtype(tensor: trt.ITensor) -> str:
    name: str = tensor.dtype.name
    return DTYPES.get(name, name.lower())


def _inspected(entry: dict[str, Any]) -> EngineLayer:
    outputs = entry.get("Outputs", [])
    return EngineLayer(
        name=str(entry.get("Name", "")),
        type=str(entry.get("LayerType", "")).lower(),
        precision=_inspected_precision(entry),
        outputs=tuple(tuple(tensor.get("Dimensions", ())) for tensor in outputs),
        nodes=tuple(ONNX_NODE.findall(str(entry.get("Metadata", "")))),
    )


def _timed(entry: dict[str, Any]) -> TimedLayer:
    layer, inputs, outputs = _inspected(entry), entry.get("Inputs", []), entry.get("Outputs", [])
    sizes = [_tensor_bytes(tensor) for tensor in (*inputs, *outputs)]
    return TimedLayer(
        name=layer.name,
        operator=str(entry.get("LayerType", "")),
        nodes=layer.nodes,
        precision=layer.precision,
        inputs=tuple(tuple(tensor.get("Dimensions", ())) for tensor in inputs),
        outputs=layer.outputs,
        activation_bytes=None if None in sizes else sum(size for size in sizes if size is not None),
        kernel=str(entry.get("TacticName", "")),
    )


def _tensor_bytes(tensor: dict[str, Any]) -> int | None:
    """Returns the size of a tensor without the padding of its format; None if its type or a size is not known."""
    each, sizes = BYTES.get(_inspected_dtype(_format(tensor))), tensor.get("Dimensions", ())
    return None if each is None or any(size < 0 for size in sizes) else math.ceil(each * math.prod(sizes))


def _inspected_precision(entry: dict[str, Any]) -> str:
    """Returns the type of the weights if listed separately; else int8 if an input or the kernel name has it.

    A kernel may quantize and dequantize internally, so the types of its inputs and outputs do not prove in which type
    it multiplies.
    """
    weights = entry.get("Weights")
    if isinstance(weights, dict) and (dtype := _inspected_dtype(str(weights.get("Type", "")))):
        return dtype
    inputs = [_inspected_dtype(_format(tensor)) for tensor in entry.get("Inputs", [])]
    if "int8" in inputs or INTEGER_KERNEL.search(str(entry.get("TacticName", ""))):
        return "int8"
    outputs = [_inspected_dtype(_format(tensor)) for tensor in entry.get("Outputs", [])]
    return next((dtype for dtype in [*inputs, *outputs] if dtype), "")


def _format(tensor: dict[str, Any]) -> str:
    return str(tensor.get("Format/Datatype") or tensor.get("Datatype") or tensor.get("Format") or "")


def _inspected_dtype(words: str) -> str:
    return next((dtype for pattern, dtype in INSPECTED_DTYPES if pattern.search(words)), "")
