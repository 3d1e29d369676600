"""A TensorRT without a GPU: it computes ``y = 2 x + 1`` on the fake driver's memory, as strict as the real one.

A plan is JSON: ``{"inputs": {"x": [-1, 4]}, "profiles": [[[1, 4], [2, 4], [8, 4]]], ...}``; for an input ``x`` there
is an output ``x_out``. With ``"plugin": {"name": ..., "fields": {...}}``, a plugin computes one output from all inputs,
of the type and the shape of the first. Its layers are entries of the inspector's JSON, with their time as ``ms``.
"""

from __future__ import annotations

import enum
import json
import math
import types
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
from fake_cuda import FakeDriver, Memory, Work

SCRATCH_BYTES = 64


class TensorIOMode(enum.Enum):
    INPUT = 1
    OUTPUT = 2


class TensorLocation(enum.Enum):
    DEVICE = 0
    HOST = 1


class DataType(enum.Enum):
    FLOAT = "float32"
    HALF = "float16"
    INT32 = "int32"
    FP8 = ""


class TensorFormat(enum.Enum):
    LINEAR = 0
    CHW32 = 1


class PluginFieldType(enum.Enum):
    FLOAT32 = 0
    INT32 = 1


class PluginField:
    def __init__(self, name: str, data: np.ndarray, type: PluginFieldType) -> None:
        self.name, self.data, self.type = name, data, type


class PluginFieldCollection(list[PluginField]):
    pass


class IPluginV3:
    def __init__(self) -> None:
        self.made = {*getattr(self, "made", ()), "IPluginV3"}


class IPluginV3OneCore:
    def __init__(self) -> None:
        self.made = {*getattr(self, "made", ()), "core"}


class IPluginV3OneBuild:
    def __init__(self) -> None:
        self.made = {*getattr(self, "made", ()), "build"}


class IPluginV3OneRuntime:
    def __init__(self) -> None:
        self.made = {*getattr(self, "made", ()), "runtime"}


class IPluginCreatorV3One:
    def __init__(self) -> None:
        self.made = True


class PluginRegistry:
    def __init__(self) -> None:
        self.creators: dict[tuple[str, str, str], Any] = {}

    def register_creator(self, creator: Any, plugin_namespace: str = "") -> bool:
        assert creator.made, "a creator whose base was not initialized crashes the real one"
        key = (creator.name, creator.plugin_version, plugin_namespace)
        return self.creators.setdefault(key, creator) is creator


class TensorDesc:
    """PluginTensorDesc, and DynamicPluginTensorDesc, which has all sizes."""

    def __init__(self, dims: Sequence[int], type: DataType, least: Sequence[int] = (), greatest: Sequence[int] = ()):
        self.dims, self.type, self.format, self.desc = tuple(dims), type, TensorFormat.LINEAR, self
        self.min, self.max = tuple(least), tuple(greatest)


class EngineStat(enum.Enum):
    STRIPPED_WEIGHTS_SIZE = 1


class DynamicShapesKernelSpecializationStrategy(enum.Enum):
    LAZY = 0
    EAGER = 1


class ILogger:
    class Severity(enum.Enum):
        INTERNAL_ERROR = 0
        ERROR = 1
        WARNING = 2

    def __init__(self) -> None:
        self.made = True


class IOutputAllocator:
    def __init__(self) -> None:
        self.made = True


class LayerInformationFormat(enum.Enum):
    ONELINE = 0
    JSON = 1


class IProfiler:
    def __init__(self) -> None:
        self.made = True


class Library(types.SimpleNamespace):
    """The module, for one driver; hashable, as modules are."""

    __hash__ = object.__hash__
    __eq__ = object.__eq__


