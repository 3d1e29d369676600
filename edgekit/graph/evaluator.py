"""Runs a graph in ONNX Runtime, as the reference for checks and to read intermediate values in calibration."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from edgekit.device.cpu import return_freed_memory
from edgekit.errors import GraphError, UsageError
from edgekit.graph.convolutions_in_file import MAX_BLOCKED
from edgekit.graph.external_weights import WEIGHTS, external_weights
from edgekit.graph.initializer_order import order_initializers
from edgekit.graph.memory import require_fitting_memory
from edgekit.graph.operators import needs_its_layout
from edgekit.graph.packing import leave_weights_unpacked
from edgekit.interrupts import run_options
from edgekit.scratch import scratch_folder
from edgekit.telemetry import import_onnxruntime

if TYPE_CHECKING:
    import onnxruntime

__all__ = ["RUNTIME_ERRORS", "Evaluator", "error_of_runtime", "session_options"]


def _is_error(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Exception)


_ORT = import_onnxruntime()
RUNTIME_ERRORS: tuple[type[Exception], ...] = (
    *(kind for kind in vars(_ORT.capi.onnxruntime_pybind11_state).values() if _is_error(kind)),
    *(RuntimeError, ValueError, IndexError, OverflowError, MemoryError, OSError),
)
"""What ONNX Runtime raises on a graph or an input: classes of its own, which have no common base, and those to which
its bindings convert C++'s exceptions."""
_RUNTIME = f"ONNX Runtime {_ORT.__version__}"
_MOVING = ["TransposeOptimizer", "TransposeOptimizer_CPUExecutionProvider"]
"""The optimizers that move Transposes: before layouts are chosen for this processor, and afterwards."""
_SHARING = "ConstantSharing"
"""The optimizer that makes one of equal scalars, in a time that takes the square of their number."""
MANY_NODES = 2_000
"""The plan of where each value is stored takes the square of the nodes: measured, 4.6 s for the 36,000 of a graph with
Q/DQ pairs, whose later runs then take 0.07 s instead of 0.08. Of ResNet-18 and YOLOv8n they take 1 % less."""


