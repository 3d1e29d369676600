"""Creates TensorRT's builder configuration."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from edgekit.arguments import argument
from edgekit.engine.backend import BuildOptions
from edgekit.engine.tensorrt.options import TensorRtOptions, engine_argument
from edgekit.errors import UsageError
from edgekit.storage import write_atomic

if TYPE_CHECKING:
    import tensorrt as trt

__all__ = ["config_from_options", "dla_note", "engine_options", "listed_capabilities", "save_timing_cache"]


def engine_options(options: BuildOptions) -> TensorRtOptions:
    """Converts the plain values in the build options to TensorRT's options."""
    return msgspec.convert(options.engine, TensorRtOptions)


def config_from_options(
    library: Any, builder: trt.Builder, options: BuildOptions, memory_bytes: int, timing_cache: str = ""
) -> trt.IBuilderConfig:
    """Creates the builder's configuration.

    Args:
        library: ``tensorrt`` or ``tensorrt_rtx``.
        builder: the library's builder.
        options: the build options.
        memory_bytes: memory for timing kernels if the user sets no limit; 0: no limit.
        timing_cache: file of measured kernel times; empty: none.

    Raises:
        UsageError: the library or the board does not support an option.
    """
    config: trt.IBuilderConfig = builder.create_builder_config()
    # TF32 is on by default and rounds the factors of float32 products to 10 bits of mantissa.
    config.clear_flag(library.BuilderFlag.TF32)
    config.profiling_verbosity = library.ProfilingVerbosity.DETAILED
    engine = engine_options(options)
    workspace = engine.workspace_mib * 2**20 or memory_bytes
    if workspace:
        config.set_memory_pool_limit(library.MemoryPoolType.WORKSPACE, workspace)
    _aim_at_capabilities(library, config, engine.sm)
    _use_timing_cache(library, config, timing_cache)
    _use_dla(library, builder, config, engine)
    _set_portability(library, config, engine)
    _set_weights(library, config, engine)
    return config


def listed_capabilities(library: Any) -> list[int]:
    """Returns the compute capabilities that the library can build for without a GPU, as 75 for 7.5; empty if none."""
    members = getattr(getattr(library, "ComputeCapability", None), "__members__", {})
    return sorted(int(name.removeprefix("SM")) for name in members if name.startswith("SM"))


def dla_note(config: trt.IBuilderConfig, network: trt.INetworkDefinition) -> str:
    """Returns a note on how many layers the DLA can run, which depends on the version and the board."""
    layers: list[trt.ILayer] = [network.get_layer(index) for index in range(network.num_layers)]
    taken = sum(config.can_run_on_DLA(layer) for layer in layers)
    return f"the DLA can run {taken} of {len(layers)} layers of the network, the GPU runs the others"


def save_timing_cache(library: Any, config: trt.IBuilderConfig, file: str) -> list[str]:
    """Writes the timing cache, if there is one; returns a note if that failed."""
    if not _keeps_timing_cache(library, file):
        return []
    cache: trt.ITimingCache = config.get_timing_cache()
    try:
        # Atomic, since concurrent builds read and write the same file.
        write_atomic(Path(file), memoryview(cache.serialize()))
    except OSError as e:
        return [f"the timing cache could not be written, the next build measures again: {e}"]
    return []


def _aim_at_capabilities(library: Any, config: Any, wanted: tuple[int, ...]) -> None:
    """Sets the compute capabilities, with TensorRT-RTX only; the backend rejects the option for TensorRT."""
    if not wanted:
        return
    listed = listed_capabilities(library)
    unknown = [number for number in wanted if number not in listed]
    if unknown or len(set(wanted)) < len(wanted):
        raise UsageError(
            f"{engine_argument('sm', tuple(wanted), shell=','.join(map(str, wanted)))}: expected compute "
            f"capabilities out of {', '.join(map(str, listed))}, "
            f"each once{f', got {unknown[0]}' if unknown else ''}",
            hint="other GPUs, those of Jetson among them, are built for on the spot with "
            f"{argument('target', 'tensorrt')}"
            if unknown
            else "",
        )
    config.num_compute_capabilities = len(wanted)
    for index, number in enumerate(wanted):
        config.set_compute_capability(getattr(library.ComputeCapability, f"SM{number}"), index)


def _use_timing_cache(library: Any, config: trt.IBuilderConfig, file: str) -> None:
    if not _keeps_timing_cache(library, file):
        return
    place = Path(file)
    cache: trt.ITimingCache = config.create_timing_cache(place.read_bytes() if place.is_file() else b"")
    if not config.set_timing_cache(cache, False):  # it is from another device
        config.set_timing_cache(config.create_timing_cache(b""), False)
    editable = getattr(library.BuilderFlag, "EDITABLE_TIMING_CACHE", None)
    if editable is not None:
        config.set_flag(editable)


def _keeps_timing_cache(library: Any, file: str) -> bool:
    """Whether to use a timing cache: TensorRT-RTX does not time kernels, and warns if its functions are called."""
    return bool(file) and not listed_capabilities(library)


def _use_dla(library: Any, builder: trt.Builder, config: trt.IBuilderConfig, options: TensorRtOptions) -> None:
    if options.dla is None:
        return
    cores = builder.num_DLA_cores
    if not 0 <= options.dla < cores:
        have = f"it has {cores}, counted from 0" if cores else "it has none"
        raise UsageError(
            f"{engine_argument('dla', options.dla)}: expected a deep-learning accelerator that TensorRT finds on "
            f"this board; {have}",
            hint="leave it out" if not cores else "",
        )
    config.default_device_type = library.DeviceType.DLA
    config.DLA_core = options.dla
    config.set_flag(library.BuilderFlag.GPU_FALLBACK)


def _set_portability(library: Any, config: trt.IBuilderConfig, options: TensorRtOptions) -> None:
    if options.version_compatible:
        config.set_flag(library.BuilderFlag.VERSION_COMPATIBLE)
        if listed_capabilities(library):  # TensorRT-RTX does not include the lean runtime that would go into the plan
            config.set_flag(library.BuilderFlag.EXCLUDE_LEAN_RUNTIME)
    if options.hardware_compatible:
        config.hardware_compatibility_level = library.HardwareCompatibilityLevel.AMPERE_PLUS


def _set_weights(library: Any, config: trt.IBuilderConfig, options: TensorRtOptions) -> None:
    if options.refittable:
        config.set_flag(library.BuilderFlag.REFIT)
    if options.strip_weights:
        config.set_flag(library.BuilderFlag.STRIP_PLAN)
        if not options.refittable:
            # For a refit with the same weights; unlike REFIT, it does not prevent fusions.
            config.set_flag(library.BuilderFlag.REFIT_IDENTICAL)
