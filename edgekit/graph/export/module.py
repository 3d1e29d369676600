"""Exports a module to a graph with `torch.onnx.export`, silently; errors name the module that caused them."""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from types import TracebackType
from typing import Any

import onnx_ir as ir
import torch
from onnx_ir.passes.common import InlinePass
from torch import nn
from torch.export.graph_signature import ConstantArgument
from torch.utils import _pytree as pytree

from edgekit.arguments import argument
from edgekit.errors import ExportError, UsageError
from edgekit.graph.export.call import ModuleCall
from edgekit.graph.export.given_module import evaluation_mode
from edgekit.graph.export.module_names import name_after_modules
from edgekit.graph.passes import FoldConstants, InferShapes, RemoveDead
from edgekit.graph.stats import CONSTANT_INPUTS
from edgekit.specs import SizeRange, TensorSpec

__all__ = ["graph_from_module", "mark_constants"]

_EXAMPLE_BATCH = 2
_EXAMPLE_SIZE_PX = 64
_SPECIALIZED = re.compile(
    r"L\['(\w+)'\](?:\[(\d+)\])?\.size\(\)\[(\d+)\] as dynamic but your code specialized it .*\((\d+)\)"
)

_RETURNED = re.compile(r"Found <class '([^']+)'> in output")
_CACHES = ("DynamicCache", "StaticCache", "EncoderDecoderCache")
"""Classes of Hugging Face Transformers for keys and values of earlier tokens."""


def graph_from_module(
    module: nn.Module,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[str] = (),
    *,
    opset: int = 20,
    ranges: Mapping[str, SizeRange] | None = None,
    call: ModuleCall | None = None,
) -> ir.Model:
    """Exports a module in evaluation mode; the module's own mode is restored.

    Constants are folded; other optimizations are left to `edgekit.graph.passes.optimize`. Weights are shared with the
    module, not copied. Nodes and values are named after their modules (see `edgekit.graph.export.module_names`).

    Args:
        module: returns a tensor or any nesting of tuples, lists and dictionaries of tensors.
        inputs: name, element type and shape of each input; a string in a shape names a dynamic dimension. Dimensions
            with the same name are equal; dimensions that the module requires to be equal get the name of the first.
        outputs: names of the graph's outputs in the order the module returns them; if empty, the keys of the
            dictionary that the module returns, or the exporter's names.
        opset: ONNX opset version, 18 or newer.
        ranges: size ranges of the dynamic dimensions, by name; others may have any size (the module is traced with 2
            for the first dimension and 64 for others).
        call: how the module takes ``inputs``, which have the order of its names; default: as positional arguments.

    Raises:
        ExportError: names the operator and module that could not be exported, or the number of outputs is wrong.
        UsageError: the module accepts only one size of a dynamic dimension.
    """
    call = call or ModuleCall(tuple(spec.name for spec in inputs))
    with _silence(), evaluation_mode(module), torch.no_grad():
        program = _captured(module, inputs, ranges or {}, call)
        graph = _translated(program, inputs, outputs, opset)
    InlinePass()(graph)
    name_after_modules(graph, module)
    mark_constants(graph, module)
    _drop_invented_biases(graph)
    return graph


def _captured(
    module: nn.Module, inputs: Sequence[TensorSpec], ranges: Mapping[str, SizeRange], call: ModuleCall
) -> torch.export.ExportedProgram:
    args, kwargs = call.filled({spec.name: _example(spec, ranges) for spec in inputs})
    named = [size for spec in inputs for size in spec.shape if isinstance(size, str)]
    dimensions = {name: _dimension(name, named.count(name) > 1, ranges.get(name)) for name in named}
    shapes = {
        spec.name: {axis: dimensions[name] for axis, name in enumerate(spec.shape) if isinstance(name, str)}
        for spec in inputs
    }
    dynamic = call.by_parameter(module, shapes) if any(shapes.values()) else None
    try:
        return torch.export.export(module, args, kwargs or None, dynamic_shapes=dynamic, strict=False)
    except Exception as e:
        _refuse_specialized(module, inputs, e)
        _refuse_returned_objects(module, e)
        raise ExportError(
            f"{type(module).__name__} cannot be traced{_where_traced(module, e)}: {_first_line(e)}",
            hint="run torch.export.export(module, example_inputs) for the full report",
        ) from e


