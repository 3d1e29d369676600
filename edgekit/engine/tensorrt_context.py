"""TensorRT's execution context: what it wants to be told before it computes, and what it says of shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.device.cuda_resources import Stream
from edgekit.engine.tensorrt_plan import Plan, RuntimeCache, error_log
from edgekit.engine.tensorrt_slot import Shapes, Tensor
from edgekit.errors import EngineMismatch, RunError

__all__ = ["Execution"]

# TensorRT's names of element types that numpy has too.
DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "INT32": "int32",
    "INT64": "int64",
    "UINT8": "uint8",
    "BOOL": "bool",
}


class Execution:
    """An ``IExecutionContext``, which enqueues one run after the other.

    Args:
        library: the module ``tensorrt`` or ``tensorrt_rtx``.
        plan: the engine.
        file: that it came from.
        stream: that it computes on.

    Raises:
        EngineMismatch: the engine has an input or an output that cannot be served.
        RunError: TensorRT failed, mostly for lack of memory.
    """

    def __init__(self, library: Any, plan: Plan, file: Path, stream: Stream) -> None:
        self._words = error_log(library)
        self._engine: Any = plan.engine
        self._stream = stream
        self._shapes: Shapes | None = None
        self._profile = 0
        self.cache: RuntimeCache | None = None
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        inputs = [name for name in names if self._engine.get_tensor_mode(name) == library.TensorIOMode.INPUT]
        tensors = {name: _tensor(library, self._engine, name, file) for name in names}
        dynamic = any(-1 in tensors[name].shape for name in inputs)
        try:
            self._context: Any = self._created(library, file, dynamic=dynamic)
            self._profiles = self._ranges([tensors[name] for name in inputs])
            self.inputs, self.outputs = self._sized(tensors, inputs)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Gives back what TensorRT holds for it, the engine aside."""
        self._context = None
        self._engine = None

    def prepare(self, shapes: Shapes) -> bool:
        """Makes ready for inputs of these shapes, and waits until the stream is idle where that needs it.

        Returns:
            Whether the optimization profile was changed, so that what was captured is void.

        Raises:
            RunError: the engine was not built for these shapes.
        """
        if shapes == self._shapes:
            return False
        profile = self._fitting(shapes)
        changed = profile != self._profile
        self._shapes = None
        if changed:
            self._choose(profile)
        for tensor, shape in zip(self.inputs, shapes, strict=True):
            if not self._context.set_input_shape(tensor.name, shape):
                raise self._error(f"input '{tensor.name}' of shape {shape}")
        self._shapes = shapes
        return changed

    def output_shapes(self) -> list[tuple[int, ...]]:
        """Of the outputs, for the inputs that it was made ready for."""
        return [tuple(self._context.get_tensor_shape(tensor.name)) for tensor in self.outputs]

    def enqueue(self, addresses: Mapping[str, int]) -> None:
        """Asks the stream to compute, with the tensors at these addresses."""
        for name, address in addresses.items():
            if not self._context.set_tensor_address(name, address):
                raise self._error(f"the address of '{name}'")
        if not self._context.execute_async_v3(self._stream.address):
            raise self._error("to run")

    def capturable(self) -> bool:
        """Whether TensorRT says that what it enqueues now can be captured; it does where it does not know."""
        asked = getattr(self._context, "is_stream_capturable", None)
        return asked is None or bool(asked(self._stream.address))

    def _created(self, library: Any, file: Path, *, dynamic: bool) -> Any:
        self._words.take()
        config = self._engine.create_runtime_config() if hasattr(self._engine, "create_runtime_config") else None
        if config is not None and hasattr(config, "create_runtime_cache"):
            self.cache = RuntimeCache(config, file)
            if dynamic and hasattr(library, "DynamicShapesKernelSpecializationStrategy"):
                # Otherwise slow kernels run until fast ones are compiled in the background, and are what is captured.
                eager = library.DynamicShapesKernelSpecializationStrategy.EAGER
                config.dynamic_shapes_kernel_specialization_strategy = eager
            context = self._engine.create_execution_context(runtime_config=config)
        else:
            context = self._engine.create_execution_context()
        if context is None:
            raise self._error("to make an execution context")
        return context

    def _ranges(self, inputs: Sequence[Tensor]) -> list[list[tuple[tuple[int, ...], tuple[int, ...]]]]:
        """Least and greatest shape of each input, a profile after the other."""
        ranges = []
        for profile in range(max(1, self._engine.num_optimization_profiles)):
            row = []
            for tensor in inputs:
                least = greatest = tensor.shape
                if -1 in tensor.shape:
                    least, _, greatest = map(tuple, self._engine.get_tensor_profile_shape(tensor.name, profile))
                row.append((least, greatest))
            ranges.append(row)
        return ranges

    def _sized(self, tensors: Mapping[str, Tensor], inputs: Sequence[str]) -> tuple[list[Tensor], list[Tensor]]:
        """Inputs and outputs with the size of the greatest that any profile allows."""
        self.inputs = [tensors[name] for name in inputs]
        self.outputs = [tensor for name, tensor in tensors.items() if name not in inputs]
        sizes = dict.fromkeys(tensors, 0)
        for ranges in self._profiles:
            greatest = tuple(high for _, high in ranges)
            self.prepare(greatest)
            shapes = [*zip(self.inputs, greatest, strict=True), *zip(self.outputs, self.output_shapes(), strict=True)]
            for tensor, shape in shapes:
                if -1 in shape:
                    raise EngineMismatch(f"output '{tensor.name}' has a shape that depends on values, {shape}")
                sizes[tensor.name] = max(sizes[tensor.name], int(np.prod(shape)) * tensor.dtype.itemsize)
        return [_with_size(t, sizes) for t in self.inputs], [_with_size(t, sizes) for t in self.outputs]

    def _fitting(self, shapes: Shapes) -> int:
        """The profile for these shapes: the current one if it serves, since changing it costs time."""
        order = sorted(range(len(self._profiles)), key=lambda profile: profile != self._profile)
        for profile in order:
            if all(_within(shape, *bounds) for shape, bounds in zip(shapes, self._profiles[profile], strict=True)):
                return profile
        allowed = " or ".join(
            ", ".join(f"'{t.name}' {_span(*bounds)}" for t, bounds in zip(self.inputs, ranges, strict=True))
            for ranges in self._profiles
        )
        got = ", ".join(map(str, shapes))
        raise RunError(f"inputs: expected {allowed}, got {got}", hint="build it for them: --batch or --shape")

    def _choose(self, profile: int) -> None:
        self._stream.synchronize()
        if not self._context.set_optimization_profile_async(profile, self._stream.address):
            raise self._error(f"optimization profile {profile}")
        self._stream.synchronize()
        self._profile = profile

    def _error(self, what: str) -> RunError:
        return RunError(f"TensorRT refused {what}: {self._words.take() or 'it gives no reason'}")


def _tensor(library: Any, engine: Any, name: str, file: Path) -> Tensor:
    dtype = engine.get_tensor_dtype(name).name
    if dtype not in DTYPES:
        raise EngineMismatch(f"{file}: '{name}' has type {dtype}, which numpy does not have")
    if engine.get_tensor_location(name) != library.TensorLocation.DEVICE:
        raise EngineMismatch(f"{file}: '{name}' holds a shape, and not values", hint="build it with fixed shapes")
    return Tensor(name=name, dtype=np.dtype(DTYPES[dtype]), shape=tuple(engine.get_tensor_shape(name)))


def _with_size(tensor: Tensor, sizes: Mapping[str, int]) -> Tensor:
    return Tensor(name=tensor.name, dtype=tensor.dtype, shape=tensor.shape, size_bytes=sizes[tensor.name])


def _within(shape: tuple[int, ...], least: tuple[int, ...], greatest: tuple[int, ...]) -> bool:
    return len(shape) == len(least) and all(
        low <= size <= high for low, size, high in zip(least, shape, greatest, strict=True)
    )


def _span(least: tuple[int, ...], greatest: tuple[int, ...]) -> str:
    return str(least) if least == greatest else f"{least} to {greatest}"
