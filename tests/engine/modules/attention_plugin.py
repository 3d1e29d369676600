"""What NVIDIA's own bindings make of EdgeKit's attention plugins, of one kind, for sizes that are given; writes JSON.

The library behind the bindings does nothing: the registry and the arithmetic of shapes are replaced.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import sys
from typing import Any

import numpy as np
import tensorrt_bindings as trt

sys.modules["tensorrt"] = trt

from edgekit.device.cuda.resources import Context, DeviceMemory, Stream  # noqa: E402
from edgekit.engine.tensorrt import attention_plugin  # noqa: E402
from edgekit.engine.tensorrt.attention_runtime import Settings, register_runtime_attention  # noqa: E402
from edgekit.kernels.sdpa.node import PLUGINS  # noqa: E402
from tests.fakes.fake_cuda import FakeDriver  # noqa: E402

KEPT: list[Any] = []  # plugins belong to the library, and the bindings of 10.3 crash when Python frees one


class Registry:
    def __init__(self) -> None:
        self.created: list[str] = []
        self.creators: dict[str, Any] = {}

    def get_creator(self, name: str, version: str, namespace: str) -> None:
        return None

    def register_creator(self, creator: Any, namespace: str) -> bool:
        self.created.append(f"{namespace}::{creator.name}")
        self.creators[creator.name] = creator
        return True


class Expression:
    """A size, as TensorRT computes it once it is known."""

    def __init__(self, value: int) -> None:
        self.value = value


class Expressions:
    def constant(self, value: int) -> Expression:
        return Expression(value)

    def operation(self, operation: Any, a: Expression, b: Expression) -> Expression:
        operations = trt.DimensionOperation
        return Expression(
            {
                operations.SUM: lambda: a.value + b.value,
                operations.SUB: lambda: a.value - b.value,
                operations.PROD: lambda: a.value * b.value,
                operations.FLOOR_DIV: lambda: a.value // b.value,
                operations.CEIL_DIV: lambda: -(-a.value // b.value),
            }[operation]()
        )


def main() -> None:
    registry = Registry()
    trt.get_plugin_registry = lambda: registry
    kind, cases = sys.argv[1], json.loads(sys.argv[2])
    found = run_by_edgekit(registry, cases) if kind == "runtime" else ahead_of_time(cases)
    print(json.dumps({"created": registry.created} | found), flush=True)
    os._exit(0)  # without freeing plugins


def ahead_of_time(cases: list[dict[str, Any]]) -> dict[str, Any]:
    plugin = importlib.import_module("tensorrt_bindings.plugin")
    for _ in range(2):
        attention_plugin._registered(plugin)
    tensors = importlib.import_module("tensorrt_bindings.plugin._tensor")
    trt.IDimensionExpr = Expression
    tensors.SymIntExpr._exprBuilder = Expressions()

    def described(shape: list[int], type_name: str) -> Any:
        sizes = [tensors.ShapeExpr(Expression(size)) for size in shape]
        return plugin.TensorDesc(tensors.ShapeExprs.from_tuple(sizes), getattr(trt.DataType, type_name))

    kernels = []
    for case in cases:
        definition = plugin._lib.QDP_REGISTRY[f"edgekit::{case['plugin']}"]
        inputs = [described(shape, case["type"]) for shape in case["shapes"]]
        name, ptx, launch, extra = definition.aot_impl_func(*inputs, *case["attributes"].values(), None, None)
        assert list(definition.input_attrs) == list(case["attributes"])
        kernels.append(
            {
                "name": name,
                "ptx": ptx.decode(),
                "grid": [getattr(launch, f"grid_{axis}")._expr.value for axis in "xyz"],
                "block": launch.block_x._expr.value,
                "shared": launch.shared_mem._expr.value,
                "integers": [expression._expr.value for expression in extra if isinstance(expression, plugin.SymInt32)],
            }
        )
    return {"kernels": kernels}


def run_by_edgekit(registry: Registry, cases: list[dict[str, Any]]) -> dict[str, Any]:
    launched: list[list[Any]] = []
    driver = FakeDriver(kernels=lambda kernel, grid, arguments: launched[-1].append([kernel, grid]))
    register_runtime_attention(trt, driver)
    for case in cases:
        creator = registry.creators[case["plugin"]]
        assert [field.name for field in creator.field_names] == list(Settings.__struct_fields__)
        kinds = {field.name: field.type for field in creator.field_names}
        dtypes = {trt.PluginFieldType.FLOAT32: np.float32, trt.PluginFieldType.INT32: np.int32}
        values = {name: np.array([value], dtypes[kinds[name]]) for name, value in case["attributes"].items()}
        fields = [trt.PluginField(name, value, kinds[name]) for name, value in values.items()]
        first = creator.create_plugin("node", trt.PluginFieldCollection(fields), trt.TensorRTPhase.BUILD)
        # What is serialized makes the same plugin again.
        plugin = creator.create_plugin("node", first.get_fields_to_serialize(), trt.TensorRTPhase.RUNTIME)
        context_plugin = plugin.attach_to_context(None)
        KEPT.extend([first, plugin, context_plugin])
        assert context_plugin.settings == plugin.settings == first.settings
        assert (plugin.plugin_name, plugin.plugin_namespace, plugin.num_outputs) == (case["plugin"], "edgekit", 1)
        assert plugin.get_capability_interface(None) is plugin
        launched.append([])
        use(driver, context_plugin, case)
    return {"launched": launched}


def use(driver: FakeDriver, plugin: Any, case: dict[str, Any]) -> None:
    kinds = [case["type"]] * 3 + (["INT32"] if "key_lengths" in PLUGINS[case["plugin"]] else [case["type"]])
    shapes = [*case["shapes"], case["shapes"][0]]
    kinds = [*kinds[: len(shapes) - 1], case["type"]]
    tensors, dynamic = [], []
    for shape, kind in zip(shapes, kinds, strict=True):
        tensor = trt.PluginTensorDesc()
        tensor.dims, tensor.type, tensor.format = shape, getattr(trt.DataType, kind), trt.TensorFormat.LINEAR
        tensors.append(tensor)
        whole = trt.DynamicPluginTensorDesc()
        whole.desc, whole.min, whole.opt, whole.max = tensor, shape, shape, shape
        dynamic.append(whole)
    inputs = len(tensors) - 1
    for position in range(len(tensors)):
        assert plugin.supports_format_combination(position, dynamic, inputs)
        tensors[position].type = trt.DataType.FLOAT
        dynamic[position].desc = tensors[position]
        assert not plugin.supports_format_combination(position, dynamic, inputs)
        tensors[position].type = getattr(trt.DataType, kinds[position])
        dynamic[position].desc = tensors[position]
    with Context(driver) as context, context.current(), Stream(context) as stream:
        memory = [DeviceMemory(context, 2 * math.prod(shape) + 8) for shape in shapes]
        size = plugin.get_workspace_size(dynamic[:inputs], dynamic[inputs:])
        workspace = DeviceMemory(context, max(size, 1))
        plugin.on_shape_change(tensors[:inputs], tensors[inputs:])
        addresses = [one.address for one in memory]
        plugin.enqueue(
            tensors[:inputs],
            tensors[inputs:],
            addresses[:inputs],
            addresses[inputs:],
            workspace.address if size else 0,
            stream.address,
        )
        stream.synchronize()
        for one in (*memory, workspace):
            one.close()


if __name__ == "__main__":
    main()
