"""Attention as TensorRT plugins that EdgeKit runs itself: in INT8, which is four kernels, and before TensorRT 10.10.

The classes are TensorRT's ``IPluginV3`` in Python (NVIDIA, "Adding Custom Layers using the Python API"). A plan with
such a plugin loads only where the plugin's creator is registered, so neither in trtexec nor in Triton. The engine's
folder then has the file ``plugins.json``, and EdgeKit registers the creators before it loads the plan.

Not yet run by TensorRT on a GPU.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edgekit.device.cuda.driver import Driver
from edgekit.device.cuda.resources import Context, ForeignStream
from edgekit.engine.tensorrt.log import process_log
from edgekit.errors import RunError
from edgekit.kernels.sdpa.device import Array, Attention, AttentionShape, workspace_bytes
from edgekit.kernels.sdpa.node import NAMESPACE, PLUGINS

__all__ = ["PLUGINS_FILE", "mask_strides", "register_for_plan", "register_runtime_attention"]

PLUGINS_FILE = "plugins.json"
VERSION = "1"
TYPES = {"HALF": "float16", "BF16": "bfloat16"}


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The attributes of a node; see `edgekit.kernels.sdpa.node`."""

    scale: float
    head_size: int
    causal: int = 0
    bottom_right: int = 0
    repeated: int = 0
    int8: int = 0


class Kernels:
    """The kernels in the context of GPU 0."""

    def __init__(self, cuda: Driver) -> None:
        self.context = Context(cuda)
        self.attention = Attention(self.context)


# Plugins share the kernels, which are unloaded with the last plugin.
_kernels: weakref.WeakValueDictionary[Driver, Kernels] = weakref.WeakValueDictionary()


def _shared(cuda: Driver) -> Kernels:
    found = _kernels.get(cuda)
    if found is None:
        found = _kernels[cuda] = Kernels(cuda)
    return found


def register_for_plan(library: Any, plan: Path, cuda: Driver) -> None:
    """Registers the plugins before a plan is loaded, if it has any that EdgeKit runs.

    Args:
        library: ``tensorrt``.
        plan: the engine's file.
        cuda: the driver to launch with.
    """
    if (plan.parent / PLUGINS_FILE).is_file():
        register_runtime_attention(library, cuda)


def register_runtime_attention(library: Any, cuda: Driver) -> None:
    """Registers the plugins; a second call does nothing.

    Args:
        library: ``tensorrt``.
        cuda: the driver to launch with.

    Raises:
        RunError: other plugins of these names are registered in this process.
    """
    _registered(library, cuda)  # type: ignore[arg-type]  # mypy does not see that a protocol is hashable


@functools.cache
def _registered(library: Any, cuda: Any) -> tuple[Any, ...]:
    """Returns the creators, which must live as long as the library uses them."""
    interfaces = (library.IPluginV3, library.IPluginV3OneCore, library.IPluginV3OneBuild, library.IPluginV3OneRuntime)
    bases = {"bases": interfaces, "library": library, "cuda": cuda}
    plugin = type("EdgeKitPlugin", (AttentionPlugin, *interfaces), bases)
    base = library.IPluginCreatorV3One
    kind = type("EdgeKitCreator", (AttentionCreator, base), {"bases": (base,), "library": library, "plugin": plugin})
    creators = tuple(kind(name) for name in PLUGINS)
    for creator in creators:
        if not library.get_plugin_registry().register_creator(creator, NAMESPACE):
            raise RunError(f"TensorRT already has a plugin '{NAMESPACE}::{creator.name}' in this process")
    return creators


class Fields:
    """A plugin's fields, with the memory that they point to.

    Args:
        library: ``tensorrt``.
        values: the values by name; None: names and types only.

    Attributes:
        collection: TensorRT's ``PluginFieldCollection``.
    """

    def __init__(self, library: Any, values: dict[str, Any] | None = None) -> None:
        fields = []
        self._memory = []  # TensorRT does not keep it
        for field in msgspec.structs.fields(Settings):
            kind, dtype = ("FLOAT32", np.float32) if field.name == "scale" else ("INT32", np.int32)
            self._memory.append(np.array([] if values is None else [values[field.name]], dtype))
            fields.append(library.PluginField(field.name, self._memory[-1], getattr(library.PluginFieldType, kind)))
        self.collection = library.PluginFieldCollection(fields)


