"""Checks that an exported graph computes what its PyTorch module computes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import msgspec
import numpy as np
import onnx_ir as ir
import torch
from torch import nn

from edgekit.errors import AccuracyError, ExportError, UsageError
from edgekit.graph.evaluator import Evaluator
from edgekit.graph.export.call import ModuleCall
from edgekit.graph.export.given_module import evaluation_mode
from edgekit.specs import TensorSpec

__all__ = ["ExportCheck", "OutputCheck", "compare_with_module", "outputs_inside", "run_module"]

_DYNAMIC_SIZE = 2


class OutputCheck(msgspec.Struct, frozen=True, kw_only=True):
    """Error of one output of a graph against the module.

    Attributes:
        name: name of the graph's output.
        relative_error: largest absolute difference divided by the largest absolute reference; maximum over all inputs.
        seed: seed of the random input with the largest error.
    """

    name: str
    relative_error: float
    seed: int


class ExportCheck(msgspec.Struct, frozen=True, kw_only=True):
    """Result of a successful comparison: the error of every output, and the tolerance."""

    outputs: tuple[OutputCheck, ...]
    tolerance: float


def compare_with_module(
    graph: ir.Model,
    module: nn.Module,
    specs: Sequence[TensorSpec],
    tolerance: float = 1e-4,
    seeds: Sequence[int] = (0, 1),
    num_values: Mapping[str, int] | None = None,
    also: Sequence[Sequence[TensorSpec]] = (),
    call: ModuleCall | None = None,
) -> ExportCheck:
    """Compares the graph in ONNX Runtime with the PyTorch module on random inputs, one per seed.

    The error of an output is ``max |graph - module| / max |module|``; infinities equal only themselves, NaN equals
    NaN.

    Args:
        graph: the graph; values exported by `graph_from_module` have the names of modules.
        module: the module; it runs in evaluation mode, and its own mode is restored.
        specs: specs of the module's inputs, with the graph's names; dynamic dimensions have size 2.
        tolerance: largest allowed error.
        seeds: seeds of the random inputs: floats are uniform in [0, 1), integers are 0 or 1.
        num_values: for the input of that name, integers are less than this instead of 2.
        also: inputs of other sizes, which are run once, with the first seed.
        call: how the module takes its inputs; default: as positional arguments.

    Raises:
        AccuracyError: names the worst output, its error and the first intermediate value that differs.
        ExportError: the graph's outputs differ from the module's in number or shape, or the module returns something
            else in a second run.
        GraphError: ONNX Runtime cannot run the graph.
        UsageError: the module does not accept the sizes in ``also``.
    """
    evaluator = Evaluator(graph)
    worst: dict[str, tuple[OutputCheck, Sequence[TensorSpec]]] = {}
    for sizes, seed in (*((specs, seed) for seed in seeds), *((sizes, seeds[0]) for sizes in also)):
        feeds = _random_feeds(sizes, seed, num_values or {})
        with _size_errors(module, sizes, in_range=sizes is not specs):
            expected = run_module(module, list(feeds.values()), call)
        got = evaluator.run(feeds)
        _require_same_outputs(got, expected)
        if not worst:
            _require_repeatable(module, feeds, expected, tolerance, call)
        for (name, array), reference in zip(got.items(), expected, strict=True):
            check = OutputCheck(name=name, relative_error=_relative_error(array, reference), seed=seed)
            if name not in worst or check.relative_error > worst[name][0].relative_error:
                worst[name] = check, sizes
    check, sizes = max(worst.values(), key=lambda found: found[0].relative_error)
    if not check.relative_error <= tolerance:
        feeds = _random_feeds(sizes, check.seed, num_values or {})
        where = f" for {'; '.join(map(str, sizes))}" if also else ""
        raise AccuracyError(
            f"output '{check.name}': expected a relative error of at most {tolerance:g} against the module, "
            f"got {check.relative_error:.3g}{where}{_first_off(graph, module, feeds, tolerance, call)}"
        )
    return ExportCheck(outputs=tuple(check for check, _ in worst.values()), tolerance=tolerance)


@contextlib.contextmanager
def _size_errors(module: nn.Module, specs: Sequence[TensorSpec], *, in_range: bool) -> Iterator[None]:
    """Reports an exception of the module as a `UsageError` if the sizes are a min or max shape that the user gave."""
    try:
        yield
    except Exception as e:
        if not in_range:
            raise
        reason = (str(e).strip() or type(e).__name__).splitlines()[0]
        raise UsageError(
            f"{type(module).__name__} does not accept the min or max shape {'; '.join(map(str, specs))}: {reason}",
            hint="pass a range of sizes that the module accepts, or a fixed size",
        ) from e


def _random_feeds(specs: Sequence[TensorSpec], seed: int, num_values: Mapping[str, int]) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    feeds = {}
    for spec in specs:
        shape = _sizes(spec)
        kind = np.dtype(spec.dtype).kind
        values = generator.random(shape) if kind == "f" else generator.integers(0, num_values.get(spec.name, 2), shape)
        feeds[spec.name] = values.astype(spec.dtype)
    return feeds


def _sizes(spec: TensorSpec) -> tuple[int, ...]:
    return tuple(size if isinstance(size, int) else _DYNAMIC_SIZE for size in spec.shape)


def run_module(module: nn.Module, inputs: Sequence[np.ndarray], call: ModuleCall | None = None) -> list[np.ndarray]:
    """Runs a module in evaluation mode on inputs in the order of ``call``; returns the tensors in its result."""
    names = call.names if call else list(map(str, range(len(inputs))))
    tensors = [torch.from_numpy(array.copy()) for array in inputs]
    args, kwargs = (call or ModuleCall(tuple(names))).filled(dict(zip(names, tensors, strict=True)))
    with evaluation_mode(module), torch.no_grad():
        result = module(*args, **kwargs)
    leaves = torch.utils._pytree.tree_leaves(result)
    return [_array(leaf) for leaf in leaves if isinstance(leaf, torch.Tensor)]


def _array(tensor: torch.Tensor) -> np.ndarray:
    """Returns the numbers of a tensor; a subclass may not have ``numpy``, as some that packages define."""
    return tensor.detach().as_subclass(torch.Tensor).numpy()


def _require_same_outputs(got: dict[str, np.ndarray], expected: Sequence[np.ndarray]) -> None:
    if len(got) != len(expected):
        raise ExportError(f"graph: expected {len(expected)} outputs, as the module returns, got {len(got)}")
    for (name, array), reference in zip(got.items(), expected, strict=True):
        if array.shape != reference.shape:
            raise ExportError(f"output '{name}': expected shape {reference.shape}, as in the module, got {array.shape}")


def _require_repeatable(
    module: nn.Module,
    feeds: Mapping[str, np.ndarray],
    expected: Sequence[np.ndarray],
    tolerance: float,
    call: ModuleCall | None,
) -> None:
    """Raises an `ExportError` if a second run returns something else: an engine has no state and no random numbers."""
    again = run_module(module, list(feeds.values()), call)
    for index, (first, second) in enumerate(zip(expected, again, strict=True)):
        if first.shape != second.shape or not _relative_error(second, first) <= tolerance:
            raise ExportError(
                f"{type(module).__name__}: expected the same outputs whenever the inputs are the same, got others in "
                f"the second of two runs (output {index + 1})",
                hint="make random numbers and what the module keeps from run to run inputs of forward, and return "
                "what is kept",
            )


def _relative_error(array: np.ndarray, reference: np.ndarray) -> float:
    a, b = array.astype(np.float64), reference.astype(np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    if same.all():
        return 0.0
    difference = np.abs(a - b)[~same]
    finite = np.abs(b[np.isfinite(b)])
    if not np.isfinite(difference).all() or not finite.size:
        return float("inf")
    return float(difference.max() / max(finite.max(), np.finfo(np.float32).tiny))


def _first_off(
    graph: ir.Model, module: nn.Module, feeds: dict[str, np.ndarray], tolerance: float, call: ModuleCall | None
) -> str:
    """Names the first value, in graph order, that differs from the output of the module with the same name."""
    outputs = {value.name for value in graph.graph.outputs}
    inside = [value for node in graph.graph for value in node.outputs if value.name not in outputs]
    expected = outputs_inside(module, list(feeds.values()), call)
    also = [value.name for value in inside if value.name and value.name in expected]
    evaluator = Evaluator(graph, also=also)
    got = evaluator.run(feeds)
    for name in also:
        reference = expected[name]
        if got[name].shape == reference.shape and not _relative_error(got[name], reference) <= tolerance:
            return f"; the first value that differs is '{name}'"
    return ""


def outputs_inside(
    module: nn.Module, inputs: Sequence[np.ndarray], call: ModuleCall | None = None
) -> dict[str, np.ndarray]:
    """Runs the module and returns the first output of each submodule that returns a single tensor."""
    seen: dict[str, np.ndarray] = {}

    def keep(name: str, result: object) -> None:
        if isinstance(result, torch.Tensor):
            seen.setdefault(name, _array(result).copy())

    handles = [
        part.register_forward_hook(lambda _module, _args, result, name=name: keep(name, result))
        for name, part in module.named_modules()
        if name
    ]
    try:
        run_module(module, inputs, call)
    finally:
        for handle in handles:
            handle.remove()
    return seen
