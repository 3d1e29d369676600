"""Names the nodes of an exported graph after the modules that they come from."""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from collections.abc import Iterable

import onnx_ir as ir
from torch import nn

__all__ = ["name_after_modules"]

_SCOPES = "pkg.torch.onnx.name_scopes"
_CLASSES = "pkg.torch.onnx.class_hierarchy"


def name_after_modules(graph: ir.Model, module: nn.Module) -> None:
    """Names nodes and values of an exported graph after the modules of ``module``, in place.

    A leaf module that became one operation is named by its path: node and value ``backbone.stem.conv``. Any other
    operation is named by path and function: ``backbone.stage1.0.add``. Helper nodes of an operation are named
    ``backbone.stem.conv.expand``. Later uses of a name get ``_1``, ``_2`` and so on, in graph order, so that names are
    unique and the same in every export.

    The exporter's metadata (scopes, stack traces with local paths) is removed.

    Args:
        graph: unoptimized result of `torch.onnx.export`; inputs, outputs and initializers keep their names.
        module: the exported module.
    """
    nodes = list(graph.graph.all_nodes())
    operations = [_operation(node) for node in nodes]
    functions_of: defaultdict[str, set[str]] = defaultdict(set)
    last_of: dict[str, ir.Node] = {}
    for node, (path, function, operation) in zip(nodes, operations, strict=True):
        functions_of[path].add(function)
        last_of[operation] = node
    leaves = {path for path, part in module.named_modules() if path and not any(part.children())}

    names = _UniqueNames(
        value.name for value in (*graph.graph.inputs, *graph.graph.outputs, *graph.graph.initializers.values())
    )
    base_of: dict[str, str] = {}
    for node, (path, function, operation) in zip(nodes, operations, strict=True):
        if operation not in base_of:
            alone = path in leaves and len(functions_of[path]) == 1
            base = path if alone else ".".join(part for part in (path, function) if part)
            base_of[operation] = names.unique(base)
        base = base_of[operation]
        name = base if last_of[operation] is node else names.unique(f"{base}.{node.op_type.lower()}")
        _rename(node, name)
    _drop_metadata(graph)


def _operation(node: ir.Node) -> tuple[str, str, str]:
    """Returns the module path, the function name, and the name of the call that ``node`` belongs to.

    Sizes of dynamic dimensions are read outside of any module; torch.export then uses the name of an internal hook as
    the path.
    """
    scopes = ast.literal_eval(node.metadata_props.get(_SCOPES, "[]"))
    if not scopes:
        return "", node.op_type.lower(), node.name or node.op_type.lower()
    classes = ast.literal_eval(node.metadata_props.get(_CLASSES, "[]"))
    target = str(classes[-1]).split(".") if classes else []
    function = target[1] if len(target) > 1 else str(scopes[-1])
    path = str(scopes[-2]) if len(scopes) > 1 else ""
    return ("" if path.startswith("_") and "hook" in path else path), function.strip("_"), str(scopes[-1])


def _rename(node: ir.Node, name: str) -> None:
    node.name = name
    for index, value in enumerate(node.outputs):
        if not value.is_graph_output():
            value.name = name if len(node.outputs) == 1 else f"{name}.{index}"


def _drop_metadata(graph: ir.Model) -> None:
    graph.metadata_props.clear()
    graph.graph.metadata_props.clear()
    for node in graph.graph.all_nodes():
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*graph.graph.inputs, *graph.graph.initializers.values()):
        value.metadata_props.clear()


class _UniqueNames:
    def __init__(self, taken: Iterable[str | None]) -> None:
        self._taken = {name for name in taken if name}
        self._uses: Counter[str] = Counter()

    def unique(self, name: str) -> str:
        candidate = name
        while candidate in self._taken:
            self._uses[name] += 1
            candidate = f"{name}_{self._uses[name]}"
        self._taken.add(candidate)
        return candidate