def _refuse_specialized(module: nn.Module, inputs: Sequence[TensorSpec], error: Exception) -> None:
    """Raises a `UsageError` if PyTorch's error says that a dynamic dimension was specialized to one size."""
    found = _SPECIALIZED.search(str(error))
    if found is None:
        return
    argument, place, axis, size = found.groups()
    arguments = list(inspect.signature(module.forward).parameters)
    index = int(place) if place is not None else arguments.index(argument) if argument in arguments else 0
    spec = inputs[min(index, len(inputs) - 1)]
    raise UsageError(
        f"input {spec}: expected a fixed size for dimension {axis}, because {type(module).__name__} accepts only "
        f"{size}, got a range",
        hint="fully connected layers on pixels, position tables and branches on sizes fix the size",
    ) from error


def _refuse_returned_objects(module: nn.Module, error: Exception) -> None:
    """Raises an `ExportError` if the module returns an object that is no tensor, such as a cache of keys and values."""
    found = _RETURNED.search(str(error))
    # Versions of Transformers that register their caches with PyTorch fail inside of them.
    named = found[1].rpartition(".")[2] if found else next((c for c in _CACHES if c in str(error)), "")
    if not named:
        return
    is_cache = named in _CACHES or named.endswith("Cache")
    raise ExportError(
        f"{type(module).__name__}: expected a module that returns tensors, or tuples, lists and dictionaries of "
        f"tensors, got one that returns a {named}",
        hint="call the model with use_cache=False: set model.config.use_cache = False, or wrap it in a module that "
        "returns its logits"
        if is_cache
        else "wrap it in a module that returns tensors",
    ) from error


def _example(spec: TensorSpec, ranges: Mapping[str, SizeRange]) -> torch.Tensor:
    sizes = [
        size if isinstance(size, int) else _example_size(ranges.get(size), axis) for axis, size in enumerate(spec.shape)
    ]
    dtype = getattr(torch, spec.dtype, None)
    if not isinstance(dtype, torch.dtype):
        raise ExportError(
            f"input '{spec.name}': expected an element type that PyTorch has, such as float32, got {spec.dtype}"
        )
    try:
        return torch.zeros(sizes, dtype=dtype)
    except (RuntimeError, MemoryError) as e:  # PyTorch raises RuntimeError where its allocator fails
        raise ExportError(
            f"input '{spec.name}': expected a shape whose numbers fit into memory, got {'x'.join(map(str, sizes))}",
            hint=f"choose a smaller {argument('shape')} or {argument('batch')}",
        ) from e


def _example_size(range_: SizeRange | None, axis: int) -> int:
    """Returns a size to trace with; never 1, which PyTorch would specialize."""
    if range_ is None:
        return _EXAMPLE_BATCH if axis == 0 else _EXAMPLE_SIZE_PX
    return max(range_.opt, 2)


def _dimension(name: str, shared: bool, range_: SizeRange | None) -> Any:
    """Returns the dimension for `torch.export`; a named one could not be equal to a dimension of another name."""
    bounds = {} if range_ is None else {"min": range_.min, "max": range_.max}
    if not shared:
        return torch.export.Dim.DYNAMIC(**bounds)
    if not name.isidentifier():
        raise ExportError(f"dimension '{name}': expected a name of letters, digits and underscores")
    return torch.export.Dim(name, **bounds)


