"""The model as its user brought it, which everything that EdgeKit makes of it is compared with.

A module runs in PyTorch (`edgekit.graph.export.original`), an ONNX file in ONNX Runtime without optimizations, or, if
that cannot run it, in ONNX's reference evaluator. A file in half or double precision is computed in float32, with its
numbers as they are; functions of another opset than the graph's are inlined, each node in its own opset. Products with
weights of 4 bits take their activations as floats, whatever ``accuracy_level`` allows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from edgekit.device.cpu import cpu, return_freed_memory
from edgekit.errors import GraphError
from edgekit.graph.evaluator import RUNTIME_ERRORS, Evaluator, error_of_runtime, session_options
from edgekit.graph.load.deprecated import is_unconverted, replace_unconverted
from edgekit.graph.load.printable_names import with_escaped_names
from edgekit.graph.load.structure import structure_from_file
from edgekit.graph.load.upgrade_opset import upgrade_opset
from edgekit.graph.load.walk import nodes_of
from edgekit.graph.operators import RECURRENT
from edgekit.graph.opset import has_operators_without_kernels, lower_opset
from edgekit.graph.passes import ExplicitSamePads, InferShapes, PositiveAxes, TimeFirst, widened
from edgekit.graph.passes.explicit_same_pads import require_explicit_pads
from edgekit.graph.passes.inline_functions import has_functions_of_another_opset, inlined
from edgekit.interrupts import run_options
from edgekit.storage import path_for_library
from edgekit.telemetry import import_onnxruntime
from edgekit.text import one_line

__all__ = ["OnnxOriginal", "Original"]

Feed = Mapping[str, np.ndarray]
Run = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]

_NOT_LOADED: tuple[type[Exception], ...] = (GraphError, *RUNTIME_ERRORS)


class Original(Protocol):
    """A model as its user brought it.

    Attributes:
        name: what computes its outputs, for messages and reports.
    """

    @property
    def name(self) -> str: ...

    def run(self, feeds: Iterable[Feed]) -> list[dict[str, np.ndarray]]:
        """Computes the outputs for each feed, by name.

        Raises:
            GraphError: it cannot run.
        """
        ...

    def inside(self, feed: Feed) -> dict[str, np.ndarray]:
        """Computes the values inside of it for one feed, by name: outputs of nodes, or of submodules."""
        ...

    def close(self) -> None:
        """Frees the model; it cannot run any more."""
        ...


class OnnxOriginal:
    """An ONNX file.

    Args:
        path: the file; an error if it changes before it is run.
        weights: files of its external weights; the same is true of them.
        widen: it has floats of other types than float32, and is computed in float32.
        values: arrays of the inputs that are not in the feeds, by name.
        in_float: makes a float model of the graph, which is quantized, and may change it; None leaves it as it is.
    """

    def __init__(
        self,
        path: Path,
        *,
        weights: Iterable[Path] = (),
        widen: bool = False,
        values: Feed | None = None,
        in_float: Callable[[ir.Model], ir.Model] | None = None,
    ) -> None:
        self._path, self._widen, self._values = Path(path).resolve(), widen, dict(values or {})
        self._in_float = in_float
        self._states = {file: _state(file) for file in (self._path, *weights)}
        self._runtime = "ONNX Runtime"

    @property
    def name(self) -> str:
        return f"{self._runtime} on {self._path.name}{' in float' if self._in_float is not None else ''}"

    def run(self, feeds: Iterable[Feed]) -> list[dict[str, np.ndarray]]:
        self._require_unchanged()
        run = self._loaded()
        try:
            return [self._result(run, feed) for feed in feeds]
        finally:
            # Its weights are not kept while graphs and engines are loaded, which have their own.
            del run
            return_freed_memory()

    def _result(self, run: Run, feed: Feed) -> dict[str, np.ndarray]:
        try:
            return run({**feed, **self._values})
        except GraphError:
            raise
        except Exception as e:  # the reference evaluator, which is Python, may raise any exception
            raise GraphError(f"{self.name} fails: {error_of_runtime(e)}") from e

    def inside(self, feed: Feed) -> dict[str, np.ndarray]:
        self._require_unchanged()
        graph = self._graph()
        names = [value.name for node in graph.graph for value in node.outputs if value.name]
        return Evaluator(graph, also=names, threads=cpu().compute_threads).run({**feed, **self._values})

    def close(self) -> None:
        """See `Original.close`; the file is loaded for each `run`, so nothing is kept."""

    def _require_unchanged(self) -> None:
        """Raises a `GraphError` if a file is not the one that was read: its outputs would be another model's."""
        for file, before in self._states.items():
            state = _state(file)
            if state != before:
                got = "none" if state is None else "another one: it was changed after it was read"
                raise GraphError(f"{file.name}: expected the file that was read, got {got}", hint="build it again")

    def _graph(self) -> ir.Model:
        graph = with_escaped_names(self._loaded_graph())
        if self._is_mixed or self._is_exceptional:
            graph = inlined(graph)
        graph = widened(graph) if self._widen else graph
        if self._in_float is not None:
            graph = self._in_float(graph)
        if self._is_newer:
            lower_opset(graph.graph)
        if self._is_exceptional:
            if any(map(_has_same_pads, nodes_of(self._structure))):
                graph = upgrade_opset(graph, self._path.name)  # for the Pad that one of them may need
            ir.passes.Sequential(InferShapes(), ExplicitSamePads(), PositiveAxes(), TimeFirst())(graph)
        return graph

    def _loaded_graph(self) -> ir.Model:
        model = onnx.load_model(self._path, load_external_data=False)
        replace_unconverted(model)
        for node in filter(_rounds_activations, nodes_of(model)):
            node.attribute.remove(next(each for each in node.attribute if each.name == _ACCURACY))
        graph = ir.from_proto(model)
        ir.external_data.set_base_dir(graph.graph, self._path.parent)
        return graph

    @cached_property
    def _structure(self) -> onnx.ModelProto:
        return structure_from_file(self._path)[0]

    @cached_property
    def _is_mixed(self) -> bool:
        """Whether it has functions of other opsets, whose nodes ONNX Runtime takes for those of the graph's opset."""
        return has_functions_of_another_opset(self._structure)

    @cached_property
    def _is_newer(self) -> bool:
        """Whether ONNX Runtime runs it in an older opset only."""
        versions = [each.version for each in self._structure.opset_import if each.domain in ("", "ai.onnx")]
        operators = (node.op_type for node in nodes_of(self._structure))
        return has_operators_without_kernels(operators, max(versions, default=1))

    @cached_property
    def _is_exceptional(self) -> bool:
        """Whether ONNX Runtime refuses a node, or computes it otherwise than ONNX, in the form that the file has."""
        return any(each(node) for node in nodes_of(self._structure) for each in _EXCEPTIONS)

    def _loaded(self) -> Run:
        is_converted = self._widen or self._in_float is not None
        is_rewritten = is_converted or self._is_mixed or self._is_newer or self._is_exceptional
        graph = self._graph() if is_rewritten else None
        try:
            if graph is None:
                return self._in_runtime()
            require_explicit_pads(graph)
            return Evaluator(graph, threads=cpu().compute_threads).run
        except _NOT_LOADED as e:
            return self._in_reference_evaluator(e)

    def _in_runtime(self) -> Run:
        options = session_options(nodes=len(self._structure.graph.node), threads=cpu().compute_threads)
        with path_for_library(self._path) as path:
            session = import_onnxruntime().InferenceSession(path, options, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        # Feeds and outputs have the names of the loaded graph, in which control characters are escapes.
        inputs = {one_line(each.name): each.name for each in session.get_inputs()}
        shown = [one_line(name) for name in names]

        def run(feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            given = {inputs.get(name, name): array for name, array in feed.items()}
            return dict(zip(shown, session.run(names, given, run_options()), strict=True))

        return run

    def _in_reference_evaluator(self, error: Exception) -> Run:
        model = ir.to_proto(self._graph())
        try:
            evaluator = ReferenceEvaluator(model)
        except Exception as e:  # it is Python, and may raise any exception on what it does not know
            raise GraphError(
                f"neither ONNX Runtime nor ONNX's reference evaluator can load {self._path.name}: "
                f"{error_of_runtime(error)}"
            ) from e
        self._runtime = "ONNX's reference evaluator"
        names = evaluator.output_names
        return lambda feed: dict(zip(names, evaluator.run(None, feed), strict=True))


def _state(path: Path) -> tuple[int, int] | None:
    """Returns time of change and size of a file; None if there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


def _has_same_pads(node: onnx.NodeProto) -> bool:
    """Whether it is a convolution or pooling with ``auto_pad`` and dilations; see `ExplicitSamePads`."""
    given = {attribute.name: attribute for attribute in node.attribute}
    if not ("Conv" in node.op_type or "Pool" in node.op_type) or not {"auto_pad", "dilations"} <= given.keys():
        return False
    return given["auto_pad"].s.startswith(b"SAME") and any(dilation != 1 for dilation in given["dilations"].ints)


def _has_negative_axes(node: onnx.NodeProto) -> bool:
    """Whether it is a Resize with negative axes that keeps the aspect ratio; see `PositiveAxes`."""
    given = {attribute.name: attribute for attribute in node.attribute}
    if node.op_type != "Resize" or not {"axes", "keep_aspect_ratio_policy"} <= given.keys():
        return False
    return given["keep_aspect_ratio_policy"].s != b"stretch" and any(axis < 0 for axis in given["axes"].ints)


def _has_batch_first(node: onnx.NodeProto) -> bool:
    """Whether it is a recurrent layer whose first axis is the batch; see `TimeFirst`."""
    return node.op_type in RECURRENT and any(each.name == "layout" and each.i == 1 for each in node.attribute)


def _rounds_activations(node: onnx.NodeProto) -> bool:
    """Whether it lets ONNX Runtime round activations, to 8 bits say: the file means the floats that they are."""
    return node.op_type == "MatMulNBits" and any(each.name == _ACCURACY for each in node.attribute)


_ACCURACY = "accuracy_level"
_EXCEPTIONS = (_has_same_pads, _has_negative_axes, _has_batch_first, is_unconverted, _rounds_activations)