def library(driver: FakeDriver, *, rtx: bool = False, name: str = "fake_tensorrt") -> Any:
    """The fake TensorRT, or TensorRT-RTX, on a fake GPU.

    Attributes:
        engines: how many were deserialized.
        capturable: what it says when it is asked.
        fail_enqueue: `execute_async_v3` fails, while capturing or always.
    """
    made = Library(
        __name__=name,
        __version__="10.0",
        TensorIOMode=TensorIOMode,
        TensorLocation=TensorLocation,
        EngineStat=EngineStat,
        ILogger=ILogger,
        IOutputAllocator=IOutputAllocator,
        IProfiler=IProfiler,
        LayerInformationFormat=LayerInformationFormat,
        driver=driver,
        rtx=rtx,
        engines=0,
        refits=[],
        compiled=0,
        capturable=True,
        fail_enqueue="",
    )
    if rtx:
        made.DynamicShapesKernelSpecializationStrategy = DynamicShapesKernelSpecializationStrategy
    registry = PluginRegistry()
    made.get_plugin_registry = lambda: registry
    for kind in (IPluginV3, IPluginV3OneCore, IPluginV3OneBuild, IPluginV3OneRuntime, IPluginCreatorV3One):
        setattr(made, kind.__name__, kind)
    for kind in (PluginField, PluginFieldCollection, PluginFieldType, TensorFormat):
        setattr(made, kind.__name__, kind)
    made.Runtime = lambda logger: Runtime(made, logger)
    made.Refitter = Refitter
    made.OnnxParserRefitter = OnnxParserRefitter
    return made


class Runtime:
    def __init__(self, library: Any, logger: ILogger) -> None:
        assert logger.made, "a logger whose base was not initialized crashes the real one"
        self.library = library
        self.logger = logger
        self.engine_host_code_allowed = False

    def deserialize_cuda_engine(self, data: Any) -> Any:
        assert self.library.driver.is_current(), "without a context it would make one of its own"
        try:
            plan = json.loads(bytes(data))
        except ValueError:
            self.logger.log(ILogger.Severity.ERROR, "Magic tag does not match")
            return None
        if plan.get("host_code") and not self.engine_host_code_allowed:
            self.logger.log(ILogger.Severity.ERROR, "IRuntime::getEngineHostCodeAllowed() is false.")
            return None
        plugin = self._plugin(plan["plugin"]) if "plugin" in plan else None
        if "plugin" in plan and plugin is None:
            self.logger.log(ILogger.Severity.ERROR, "getPluginCreator could not find the plugin's creator")
            return None
        self.library.engines += 1
        if plugin is not None:
            return Engine(self, plan, plugin)
        return RtxEngine(self, plan) if self.library.rtx else Engine(self, plan)

    def _plugin(self, given: dict[str, Any]) -> Any:
        creator = self.library.get_plugin_registry().creators.get((given["name"], "1", "edgekit"))
        if creator is None:
            return None
        known = {field.name: field for field in creator.field_names}
        kinds = {PluginFieldType.FLOAT32: np.float32, PluginFieldType.INT32: np.int32}
        values = [(known[name], value) for name, value in given["fields"].items()]
        fields = [PluginField(one.name, np.array([value], kinds[one.type]), one.type) for one, value in values]
        return creator.create_plugin(given["name"], PluginFieldCollection(fields), "RUNTIME")


class Engine:
    def __init__(self, runtime: Runtime, plan: dict[str, Any], plugin: Any = None) -> None:
        self.plugin = plugin
        self.library = runtime.library
        self.logger = runtime.logger
        self.plan = plan
        self.weights = not plan.get("stripped")
        self.refittable = bool(plan.get("stripped"))
        self.num_optimization_profiles = len(plan.get("profiles", [])) or 1
        outputs = list(plan["inputs"])[: 1 if plugin else None]
        self._names = [*plan["inputs"], *(f"{name}_out" for name in outputs)]
        self.num_io_tensors = len(self._names)
        self._stack = ExitStack()
        self._stack.enter_context(self.library.driver.library_memory(SCRATCH_BYTES))

    def __del__(self) -> None:
        self._stack.close()

    def get_tensor_name(self, index: int) -> str:
        return str(self._names[index])

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self.plan["inputs"] else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        return DataType[self.plan.get("dtypes", {}).get(name, self.plan.get("dtype", "FLOAT"))]

    def get_tensor_location(self, name: str) -> TensorLocation:
        return TensorLocation[self.plan.get("location", "DEVICE")]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        if self.plan.get("values_decide") and name.endswith("_out"):
            return (-1,)
        return tuple(self.plan["inputs"][name.removesuffix("_out")])

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        return [tuple(shape) for shape in self.plan["profiles"][profile]]

    def get_engine_stat(self, stat: EngineStat) -> int:
        return -1 if self.weights else 1000

    def create_engine_inspector(self) -> EngineInspector:
        return EngineInspector(self)

    def create_execution_context(self) -> Any:
        if self.plan.get("no_context"):
            self.logger.log(ILogger.Severity.ERROR, "out of device memory")
            return None
        return ExecutionContext(self)