def _translated(
    program: torch.export.ExportedProgram, inputs: Sequence[TensorSpec], outputs: Sequence[str], opset: int
) -> ir.Model:
    returned = len(program.graph_signature.user_outputs)
    if outputs and returned != len(outputs):
        raise ExportError(
            f"expected a module that returns {len(outputs)} tensors ({', '.join(outputs)}), got {returned}",
            hint="name as many outputs as the module returns",
        )
    taken = {spec.name for spec in inputs}.intersection(outputs)
    if taken:
        raise ExportError(f"'{taken.pop()}' names both an input and an output; expected different names")
    for spec in program.graph_signature.output_specs:
        if isinstance(spec.arg, ConstantArgument) and spec.arg.value is not None:
            raise ExportError(
                f"expected a module that returns tensors, got one that also returns {spec.arg.value!r}",
                hint="wrap it in a module that returns tensors",
            )
    outputs = outputs or _returned_keys(program, {spec.name for spec in inputs})
    try:
        # The exporter's optimization would fold BatchNorm too, but loses the names of the folded nodes.
        exported = torch.onnx.export(
            program,
            (),
            dynamo=True,
            opset_version=opset,
            optimize=False,
            verbose=False,
            input_names=[spec.name for spec in inputs],
            output_names=list(outputs) or None,
        )
    except Exception as e:
        operator, where = _untranslated(e)
        raise ExportError(
            f"operator {operator}{where} has no ONNX counterpart: {_first_line(_root(e))}",
            hint="replace the operator in the module, or pass your own ONNX file",
        ) from e
    assert exported is not None
    _separate_outputs(exported.model)
    _name_dimensions(exported.model, inputs)
    return exported.model


def _separate_outputs(graph: ir.Model) -> None:
    """Gives each output a value of its own: a module may return one tensor twice."""
    outputs = graph.graph.outputs
    for index, value in enumerate(outputs):
        if value in outputs[:index]:
            copy = ir.node("Identity", [value])
            copy.outputs[0].shape, copy.outputs[0].type = value.shape, value.type
            copy.outputs[0].name = f"{value.name}_{index}"
            graph.graph.append(copy)
            outputs[index] = copy.outputs[0]


def _returned_keys(program: torch.export.ExportedProgram, taken: Set[str]) -> list[str]:
    """Names the tensors in a returned dictionary after their keys; empty if the module returns something else."""
    returned = program.graph_signature.output_specs
    places = dict(_places(pytree.tree_unflatten(range(len(returned)), program.call_spec.out_spec)))
    if all(isinstance(key, int) for path in places.values() for key in path):
        return []
    names: list[str] = []
    for index, spec in enumerate(returned):
        if isinstance(spec.arg, ConstantArgument):
            continue
        name = ".".join(map(str, places[index]))
        while name in taken or name in names:  # as for a module that returns its input
            name += "_out"
        names.append(name)
    return names


def _places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """Yields each leaf, a number, and the keys and indices on the way to it.

    `torch.utils._pytree.tree_flatten_with_path` does not know the keys of classes that packages register, such as
    those of Hugging Face Transformers, which are dictionaries too.
    """
    if isinstance(tree, int):
        yield tree, path
        return
    # A dataclass is registered with its fields.
    items = tree.items() if isinstance(tree, Mapping) else enumerate(pytree.tree_flatten(tree, _is_below(tree))[0])
    for key, item in items:
        yield from _places(item, (*path, key))


def _is_below(tree: Any) -> Callable[[Any], bool]:
    return lambda node: node is not tree


def _drop_invented_biases(graph: ir.Model) -> None:
    """Removes the zero biases that the exporter adds to convolutions without bias; keeps the module's own biases."""
    computed = [
        node
        for node in graph.graph.all_nodes()
        if node.op_type in ("Conv", "ConvTranspose") and len(node.inputs) > 2 and not _is_stored(node.inputs[2])
    ]
    if not computed:
        return
    ir.passes.Sequential(InferShapes(), FoldConstants())(graph)
    for node in computed:
        bias = node.inputs[2].const_value if node.inputs[2] is not None else None
        if bias is not None and not bias.numpy().any():
            node.resize_inputs(2)
    RemoveDead()(graph)


