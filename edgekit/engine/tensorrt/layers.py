"""Which layers a TensorRT engine has, and in what they compute: read from the engine, or else from its network."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from edgekit.engine.layers import Layer
from edgekit.engine.tensorrt.log import made_with_log

if TYPE_CHECKING:
    import tensorrt as trt

__all__ = [
    "EngineLayer",
    "inspected_layers",
    "layers_from_inspector",
    "layers_of_network",
    "product_layers",
    "quantized_products",
]

# TensorRT's layer types of what ONNX calls Conv, ConvTranspose, Gemm and MatMul.
PRODUCTS = frozenset({"convolution", "deconvolution", "matrix_multiply"})

# The parser puts these between a DequantizeLinear and its reader; they move numbers and change none.
MOVES = frozenset({"SHUFFLE", "IDENTITY", "SQUEEZE", "UNSQUEEZE"})

DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "FP8": "float8",
    "FP4": "float4",
}

# The inspector's words, such as "Channel major FP16 format where channel % 8 == 0", "Half" or "Row major Int8 format".
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

# Kernels of integers in tensor cores: "sm80_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32_f32", "ampere_imma_...".
INTEGER_KERNEL = re.compile(r"i8i8|_imma_|_int8_")

ONNX_NODE = re.compile(r"\[ONNX Layer: ([^\]]*)\]")


class EngineLayer(msgspec.Struct, frozen=True, kw_only=True):
    """A layer of an engine, or of the network that it is built from.

    Attributes:
        name: TensorRT's name for it.
        type: what it does, such as ``convolution``.
        precision: element type that it computes in; empty if TensorRT does not tell.
        outputs: shapes, in which -1 is chosen at run time.
        nodes: the graph's nodes that it was made of.
    """

    name: str
    type: str
    precision: str
    outputs: tuple[tuple[int, ...], ...]
    nodes: tuple[str, ...] = ()


class Inspection(msgspec.Struct, frozen=True):
    """The inspector's JSON; an entry is a string where the engine was built without details."""

    Layers: tuple[dict[str, Any] | str, ...] = ()


def layers_of_network(library: Any, network: trt.INetworkDefinition) -> tuple[EngineLayer, ...]:
    """The network's layers, constants left out; a product of two dequantized factors computes in int8."""
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
    """The layers of a built engine, as TensorRT's inspector tells them; none where it cannot be loaded here.

    Args:
        library: ``tensorrt`` or ``tensorrt_rtx``.
        plan: the engine.
        log: of the builder: there is one for all of a process.
    """
    runtime: trt.Runtime = made_with_log(library.Runtime, log)
    runtime.engine_host_code_allowed = True  # a version-compatible plan brings its runtime along, and we have built it
    engine: trt.ICudaEngine | None = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        return ()
    inspector: trt.EngineInspector = engine.create_engine_inspector()
    told = inspector.get_engine_information(library.LayerInformationFormat.JSON)
    return layers_from_inspector(told)


def layers_from_inspector(told: str) -> tuple[EngineLayer, ...]:
    """What the inspector's JSON says; a layer that it only names has no precision."""
    try:
        entries = msgspec.json.decode(told, type=Inspection).Layers
    except msgspec.MsgspecError:  # what is read back is not needed for the engine to be good
        return ()
    return tuple(_inspected(entry) for entry in entries if isinstance(entry, dict))


def product_layers(network: Sequence[EngineLayer], built: Sequence[EngineLayer]) -> list[Layer]:
    """The network's convolutions and matrix products, with what each of them computes in.

    Args:
        network: the layers that the engine was built from.
        built: those of the engine, if it could be read back, which may each hold several of the network's; what it does
            not name was computed while building, or goes by another name, and keeps the network's type.
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
    """Names of the convolutions and matrix products that the graph wants in integers."""
    return tuple(layer.name for layer in network if layer.type in PRODUCTS and layer.precision == "int8")


def _as_built(layer: EngineLayer, dtypes: Sequence[str]) -> str:
    """Out of what the layers compute in that came of its nodes: a Gemm's sum with the bias may be one of them."""
    return "int8" if "int8" in dtypes else next(iter(dtypes), layer.precision)


def _precision(library: Any, layer: trt.ILayer, makers: dict[str, trt.ILayer]) -> str:
    """Products compute in the type of their factors, all else in that of its output."""
    if layer.type.name.lower() not in PRODUCTS:
        first = next(_outputs(layer), None)
        return "" if first is None else _dtype(first)
    factors: list[trt.ITensor] = [layer.get_input(index) for index in range(min(2, layer.num_inputs))]
    sources = [_dequantized(library, factor, makers) for factor in factors]
    if len(sources) == 2 and all(source == "int8" for source in sources):
        return "int8"
    return _dtype(factors[0])


def _dequantized(library: Any, tensor: trt.ITensor, makers: dict[str, trt.ILayer]) -> str:
    """The type that a tensor was dequantized from, or nothing if it was not."""
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
    except ValueError:  # the rank is chosen at run time
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


def _inspected_precision(entry: dict[str, Any]) -> str:
    """The type of its weights; where they are not told apart from other inputs, integers among these or in its kernel.

    Numbers may be quantized and dequantized inside of the kernel, so that those that go in and out are no proof of what
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