class EngineInspector:
    """Describes layers in detail if the plan was built so, else by their names; sizes are those of its context."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.execution_context: ExecutionContext | None = None

    def get_engine_information(self, format: LayerInformationFormat) -> str:
        assert format is LayerInformationFormat.JSON
        layers = self.engine.plan.get("layers", [])
        if not self.engine.plan.get("detailed", True):
            layers = [layer["Name"] for layer in layers]
        return json.dumps({"Layers": layers, "Bindings": self.engine._names})


class ExecutionContext:
    def __init__(self, engine: Engine) -> None:
        assert engine.weights, "an engine without weights"
        self.engine = engine
        self.library = engine.library
        self.driver: FakeDriver = engine.library.driver
        self.logger = engine.logger
        self._stack = ExitStack()
        self._scratch: Memory = self._stack.enter_context(self.driver.library_memory(SCRATCH_BYTES))
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._profile = 0
        self._new_shapes = True
        self._allocators: dict[str, Any] = {}
        self._plugin: Any = None
        if engine.plugin is not None:
            self._plugin = engine.plugin.attach_to_context(self)
            assert self._plugin.made == {"IPluginV3", "core", "build", "runtime"}
            inputs = self._descriptions()
            size = self._plugin.get_workspace_size(inputs, inputs[:1])
            self._workspace = self._stack.enter_context(self.driver.library_memory(size)) if size else None
        self.profiler: IProfiler | None = None
        self.enqueue_emits_profile = True

    def _descriptions(self) -> list[TensorDesc]:
        """The inputs of a plugin, which are of fixed sizes."""
        tensors = [(self.engine.get_tensor_shape(name), name) for name in self.engine.plan["inputs"]]
        return [TensorDesc(shape, self.engine.get_tensor_dtype(name), shape, shape) for shape, name in tensors]

    def __del__(self) -> None:
        assert "context" in self.driver.leaks(), "the CUDA context went before TensorRT's"
        if self._plugin is not None:
            self._plugin.destroy()
        self._stack.close()

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        self.driver.stream_at(stream)
        self._profile = profile
        self._shapes.clear()
        self._new_shapes = True
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        built = self.engine.get_tensor_shape(name)
        least = greatest = built
        if -1 in built:
            least, _, greatest = self.engine.get_tensor_profile_shape(name, self._profile)
        fits = len(shape) == len(built) and all(a <= s <= b for a, s, b in zip(least, shape, greatest, strict=True))
        if not fits:
            self.logger.log(ILogger.Severity.ERROR, f"profile {self._profile} does not have {shape}")
            return False
        self._shapes[name] = tuple(shape)
        self._new_shapes = True
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        built = self.engine.get_tensor_shape(name)
        if built == (-1,) and name.endswith("_out"):
            return built
        return self._shapes.get(name.removesuffix("_out"), built)

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return True

    def get_max_output_size(self, name: str) -> int:
        shape = self._shapes.get(name.removesuffix("_out"), self.engine.get_tensor_shape(name.removesuffix("_out")))
        return math.prod(shape) * np.dtype(self.engine.get_tensor_dtype(name).value).itemsize

    def set_output_allocator(self, name: str, allocator: Any) -> bool:
        assert allocator.made, "an allocator whose base was not initialized crashes the real one"
        self._allocators[name] = allocator
        return True

    def is_stream_capturable(self, stream: int) -> bool:
        return bool(self.library.capturable)

    def execute_async_v3(self, stream: int) -> bool:
        assert self.driver.is_current()
        where = self.driver.stream_at(stream)
        capturing = where.captured is not None
        refused = self.library.fail_enqueue == "always" or (capturing and self.library.fail_enqueue == "capturing")
        if refused or (capturing and self._new_shapes):
            self.logger.log(ILogger.Severity.ERROR, "operation not permitted when stream is capturing")
            return False
        if self._plugin is not None:
            return self._run_plugin(stream)
        for name in self.engine.plan["inputs"]:
            shape = self._shapes.get(name, self.engine.get_tensor_shape(name))
            assert -1 not in shape, "a shape was not set"
            if self.engine.plan.get("values_decide"):
                self._compact(where, stream, name, shape)
            else:
                self._enqueue(where, self._addresses[name], self._addresses[f"{name}_out"], shape)
        self._new_shapes = False
        if self.profiler is not None and self.enqueue_emits_profile:
            self._report(where)
        return True

    def _run_plugin(self, stream: int) -> bool:
        inputs = self._descriptions()
        if self._new_shapes:
            self._plugin.on_shape_change(inputs, inputs[:1])
        names = list(self.engine.plan["inputs"])
        addresses = [self._addresses[name] for name in (*names, f"{names[0]}_out")]
        workspace = self._workspace.address if self._workspace else 0
        try:
            self._plugin.enqueue(inputs, inputs[:1], addresses[:-1], addresses[-1:], workspace, stream)
        except Exception:  # the real one prints it
            return False
        self._new_shapes = False
        return True

    def _report(self, where: Any) -> None:
        """Reports each layer's time, for which it waits."""
        assert self.profiler is not None and self.profiler.made, "a profiler without its base crashes the real one"
        assert where.captured is None, "times of layers are not reported while capturing"
        self.driver.synchronize_stream(where)
        for layer in self.engine.plan.get("layers", []):
            self.profiler.report_layer_time(layer["Name"], layer["ms"])

    def _compact(self, where: Any, stream: int, name: str, shape: Sequence[int]) -> None:
        """Keeps what is positive; how many that are is waited for."""
        assert where.captured is None, "it cannot wait while it is captured"
        self.driver.synchronize_stream(where)
        output, dtype = f"{name}_out", np.dtype(self.engine.get_tensor_dtype(name).value)
        size = math.prod(shape) * dtype.itemsize
        values = self.driver.memory_at(self._addresses[name]).data[:size].view(dtype)
        kept = 2 * values[values > 0] + 1
        allocator = self._allocators[output]
        address = allocator.reallocate_output_async(output, self._addresses[output], kept.nbytes, 256, stream)
        allocator.notify_shape(output, kept.shape)
        written = self.driver.memory_at(address)

        def write() -> None:
            written.data[: kept.nbytes].view(dtype)[...] = kept

        self.driver.enqueue(where, Work("compact", [], [written], write))

    def _enqueue(self, stream: Any, source: int, target: int, shape: Sequence[int]) -> None:
        read, written = self.driver.memory_at(source), self.driver.memory_at(target)
        dtype = np.dtype(self.engine.get_tensor_dtype("").value)
        size = int(np.prod(shape)) * dtype.itemsize
        assert read.data.size >= size <= written.data.size, "a buffer is too small"

        def compute() -> None:
            values = read.data[:size].view(dtype)
            written.data[:size].view(dtype)[...] = 2 * values + 1

        self.driver.enqueue(stream, Work("compute", [read, self._scratch], [written, self._scratch], compute))


