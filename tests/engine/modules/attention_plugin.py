"""What NVIDIA's own ``tensorrt.plugin`` makes of EdgeKit's attention plugins, for sizes that are given; writes JSON.

The library behind the bindings does nothing: the registry and the arithmetic of shapes are replaced.
"""

from __future__ import annotations

import importlib
import json
import sys
from typing import Any

import tensorrt_bindings as trt

sys.modules["tensorrt"] = trt

from edgekit.engine.tensorrt import attention_plugin  # noqa: E402
from edgekit.errors import BackendUnavailable  # noqa: E402


class Registry:
    def __init__(self) -> None:
        self.created: list[str] = []

    def get_creator(self, name: str, version: str, namespace: str) -> None:
        return None

    def register_creator(self, creator: Any, namespace: str) -> None:
        self.created.append(f"{namespace}::{creator.name}")


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
    try:
        attention_plugin.register_attention(trt)
    except BackendUnavailable as e:
        print(json.dumps({"unavailable": e.message}))
        return
    attention_plugin.register_attention(trt)
    plugin = importlib.import_module("tensorrt_bindings.plugin")
    tensors = importlib.import_module("tensorrt_bindings.plugin._tensor")
    trt.IDimensionExpr = Expression
    tensors.SymIntExpr._exprBuilder = Expressions()

    def described(shape: list[int], type_name: str) -> Any:
        sizes = [tensors.ShapeExpr(Expression(size)) for size in shape]
        return plugin.TensorDesc(tensors.ShapeExprs.from_tuple(sizes), getattr(trt.DataType, type_name))

    kernels = []
    for case in json.loads(sys.argv[1]):
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
    print(json.dumps({"created": registry.created, "kernels": kernels}))


if __name__ == "__main__":
    main()