class Evaluator:
    """Runs a graph in ONNX Runtime on the CPU, by default without graph optimizations.

    Weights are passed to ONNX Runtime without copies, so that a graph of 250 MB does not need 750 MB more; with
    ``optimized``, ONNX Runtime copies them while it loads.

    Args:
        graph: the graph; it is not changed.
        also: names of intermediate values to return in addition to the graph's outputs.
        threads: number of threads; 0 for ONNX Runtime's default.
        optimized: enable ONNX Runtime's graph optimizations, for speed; output names stay the same.
        packed: let kernels keep their weights in a packed form too, which is faster from the second run on, and needs
            memory for a second copy of them.

    Raises:
        GraphError: ONNX Runtime rejects the graph; names the node or operator if known.
    """

    def __init__(
        self,
        graph: ir.Model,
        *,
        also: Sequence[str] = (),
        threads: int = 0,
        optimized: bool = False,
        packed: bool = True,
    ) -> None:
        require_fitting_memory(graph)
        return_freed_memory()  # freed by earlier sessions
        options = session_options(nodes=len(graph.graph), threads=threads, optimized=optimized)
        if optimized and sum(node.op_type == "Conv" for node in graph.graph) > MAX_BLOCKED:
            options.graph_optimization_level = _ORT.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        if not packed:
            leave_weights_unpacked(options)
        moves = not any(map(needs_its_layout, graph.graph.all_nodes()))
        model, self._weights = _model_and_weights(graph, also)
        try:
            self._values = {
                name: _ORT.OrtValue.ortvalue_from_numpy_with_onnx_type(array, dtype)
                for name, (array, dtype) in self._weights.items()
            }
            # Optimizations compute with weights while the graph is loaded, and then only see those that are given so.
            given = _given_copied if optimized or not self._values else _given_as_they_are
            with given(options, self._values, max((a.nbytes for a, _ in self._weights.values()), default=0)):
                self._session = _ORT.InferenceSession(
                    model,
                    options,
                    providers=["CPUExecutionProvider"],
                    disabled_optimizers=[_SHARING] if moves else [_SHARING, *_MOVING],
                )
        except RUNTIME_ERRORS as e:
            raise GraphError(f"{_RUNTIME} cannot load the graph: {error_of_runtime(e)}") from e
        return_freed_memory()  # temporary copies of the weights from layout conversion
        self.outputs = tuple(output.name for output in self._session.get_outputs())

    def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Runs the graph on inputs by name and returns outputs by name.

        Raises:
            GraphError: a node failed; names it.
        """
        try:
            results = self._session.run(list(self.outputs), feeds, run_options())
        except RUNTIME_ERRORS as e:
            raise GraphError(f"{_RUNTIME} cannot run the graph: {error_of_runtime(e)}") from e
        return dict(zip(self.outputs, results, strict=True))

    def close(self) -> None:
        """Frees the session and its memory; the graph cannot be run any more."""
        del self._session, self._values, self._weights
        return_freed_memory()


def session_options(*, nodes: int, threads: int = 0, optimized: bool = False) -> onnxruntime.SessionOptions:
    """Returns the options of a session that says nothing, of a graph of so many nodes; see `Evaluator` for the others.

    In graphs of more than `MANY_NODES`, the memory of each value is not planned after the first run.
    """
    options: onnxruntime.SessionOptions = _ORT.SessionOptions()
    level = _ORT.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimized else level.ORT_DISABLE_ALL
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    options.enable_mem_pattern = nodes <= MANY_NODES
    # Its threads wait for the next run by computing, for tens of milliseconds: in calibration, NumPy's turn is next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if not optimized:
        # A DequantizeLinear for each reader of a tensor, which only fusing needs: each gets a name by a search through
        # all nodes. Measured with 42,000 nodes, loading takes 3.4 s instead of 4.5.
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    return options


@contextlib.contextmanager
def _given_copied(
    options: onnxruntime.SessionOptions, values: dict[str, onnxruntime.OrtValue], largest: int
) -> Iterator[None]:
    options.add_external_initializers(list(values), list(values.values()))
    yield


@contextlib.contextmanager
def _given_as_they_are(
    options: onnxruntime.SessionOptions, values: dict[str, onnxruntime.OrtValue], largest: int
) -> Iterator[None]:
    """Gives weights that the session uses where they are, and a file that it does not read but wants to find.

    ``largest`` is the number of bytes of the largest weight. The file has no bytes on the disk, only a size.
    """
    with contextlib.ExitStack() as stack:
        try:
            folder = stack.enter_context(scratch_folder())
            with (folder / WEIGHTS).open("wb") as file:
                file.truncate(largest)
        except (OSError, UsageError):  # a limit on the size of files, or no temporary folder
            stack.enter_context(_given_copied(options, values, largest))
        else:
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
            for name, value in values.items():
                options.add_initializer(name, value)
        yield


def _model_and_weights(graph: ir.Model, also: Sequence[str]) -> tuple[bytes, dict[str, tuple[np.ndarray, int]]]:
    """Serializes the graph with ``also`` as extra outputs; returns it and each weight with its ONNX type number."""
    outputs = list(graph.graph.outputs)
    names = set(also)
    wanted = [value for node in graph.graph for value in node.outputs if value.name in names]
    with external_weights(graph) as removed:
        graph.graph.outputs.extend(value for value in wanted if not value.is_graph_output())
        try:
            message = ir.to_proto(graph)
        finally:
            # Deleting a slice would leave the values marked as graph outputs; `pop` clears the mark.
            while len(graph.graph.outputs) > len(outputs):
                graph.graph.outputs.pop()
    order_initializers(message.graph)
    weights = {name: (_memory(tensor), int(tensor.dtype.value)) for name, tensor in removed.items()}
    return message.SerializeToString(), weights


def _memory(tensor: ir.TensorProtocol) -> np.ndarray:
    """Returns the elements as ONNX Runtime reads them, in an array of the tensor's shape.

    It reads several elements of less than a byte from each byte, and takes the shape from the array: the last bytes of
    the array are not read then.
    """
    if tensor.dtype.bitwidth >= 8:
        return np.ascontiguousarray(tensor.numpy())
    packed = np.frombuffer(tensor.tobytes(), np.uint8)
    memory = np.zeros(tensor.shape.numpy(), np.uint8)
    memory.reshape(-1)[: packed.size] = packed
    return memory


def error_of_runtime(error: Exception) -> str:
    """Returns ONNX Runtime's message without error codes and source locations."""
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", str(error).strip())
    text = re.sub(r"\S+\.(cc|h):\d+ (?=\S)", "", text)
    return text.splitlines()[0] if text else type(error).__name__
