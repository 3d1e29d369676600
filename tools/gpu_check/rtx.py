"""Checks TensorRT-RTX on a GPU that it may not support: which engines load, and how fast the second start is."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import edgekit
from edgekit.device.cuda.choose import device_properties
from edgekit.engine.backend import backend
from edgekit.engine.bundle.manifest import read_manifest
from edgekit.errors import EdgeKitError
from tools.gpu_check.engines import MODEL, random_inputs, relative_error, trained_weights


def try_all_ways() -> dict[str, Any]:
    """Builds for several compute capabilities and tries each here; a failure is a result, not an error."""
    major, minor = device_properties().compute_capability
    here = 10 * major + minor
    ways: dict[str, Mapping[str, Any]] = {
        "default": {},
        f"sm {here}": {"sm": (here,)},
        "sm 80": {"sm": (80,)},
        "sm 86": {"sm": (86,)},
        "sm 80, 86, 89, 120": {"sm": (80, 86, 89, 120)},
        "hardware compatible": {"hardware_compatible": True},
    }
    with tempfile.TemporaryDirectory() as folder, edgekit.load(_reference(Path(folder))) as reference:
        feeds = random_inputs(reference.inputs, 0)
        expected = list(reference.run(feeds).values())
        results = {
            name: _tried(Path(folder) / str(i), dict(way), feeds, expected)
            for i, (name, way) in enumerate(ways.items())
        }
    works = [name for name, result in results.items() if "relative_errors" in result]
    return {"compute_capability": here, "ways": results, "works": works}


def _reference(folder: Path) -> Path:
    return edgekit.build(
        MODEL, precision="fp32", target="cpu", weights=trained_weights(), output=folder / "cpu", profile=False
    )


def _tried(output: Path, way: dict[str, Any], feeds: Any, expected: Any) -> dict[str, Any]:
    """Loads the engine without checking the manifest, to get the library's own result."""
    result: dict[str, Any] = {}
    try:
        start = time.perf_counter()
        bundle = edgekit.build(
            MODEL,
            precision="fp32",
            target="tensorrt-rtx",
            weights=trained_weights(),
            output=output,
            profile=False,
            engine=way,
        )
        manifest = read_manifest(bundle)
        result |= {"build_s": time.perf_counter() - start, "built_for": list(manifest.compute_capabilities)}
        start = time.perf_counter()
        engine = backend("tensorrt-rtx").load(bundle / manifest.engine)
        try:
            named = {spec.name: feed for spec, feed in zip(engine.inputs, feeds.values(), strict=True)}
            got = list(engine.run(named).values())
            result["load_and_first_run_s"] = time.perf_counter() - start
            result["relative_errors"] = [relative_error(a, b) for a, b in zip(got, expected, strict=True)]
        finally:
            engine.close()
    except EdgeKitError as e:
        result["error"] = str(e)
    return result


def second_start() -> dict[str, Any]:
    """Loads and runs an engine three times: without the runtime cache, with it, and with a damaged one."""
    with tempfile.TemporaryDirectory() as folder:
        bundle = edgekit.build(MODEL, precision="fp16", target="tensorrt-rtx", output=Path(folder) / "e", profile=False)
        plan = bundle / read_manifest(bundle).engine
        cache = plan.parent / f".{plan.name}.runtime-cache"
        seconds = [_start(plan), _start(plan)]
        size = cache.stat().st_size if cache.is_file() else 0
        cache.write_bytes(b"damaged")
        seconds.append(_start(plan))
    problems = [] if size else ["no runtime cache was written next to the plan"]
    names = ("first_start_s", "second_start_s", "damaged_cache_start_s")
    return dict(zip(names, seconds, strict=True)) | {"cache_bytes": size, "problems": problems}


def _start(plan: Path) -> float:
    start = time.perf_counter()
    engine = backend("tensorrt-rtx").load(plan)
    try:
        engine.run(random_inputs(engine.inputs, 0))
        return time.perf_counter() - start
    finally:
        engine.close()
