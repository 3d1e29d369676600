"""Runs an engine on arrays that are in device memory; the outputs stay there."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np

from edgekit.device.cuda.arrays import DeviceArray, ForeignArray, foreign_array, is_on_device
from edgekit.device.cuda.resources import Context, DeviceMemory, HostMemory
from edgekit.engine.bundle.manifest import Manifest
from edgekit.errors import RunError
from edgekit.runtime.inputs import Array, checked
from edgekit.runtime.stream import RunsOnDevice
from edgekit.specs import TensorSpec

__all__ = ["copied_to_host", "run_on_device"]


def run_on_device(
    engine: RunsOnDevice,
    outputs: tuple[TensorSpec, ...],
    feeds: Mapping[str, Any],
    inputs: tuple[TensorSpec, ...],
    manifest: Manifest,
) -> dict[str, DeviceArray]:
    """Runs an engine where the inputs lie; inputs in host memory are copied first.

    The run is not captured in a CUDA graph, because its addresses change from call to call. Each output has memory of
    its own.

    Args:
        engine: the engine.
        outputs: specifications of its outputs.
        feeds: arrays by name, in host or device memory.
        inputs: specifications of its inputs.
        manifest: the manifest of its bundle.

    Raises:
        RunError: an input is missing, unknown, or of another type or shape; the run failed.
        UsageError: an array has no type that EdgeKit knows.
    """
    context, stream = engine.context, engine.stream
    with context.current(), ExitStack() as stack:
        there = {name: foreign_array(array, stream) if is_on_device(array) else array for name, array in feeds.items()}
        arrays = checked(there, inputs, manifest)
        shapes = {name: array.shape for name, array in arrays.items()}
        own = Context(context.driver, context.index)  # the outputs may live longer than the engine
        output_shapes = engine.output_shapes(shapes)
        made = {}
        for spec in outputs:
            shape, dtype = output_shapes[spec.name], np.dtype(spec.dtype)
            size_bytes = int(np.prod(shape)) * dtype.itemsize
            memory = DeviceMemory(own, max(1, size_bytes))
            made[spec.name] = DeviceArray(own, memory.address, shape, dtype, owner=memory, index=own.index)
        with stream.until_done():
            addresses = {name: _address(engine, array, stack) for name, array in arrays.items()}
            engine.enqueue(shapes, addresses | {name: array.address for name, array in made.items()})
    return made


def copied_to_host(engine: RunsOnDevice, array: Any) -> np.ndarray:
    """Copies an array of another library from device memory.

    Raises:
        RunError: CUDA failed, or the array has gaps.
    """
    with engine.context.current():
        found = foreign_array(array, engine.stream)
        if not found.is_contiguous:
            raise RunError(
                f"array: expected a contiguous one, got strides of {found.strides} bytes for shape {found.shape}",
                hint="copy it: x.contiguous()",
            )
        engine.stream.synchronize()  # until the array's producer is done
        return DeviceArray(engine.context, found.address, found.shape, np.dtype(found.dtype), owner=found).numpy()


def _address(engine: RunsOnDevice, array: Array, stack: ExitStack) -> int:
    if isinstance(array, ForeignArray):
        return array.address
    host = stack.enter_context(HostMemory(engine.context, max(1, array.nbytes)))
    device = stack.enter_context(DeviceMemory(engine.context, max(1, array.nbytes)))
    if array.nbytes:
        np.copyto(host.array[: array.nbytes].view(array.dtype).reshape(array.shape), array)
        engine.stream.copy_to_device(device.address, host.array[: array.nbytes])
    return device.address