def _is_stored(value: ir.Value | None) -> bool:
    return value is None or value.is_initializer() or value.is_graph_input()


def _name_dimensions(graph: ir.Model, inputs: Sequence[TensorSpec]) -> None:
    """Replaces the exporter's dimension names (``s17``, ``2*s17``) with the requested ones, on all values."""
    names: dict[str, str] = {}
    for value, spec in zip(graph.graph.inputs, inputs, strict=True):
        for dim, wanted in zip(value.shape or (), spec.shape, strict=False):
            if isinstance(dim, ir.SymbolicDim) and isinstance(wanted, str):
                names.setdefault(str(dim.value), wanted)

    def renamed(dim: int | ir.SymbolicDim) -> int | ir.SymbolicDim:
        if isinstance(dim, int):
            return dim
        return ir.SymbolicDim(re.sub(r"[A-Za-z_]\w*", lambda match: names.get(match[0], match[0]), str(dim.value)))

    values = [*graph.graph.inputs, *(output for node in graph.graph.all_nodes() for output in node.outputs)]
    for value in values:
        if value.shape is not None and not value.shape.is_static():
            value.shape = ir.Shape([renamed(dim) for dim in value.shape])


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Suppresses the exporter's output, such as the advice to install torchvision.

    Errors are reported as an `ExportError`. Many of PyTorch's loggers have their own levels and handlers, so only
    disabling all of logging silences them; a graph that cannot be traced is printed to stderr.
    """
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _where_traced(module: nn.Module, error: BaseException) -> str:
    """Names the innermost submodule whose code was running when ``error`` was raised."""
    names = {id(part): name for name, part in module.named_modules()}
    where = ""
    for frame in _frames(error):
        name = names.get(id(frame.get("self")))
        where = name or where
    return f" at module '{where}'" if where else ""


def _untranslated(error: BaseException) -> tuple[str, str]:
    """Names the operator and the module of the node that the exporter was translating."""
    node: torch.fx.Node | None = None
    cause: BaseException | None = error
    while cause is not None:
        for frame in _frames(cause):
            candidate = frame.get("node")
            node = candidate if isinstance(candidate, torch.fx.Node) else node
        cause = cause.__cause__
    if node is None:
        return "unknown", ""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    where = next((path for path, _ in reversed(stack) if path), "")
    return str(node.target), f" of module '{where}'" if where else ""


def _frames(error: BaseException) -> Iterator[dict[str, Any]]:
    trace: TracebackType | None = error.__traceback__
    while trace is not None:
        yield trace.tb_frame.f_locals
        trace = trace.tb_next


def _root(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def mark_constants(graph: ir.Model, module: nn.Module) -> None:
    """Marks the inputs of every node that are constants and not parameters, in the node's metadata.

    After constant folding, a mask cannot be distinguished from a bias; `stats_from_graph` reads the metadata.

    Args:
        graph: the graph exported from ``module``, with the names of its parameters; changed in place.
        module: the exported module.
    """
    parameters = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    is_parameter: dict[ir.Value, bool] = {
        value: name in parameters for name, value in graph.graph.initializers.items() if not value.is_graph_input()
    }
    for node in graph.graph:
        read = [value for value in node.inputs if value is not None]
        # CastLike reads only the element type of its second input.
        computed = read[:1] if node.op_type == "CastLike" else read
        if all(value in is_parameter for value in computed):
            # Computed from constants alone: it will be folded.
            is_parameter |= dict.fromkeys(node.outputs, any(is_parameter[value] for value in computed))
        constants = [
            str(i) for i, value in enumerate(node.inputs) if value is not None and not is_parameter.get(value, True)
        ]
        if constants:
            node.metadata_props[CONSTANT_INPUTS] = ",".join(constants)
