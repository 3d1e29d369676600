"""Wraps TensorRT's execution context: shapes, optimization profiles, addresses and output allocators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from edgekit.arguments import argument
from edgekit.device.cuda.resources import Stream
from edgekit.engine.tensorrt.log import process_log
from edgekit.engine.tensorrt.plan import Plan, RuntimeCache
from edgekit.engine.tensorrt.slot import Shapes, Tensor
from edgekit.errors import EngineMismatch, RunError

if TYPE_CHECKING:
    import tensorrt as trt

__all__ = ["Execution"]

# TensorRT's names of the element types that numpy supports.
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
    """An ``IExecutionContext``, which enqueues one run at a time.

    Args:
        library: the module ``tensorrt`` or ``tensorrt_rtx``.
        plan: the engine.
        file: the engine's file.
        stream: the stream to compute on.

    Raises:
        EngineMismatch: the engine has an unsupported input or output.
        RunError: TensorRT failed, usually because memory is short.
    """

    def __init__(self, library: Any, plan: Plan, file: Path, stream: Stream) -> None:
        self._words = process_log(library)
        self._engine: Any = plan.engine
        self._stream = stream
        self._shapes: Shapes | None = None
        self._profile = 0
        self._allocators: dict[str, Any] = {}
        self._config: Any = None
        self._profiler: Any = None
        self.cache: RuntimeCache | None = None
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        inputs = [name for name in names if self._engine.get_tensor_mode(name) == library.TensorIOMode.INPUT]
        tensors = {name: _tensor(library, self._engine, name, file) for name in names}
        dynamic = any(-1 in tensors[name].shape for name in inputs)
        try:
            self._context: Any = self._created(library, file, dynamic=dynamic)
            self._profiles = self._ranges([tensors[name] for name in inputs])
            self.inputs, self.outputs = self._sized(library, tensors, inputs)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Frees the context's TensorRT objects, but not the engine."""
        self._context = None
        self._profiler = None
        self._allocators.clear()
        self._config = None
        self.cache = None
        self._engine = None

    def prepare(self, shapes: Shapes) -> bool:
        """Sets the input shapes; waits until the stream is idle if the optimization profile changes.

        Returns:
            Whether the optimization profile was changed, which invalidates captured graphs.

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
        """Returns the output shapes of the last enqueued run."""
        return [self._output_shape(tensor.name) for tensor in self.outputs]

    def enqueue(self, addresses: Mapping[str, int]) -> None:
        """Enqueues a run on the stream, with the tensors at these addresses."""
        for name, address in addresses.items():
            if not self._context.set_tensor_address(name, address):
                raise self._error(f"the address of '{name}'")
        if not self._context.execute_async_v3(self._stream.address):
            raise self._error("to run")

    def profile(self, profiler: Any) -> None:
        """Attaches an ``IProfiler``; from now on, a run waits for its layers' times, and cannot be captured."""
        # By default ("enqueue_emits_profile"), each run reports its layers before it returns.
        self._profiler = profiler  # TensorRT keeps a pointer, not a reference
        self._context.profiler = profiler

    def layer_information(self, library: Any) -> str:
        """Returns the inspector's JSON about the layers, with the shapes of the last run."""
        inspector: trt.EngineInspector = self._engine.create_engine_inspector()
        inspector.execution_context = self._context
        return str(inspector.get_engine_information(library.LayerInformationFormat.JSON))

    @property
    def decides_by_values(self) -> bool:
        """Whether the shape of an output depends on the values of the inputs, and is known only after a run."""
        return bool(self._allocators)

    def obstacle(self) -> str:
        """Returns why a run cannot be captured in a CUDA graph; empty if it may be possible."""
        if self.decides_by_values:
            return "its output shapes are data-dependent, so that TensorRT waits for them"
        address = self._stream.address
        if hasattr(self._context, "is_stream_capturable") and not self._context.is_stream_capturable(address):
            return "TensorRT reports that it cannot be captured"
        return ""

    def _output_shape(self, name: str) -> tuple[int, ...]:
        allocator = self._allocators.get(name)
        return tuple(self._context.get_tensor_shape(name)) if allocator is None else allocator.shape

    def _created(self, library: Any, file: Path, *, dynamic: bool) -> Any:
        self._words.take()
        if hasattr(self._engine, "create_runtime_config"):
            self._config = self._engine.create_runtime_config()
        if hasattr(self._config, "create_runtime_cache"):
            self.cache = RuntimeCache(self._config, file)
            if dynamic and hasattr(library, "DynamicShapesKernelSpecializationStrategy"):
                # Otherwise slow kernels run, and are captured, until fast ones are compiled in the background.
                eager = library.DynamicShapesKernelSpecializationStrategy.EAGER
                self._config.dynamic_shapes_kernel_specialization_strategy = eager
            context = self._engine.create_execution_context(runtime_config=self._config)
        else:
            context = self._engine.create_execution_context()
        if context is None:
            raise self._error("to make an execution context")
        return context

    def _ranges(self, inputs: Sequence[Tensor]) -> list[list[tuple[tuple[int, ...], tuple[int, ...]]]]:
        """Returns the min and max shape of each input, for each profile."""
        ranges = []
        for profile in range(max(1, self._engine.num_optimization_profiles)):
            row = []
            for tensor in inputs:
                min_shape = max_shape = tensor.shape
                if -1 in tensor.shape:
                    min_shape, _, max_shape = map(tuple, self._engine.get_tensor_profile_shape(tensor.name, profile))
                row.append((min_shape, max_shape))
            ranges.append(row)
        return ranges

    def _sized(
        self, library: Any, tensors: Mapping[str, Tensor], inputs: Sequence[str]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Returns inputs and outputs with their max size in bytes over all profiles."""
        self.inputs = [tensors[name] for name in inputs]
        self.outputs = [tensor for name, tensor in tensors.items() if name not in inputs]
        sizes = dict.fromkeys(tensors, 0)
        for ranges in self._profiles:
            max_shapes = tuple(high for _, high in ranges)
            self.prepare(max_shapes)
            for tensor, shape in zip(self.inputs, max_shapes, strict=True):
                sizes[tensor.name] = max(sizes[tensor.name], tensor.size_of(shape))
            for tensor in self.outputs:
                shape = tuple(self._context.get_tensor_shape(tensor.name))
                size = self._context.get_max_output_size(tensor.name) if -1 in shape else tensor.size_of(shape)
                sizes[tensor.name] = max(sizes[tensor.name], size)
                if -1 in shape and tensor.name not in self._allocators:
                    self._allocators[tensor.name] = self._allocator(library, tensor.name)
        return [_with_size(t, sizes) for t in self.inputs], [_with_size(t, sizes) for t in self.outputs]

    def _allocator(self, library: Any, name: str) -> Any:
        """Sets and returns the allocator that receives the shape of a data-dependent output."""
        allocator = _given_memory(library)
        if not self._context.set_output_allocator(name, allocator):
            raise self._error(f"an allocator for '{name}'")
        return allocator

    def _fitting(self, shapes: Shapes) -> int:
        """Returns a profile for these shapes: the current one if possible, since changing it costs time."""
        order = sorted(range(len(self._profiles)), key=lambda profile: profile != self._profile)
        for profile in order:
            if all(_within(shape, *bounds) for shape, bounds in zip(shapes, self._profiles[profile], strict=True)):
                return profile
        allowed = " or ".join(
            ", ".join(f"'{t.name}' {_span(*bounds)}" for t, bounds in zip(self.inputs, ranges, strict=True))
            for ranges in self._profiles
        )
        got = ", ".join(map(str, shapes))
        raise RunError(
            f"inputs: expected {allowed}, got {got}",
            hint=f"build it for them: {argument('batch')}, {argument('shape')} or {argument('input')}",
        )

    def _choose(self, profile: int) -> None:
        self._stream.synchronize()
        if not self._context.set_optimization_profile_async(profile, self._stream.address):
            raise self._error(f"optimization profile {profile}")
        self._stream.synchronize()
        self._profile = profile

    def _error(self, what: str) -> RunError:
        return RunError(f"TensorRT refused {what}: {self._words.take() or 'it gives no reason'}")


def _given_memory(library: Any) -> Any:
    """Returns an allocator that always uses the tensor's own buffer, which fits the max size."""

    class GivenMemory(library.IOutputAllocator):  # type: ignore[misc]  # known at run time alone
        def __init__(self) -> None:
            library.IOutputAllocator.__init__(self)
            self.shape: tuple[int, ...] = ()

        def reallocate_output(self, name: str, memory: int, size: int, alignment: int) -> int:
            return memory

        def reallocate_output_async(self, name: str, memory: int, size: int, alignment: int, stream: int) -> int:
            return memory

        def notify_shape(self, name: str, shape: Sequence[int]) -> None:
            self.shape = tuple(shape)

    return GivenMemory()


def _tensor(library: Any, engine: Any, name: str, file: Path) -> Tensor:
    dtype = engine.get_tensor_dtype(name).name
    if dtype not in DTYPES:
        raise EngineMismatch(f"{file}: '{name}' has type {dtype}, which numpy does not have")
    if engine.get_tensor_location(name) != library.TensorLocation.DEVICE:
        raise EngineMismatch(f"{file}: '{name}' holds a shape, and not values", hint="build it with fixed shapes")
    return Tensor(name=name, dtype=np.dtype(DTYPES[dtype]), shape=tuple(engine.get_tensor_shape(name)))


def _with_size(tensor: Tensor, sizes: Mapping[str, int]) -> Tensor:
    return msgspec.structs.replace(tensor, size_bytes=sizes[tensor.name])


def _within(shape: tuple[int, ...], min_shape: tuple[int, ...], max_shape: tuple[int, ...]) -> bool:
    return len(shape) == len(min_shape) and all(
        low <= size <= high for low, size, high in zip(min_shape, shape, max_shape, strict=True)
    )


def _span(min_shape: tuple[int, ...], max_shape: tuple[int, ...]) -> str:
    return str(min_shape) if min_shape == max_shape else f"{min_shape} to {max_shape}"
