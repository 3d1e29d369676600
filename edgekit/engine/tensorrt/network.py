"""Parses an ONNX file into a TensorRT network with TensorRT's own parser, and adds its optimization profile."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from edgekit.arguments import argument
from edgekit.engine.tensorrt.attention_plugin import register_attention
from edgekit.engine.tensorrt.graph_file import has_operator
from edgekit.engine.tensorrt.log import last_words
from edgekit.errors import BackendUnavailable, GraphError, UsageError
from edgekit.specs import ShapeRange

if TYPE_CHECKING:
    import tensorrt as trt

__all__ = ["Parsed", "add_profile", "float_original", "parse_graph", "replace_operator"]

EXAMPLE = {"x": (1, 3, 48, (32, 320, 2048))}


class Parsed(NamedTuple):
    """A network and its parser, which owns the weights and must outlive the network.

    Attributes:
        needs_edgekit: the engine has plugins that EdgeKit runs.
    """

    network: trt.INetworkDefinition
    parser: trt.OnnxParser
    needs_edgekit: bool = False


def parse_graph(library: Any, builder: trt.Builder, log: Any, graph: Path, *, for_dla: bool = False) -> Parsed:
    """Parses an ONNX file into a network; types are those of the file.

    Args:
        library: ``tensorrt`` or ``tensorrt_rtx``.
        builder: the library's builder.
        log: the builder's logger, from `process_log`.
        graph: the ONNX file; may have external weights.
        for_dla: the network will run on a deep-learning accelerator (DLA).

    Raises:
        BackendUnavailable: the graph has ONNX's ``Attention``, and the library is older than 10.14.
        GraphError: the file is not an ONNX file, or has an unsupported operator; the message names it and its node.
        UsageError: the graph has EdgeKit's attention in it, and the library is TensorRT-RTX, which takes no plugins.
    """
    _require_attention(library, graph)
    needs_edgekit = register_attention(library, graph)
    network: trt.INetworkDefinition = builder.create_network(_creation_flags(library))
    parser: trt.OnnxParser = library.OnnxParser(network, log)
    # Since TensorRT 11: changes layers and shapes so that more of them run on the DLA.
    adjust = getattr(library.OnnxParserFlag, "ADJUST_FOR_DLA", None)
    if for_dla and adjust is not None:
        parser.set_flag(adjust)
    if not parser.parse_from_file(str(graph)):
        raise _graph_error(parser, log, graph)
    if not network.num_outputs:  # protobuf parses many other files as an empty model
        raise GraphError(f"cannot read {graph}: expected an ONNX file with outputs")
    _let_attention_decompose(library, network)
    return Parsed(network, parser, needs_edgekit)


def add_profile(
    builder: trt.Builder,
    config: trt.IBuilderConfig,
    network: trt.INetworkDefinition,
    shapes: Mapping[str, ShapeRange],
) -> None:
    """Adds an optimization profile with the shapes of dynamic inputs.

    Args:
        builder: the network's builder.
        config: receives the optimization profile, if one is needed.
        network: the parsed graph.
        shapes: min, opt and max shapes by name of the input.

    Raises:
        UsageError: a shape is missing, or does not fit the input.
    """
    profile: trt.IOptimizationProfile = builder.create_optimization_profile()
    dynamic = False
    for index in range(network.num_inputs):
        tensor: trt.ITensor = network.get_input(index)
        sizes: tuple[int, ...] = tuple(tensor.shape)
        if -1 in sizes:
            dynamic = True
            shape = _range(tensor.name, sizes, shapes)
            profile.set_shape(tensor.name, shape.min, shape.opt, shape.max)
    if dynamic:
        config.add_optimization_profile(profile)


def _creation_flags(library: Any) -> int:
    """Returns the flags for explicit batch and strong typing, which TensorRT 10 needs and 11 always uses."""
    flags = 0
    for name in ("EXPLICIT_BATCH", "STRONGLY_TYPED"):
        flag = getattr(library.NetworkDefinitionCreationFlag, name, None)
        if flag is not None:
            flags |= 1 << int(flag)
    return flags


def _require_attention(library: Any, graph: Path) -> None:
    if not hasattr(library, "IAttention") and has_operator(graph, ["Attention"]):
        raise BackendUnavailable(
            f"{graph.name} has ONNX's operator Attention: expected TensorRT 10.14 or later, which reads it, "
            f"got {library.__version__}",
            hint="update TensorRT, with JetPack on a Jetson, or build the graph again with "
            f"{argument('attention', 'auto')}; if the model itself has the operator, export it with opset 20",
        )


def _let_attention_decompose(library: Any, network: trt.INetworkDefinition) -> None:
    """Lets the builder decompose attention if it has no fused kernel for it, instead of failing.

    For shapes that have a fused kernel, the engine is the same.
    """
    output_layer = getattr(library, "IAttentionOutputLayer", None)  # TensorRT has it since 10.14
    if output_layer is None:
        return
    for index in range(network.num_layers):
        layer: Any = network.get_layer(index)
        if layer.type == library.LayerType.ATTENTION_OUTPUT:
            # The bindings return base classes; NVIDIA's own tools use this cast.
            layer.__class__ = output_layer
            layer.attention.decomposable = True


def _range(name: str, sizes: tuple[int, ...], shapes: Mapping[str, ShapeRange]) -> ShapeRange:
    text = ", ".join("?" if size == -1 else str(size) for size in sizes)
    shape = shapes.get(name)
    if shape is None:
        only_batch = -1 not in sizes[1:]
        raise UsageError(
            f"input '{name}' ({text}) has dynamic sizes: expected a range for them, got none",
            hint=f"give it with {argument('batch')}, such as {argument('batch', (1, 4, 16), shell='1:4:16')}"
            if only_batch
            else f"give it with {argument('input')}, such as "
            f"{argument('input', EXAMPLE, shell='x:1x3x48x32:320:2048')}",
        )
    for given in (shape.min, shape.opt, shape.max):
        fits = len(given) == len(sizes) and all(size in (-1, got) for size, got in zip(sizes, given, strict=True))
        if not fits:
            raise UsageError(f"input '{name}': expected a shape like ({text}), got ({', '.join(map(str, given))})")
    if not all(a <= b <= c for a, b, c in zip(shape.min, shape.opt, shape.max, strict=True)):
        raise UsageError(
            f"input '{name}': expected shapes with min <= opt <= max, got {shape.min}, {shape.opt}, {shape.max}"
        )
    return shape


def _graph_error(parser: trt.OnnxParser, log: Any, graph: Path) -> GraphError:
    if not parser.num_errors:
        return GraphError(f"TensorRT cannot take {graph.name}: {last_words(log)}")
    error: trt.ParserError = parser.get_error(0)
    words = f"{' '.join(error.desc().split())} ({error.func()})"
    if not error.node_operator():
        return GraphError(f"TensorRT cannot take {graph.name}: {words}")
    node = error.node_name()
    # Graphs that EdgeKit exports name nodes after their modules; others have paths with slashes.
    module = ", named after its module," if "." in node and "/" not in node else ""
    return GraphError(
        f"TensorRT cannot take operator '{error.node_operator()}', node '{node}'{module} of {graph.name}: {words}",
        hint=float_original()
        if _is_quantization(error.node_operator()) or "zeropoint" in words.lower().replace(" ", "")
        else replace_operator(),
    )


def _is_quantization(operator: str) -> bool:
    """Whether it computes integers of activations, or multiplies them: TensorRT takes these in a few forms only."""
    return operator in ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear") or operator.endswith("Integer")


def float_original() -> str:
    """A hint for a graph whose integers TensorRT does not take."""
    int8 = argument("precision", "int8")
    return f"the graph was quantized for another target: build it from its float original with {int8}"


def replace_operator() -> str:
    """A hint for an operator that TensorRT does not have."""
    return f"replace the operator in the model, or build it with {argument('target', 'cpu')}"