class RtxEngine(Engine):
    def create_runtime_config(self) -> RuntimeConfig:
        return RuntimeConfig(self.library)

    def create_execution_context(self, runtime_config: RuntimeConfig | None = None) -> Any:
        assert runtime_config is not None and runtime_config.cache is not None
        self.library.strategy = runtime_config.dynamic_shapes_kernel_specialization_strategy
        if runtime_config.cache.content != b"compiled":
            self.library.compiled += 1
            runtime_config.cache.content = b"compiled"
        return super().create_execution_context()


class RuntimeConfig:
    def __init__(self, library: Any) -> None:
        self.library = library
        self.cache: RuntimeCache | None = None
        self.dynamic_shapes_kernel_specialization_strategy = DynamicShapesKernelSpecializationStrategy.LAZY

    def create_runtime_cache(self) -> RuntimeCache:
        return RuntimeCache()

    def set_runtime_cache(self, cache: RuntimeCache) -> None:
        self.cache = cache


class RuntimeCache:
    content = b""

    def deserialize(self, blob: bytes) -> bool:
        if blob == b"compiled":
            self.content = blob
            return True
        return False

    def serialize(self) -> bytes:
        return self.content


class Refitter:
    def __init__(self, engine: Engine, logger: ILogger) -> None:
        self.engine = engine
        self.new_weights = False

    def refit_cuda_engine(self) -> bool:
        self.engine.weights = self.new_weights
        return True


class OnnxParserRefitter:
    def __init__(self, refitter: Refitter, logger: ILogger) -> None:
        self.refitter = refitter
        self.logger = logger

    def refit_from_file(self, file: str) -> bool:
        self.refitter.engine.library.refits.append(file)
        with open(file, "rb") as stream:
            self.refitter.new_weights = stream.read() == b"weights"
        if not self.refitter.new_weights:
            self.logger.log(ILogger.Severity.ERROR, "no such weights in the model")
        return self.refitter.new_weights