class AttentionPlugin:
    """The methods of a plugin, which is made of this class and TensorRT's own.

    Attributes:
        bases: TensorRT's classes.
        library: ``tensorrt``.
        cuda: the driver to launch with.
    """

    bases: tuple[Any, ...]
    library: Any
    cuda: Driver

    def __init__(self, name: str, settings: Settings) -> None:
        for base in self.bases:
            base.__init__(self)
        self.plugin_name, self.plugin_namespace, self.plugin_version = name, NAMESPACE, VERSION
        self.num_outputs = 1
        self.settings = settings
        self.fields = Fields(self.library, msgspec.structs.asdict(settings))
        self.kernels: Kernels | None = None

    def get_capability_interface(self, kind: Any) -> Any:
        return self

    def clone(self) -> Any:
        return type(self)(self.plugin_name, self.settings)

    def destroy(self) -> None:
        # TensorRT's bindings may keep references to this object.
        self.kernels = None

    def get_fields_to_serialize(self) -> Any:
        return self.fields.collection

    def get_output_data_types(self, types: Sequence[Any]) -> list[Any]:
        return [types[0]]

    def get_output_shapes(self, inputs: Sequence[Any], shape_inputs: Sequence[Any], builder: Any) -> list[Any]:
        return [inputs[0]]

    def supports_format_combination(self, position: int, tensors: Sequence[Any], inputs: int) -> bool:
        tensor, first = tensors[position].desc, tensors[0].desc
        if tensor.format != self.library.TensorFormat.LINEAR:
            return False
        if position == 3 and "key_lengths" in PLUGINS[self.plugin_name]:
            return bool(tensor.type.name == "INT32")
        return tensor.type == first.type and first.type.name in ({"HALF"} if self.settings.int8 else TYPES)

    def configure_plugin(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        pass

    def get_workspace_size(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
        shape = _shape(inputs[0].max, inputs[1].max)
        # A single query needs a workspace in half precision too, and more queries do not.
        lengths = {int(inputs[0].min[2]), shape.query_length}
        return max(self.workspace_bytes(msgspec.structs.replace(shape, query_length=each)) for each in lengths)

    def workspace_bytes(self, shape: AttentionShape) -> int:
        """Returns the workspace for one shape."""
        return workspace_bytes(shape, int8=bool(self.settings.int8), masked="mask" in PLUGINS[self.plugin_name])

    def set_tactic(self, tactic: int) -> None:
        pass

    def attach_to_context(self, context: Any) -> Any:
        return self.clone()

    def on_shape_change(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        # The kernels are loaded now, since that is not possible while a graph is captured.
        kernels = self._loaded()
        kernels.attention.prepare(
            dtype=TYPES[inputs[0].type.name], head_size=self.settings.head_size, int8=bool(self.settings.int8)
        )

    def enqueue(
        self,
        inputs: Sequence[Any],
        outputs: Sequence[Any],
        input_addresses: Sequence[int],
        output_addresses: Sequence[int],
        workspace: int,
        stream: int,
    ) -> None:
        try:
            _launch(self, self._loaded(), inputs, [*input_addresses, *output_addresses], workspace, stream)
        except Exception as e:
            # TensorRT only prints what a plugin raises.
            process_log(self.library).failures.append(f"{NAMESPACE}::{self.plugin_name}: {e}")
            raise

    def _loaded(self) -> Kernels:
        self.kernels = self.kernels or _shared(self.cuda)
        return self.kernels


class AttentionCreator:
    """The methods of a plugin's creator, which is made of this class and TensorRT's own; see `AttentionPlugin`.

    Attributes:
        bases: TensorRT's class.
        library: ``tensorrt``.
        plugin: the plugin's class.
    """

    bases: tuple[Any, ...]
    library: Any
    plugin: Any

    def __init__(self, name: str) -> None:
        for base in self.bases:
            base.__init__(self)
        self.name, self.plugin_namespace, self.plugin_version = name, NAMESPACE, VERSION
        self.fields = Fields(self.library)
        self.field_names = self.fields.collection

    def create_plugin(self, name: str, fields: Sequence[Any], phase: Any) -> Any:
        given = {field.name: field.data[0].item() for field in fields if len(field.data)}
        return self.plugin(self.name, msgspec.convert(given, Settings))


def _launch(
    plugin: AttentionPlugin,
    kernels: Kernels,
    inputs: Sequence[Any],
    addresses: Sequence[int],
    workspace: int,
    stream: int,
) -> None:
    settings, more = plugin.settings, PLUGINS[plugin.plugin_name]
    shape = _shape(inputs[0].dims, inputs[1].dims)
    offset = shape.key_length - shape.query_length if settings.bottom_right else 0
    queries, keys = (inputs[number].dims for number in (0, 1))
    mask = None
    if "mask" in more:
        lengths = (shape.query_length, shape.key_length)
        mask = Array(addresses[3], mask_strides(settings.repeated, shape.heads, *lengths))
    kernels.attention.launch(
        ForeignStream(kernels.context, stream),
        shape,
        q=_array(addresses[0], queries),
        k=_array(addresses[1], keys),
        v=_array(addresses[2], keys),
        out=_array(addresses[-1], queries),
        dtype=TYPES[inputs[0].type.name],
        scale=settings.scale,
        causal_offset=offset if settings.causal else None,
        key_lengths=addresses[3] if "key_lengths" in more else 0,
        mask=mask,
        int8=bool(settings.int8),
        workspace=workspace if plugin.workspace_bytes(shape) else 0,
    )


def _shape(queries: Sequence[int], keys: Sequence[int]) -> AttentionShape:
    return AttentionShape(
        batch=int(queries[0]),
        heads=int(queries[1]),
        key_heads=int(keys[1]),
        query_length=int(queries[2]),
        key_length=int(keys[2]),
        head_size=int(queries[3]),
    )


def _array(address: int, dims: Sequence[int]) -> Array:
    _, heads, rows, size = (int(each) for each in dims)
    return Array(address, (heads * rows * size, rows * size, size))


def mask_strides(repeated: int, heads: Any, query_length: Any, key_length: Any) -> tuple[Any, Any, Any]:
    """Returns the strides of batch, heads and rows of a contiguous mask in elements; 0 where it is repeated.

    Args:
        repeated: the node's attribute.
        heads: heads of the queries; a number, or TensorRT's expression for one.
        query_length: likewise, the number of queries.
        key_length: likewise, the number of keys.
    """
    row = 0 if repeated & 4 else key_length
    head_elements = key_length if repeated & 4 else query_length * key_length
    batch_elements = head_elements if repeated & 2 else heads * head_elements
    return (0 if repeated & 1 else batch_elements, 0 if repeated & 2 else head_elements, row)
