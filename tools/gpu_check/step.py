"""The process of one step, ``python -m tools.gpu_check.step NAME OUTPUT``: writes its result or its error."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

Step = Callable[[bool], dict[str, Any]]


def main(arguments: list[str]) -> int:
    name, output, *rest = arguments
    try:
        found: dict[str, Any] = {"ok": True, "figures": steps()[name]("--quick" in rest)}
        problems = found["figures"].pop("problems", [])
        if problems:
            found |= {"ok": False, "error": "\n".join(problems)}
    except Exception as e:  # any exception is the step's result
        found = {"ok": False, "error": str(e) or type(e).__name__, "kind": type(e).__name__}
        traceback.print_exc()
    Path(output).write_text(json.dumps(found))
    return 0 if found["ok"] else 1


def steps() -> dict[str, Step]:
    """Returns the steps by name; each imports what it needs when it runs."""
    return {
        "device": _device,
        "versions": _versions,
        "tests": _tests,
        "nms": _nms,
        "preprocess": _preprocess,
        "decode": _decode,
        "frames": _frames,
        "attention": _attention,
        "attention in tensorrt": _attention_engines,
        "sanitizer": _sanitizer,
        **{
            f"{target} {precision}": _engine(target, precision)
            for target in ("tensorrt", "tensorrt-rtx")
            for precision in ("fp32", "fp16", "int8")
        },
        "rtx on this gpu": _rtx,
        "runtime cache": _cache,
    }


def _device(quick: bool) -> dict[str, Any]:
    import msgspec

    from edgekit.device.cuda.choose import device_properties, driver
    from edgekit.device.nvidia import gpus

    shown = gpus()
    found: dict[str, Any] = msgspec.to_builtins(device_properties())
    return found | {"package": driver().name, "driver": shown[0].driver if shown else ""}


def _versions(quick: bool) -> dict[str, Any]:
    from importlib import metadata

    import edgekit

    found = {"edgekit": edgekit.__version__}
    for distribution in metadata.distributions():
        name = distribution.metadata["Name"]
        if any(part in name.lower() for part in ("tensorrt", "cuda", "onnx", "torch", "numpy")):
            found[name] = distribution.version
    return dict(sorted(found.items()))


def _tests(quick: bool) -> dict[str, Any]:
    from tools.gpu_check.tests import run_tests

    return run_tests()


def _nms(quick: bool) -> dict[str, Any]:
    from tools.gpu_check.nms import CASES, check_nms

    return check_nms(CASES[:2] if quick else CASES)


def _preprocess(quick: bool) -> dict[str, Any]:
    from tools.gpu_check.preprocess import BATCHES, check_preprocess

    return check_preprocess(batches=BATCHES[:1] if quick else BATCHES)


def _decode(quick: bool) -> dict[str, Any]:
    from tools.gpu_check.decode import CASES, QUICK, check_decode

    return check_decode(QUICK if quick else CASES)


def _frames(quick: bool) -> dict[str, Any]:
    from tools.gpu_check.frames import check_frames

    return check_frames(repeats=20) if quick else check_frames()


def _sanitizer(quick: bool) -> dict[str, Any]:
    from tools.gpu_check.sanitizer import CHECKS, check_sanitizer

    return check_sanitizer(checks=CHECKS[:1] if quick else CHECKS)


def _attention(quick: bool) -> dict[str, Any]:
    from tools.gpu_check.attention import LENGTHS, check_attention

    return check_attention(LENGTHS[:3] if quick else LENGTHS)


def _attention_engines(quick: bool) -> dict[str, Any]:
    from tools.gpu_check.attention_engines import check_attention_engines

    return check_attention_engines(quick=quick)


def _engine(target: str, precision: str) -> Step:
    def step(quick: bool) -> dict[str, Any]:
        from tools.gpu_check.engines import check_engine

        return check_engine(target, precision, quick=quick)

    return step


def _rtx(quick: bool) -> dict[str, Any]:
    from tools.gpu_check.rtx import try_all_ways

    return try_all_ways()


def _cache(quick: bool) -> dict[str, Any]:
    from tools.gpu_check.rtx import second_start

    return second_start()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
