"""Compares engines with and without EdgeKit's treatment of attention: latency, and noise against FP32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import edgekit
from edgekit.engine.bundle.manifest import GRAPH
from edgekit.quantize.compare import noise_of_outputs, worst_noise
from tools.bench.turns import Candidate, measure_by_turns
from tools.bench.workshop import Workshop

__all__ = ["measure_attention"]

MODELS: dict[str, tuple[str, tuple[str, ...]]] = {
    "MiniLM, 128 tokens": ("minilm", ()),
    "ViT-Tiny, 197 tokens": ("tools.bench.vit:vit_tiny", ("--input", "images:1x3x224x224")),
}
PRECISIONS = ("int8", "fp32")
TARGETS = ("cpu", "openvino")
LIMIT = 1.03
"""An engine may not take longer with the treatment than without it; turns of the same engine differ by up to 3 %."""


def measure_attention(shop: Workshop) -> dict[str, Any]:
    """Builds each model with ``--attention off`` and ``auto``, and times the two in turns.

    ``off`` treats the products of an attention as any others: on ``cpu``, INT8 then has Q/DQ pairs at them. OpenVINO
    fuses attention itself, so there the two engines are the same, which the measurement shows.
    """
    rounds, runs = (2, 5) if shop.quick else (15, 15)
    rows: dict[str, dict[str, Any]] = {}
    targets: dict[str, dict[str, float]] = {}
    for title, (model, options) in MODELS.items():
        for target in TARGETS:
            for precision in PRECISIONS[:1] if shop.quick else PRECISIONS:
                built = {
                    each: shop.bundle(model, precision, target, *options, "--attention", each)
                    for each in ("off", "auto")
                }
                name = f"{title}, {target} {precision.upper()}"
                feeds = _feeds(shop, built["off"], 2 if shop.quick else 8)
                file = shop.folder / "attention.npz"
                np.savez(file, **feeds[0])  # type: ignore[arg-type]
                candidates = [Candidate(f"{name}, {each}", "edgekit", path) for each, path in built.items()]
                measured = measure_by_turns(candidates, file, threads=shop.threads, rounds=rounds, runs=runs)
                if precision == "int8":
                    reference = shop.bundle(model, "fp32", target, *options, "--attention", "off")
                    for each, path in built.items():
                        measured[f"{name}, {each}"]["sqnr_db"] = _sqnr_db(path, reference, feeds)
                rows |= measured
                if not _are_one(*built.values()):
                    targets[f"{name}, auto"] = {"ratio": LIMIT}
    return {"title": "attention", "relative_to": "--attention off", "target": targets, "rows": rows}


def _are_one(one: Path, other: Path) -> bool:
    """Whether two bundles have the same graph: their ratio shows what two processes of one engine differ by."""
    return (one / GRAPH).read_bytes() == (other / GRAPH).read_bytes()


def _feeds(shop: Workshop, bundle: Path, count: int) -> list[dict[str, np.ndarray]]:
    """Makes random inputs; images and tokens are random too, since the weights of the models are."""
    rng = np.random.default_rng(1)
    return [
        {spec.name: _array(spec.name, spec.shape, spec.dtype, rng) for spec in shop.manifest(bundle).inputs}
        for _ in range(count)
    ]


def _array(name: str, shape: tuple[Any, ...], dtype: str, rng: np.random.Generator) -> np.ndarray:
    if name == "attention_mask":
        return np.asarray(np.arange(shape[1])[None] < rng.integers(shape[1] // 2, shape[1] + 1), dtype)
    if dtype.startswith("int"):
        return np.asarray(rng.integers(1000, 30000, shape), dtype)
    return rng.random(shape, dtype=np.float32)


def _sqnr_db(bundle: Path, reference: Path, feeds: list[dict[str, np.ndarray]]) -> float:
    """Returns the signal-to-noise ratio of the only output, over all inputs."""
    with edgekit.load(reference) as exact, edgekit.load(bundle) as session:
        found = noise_of_outputs([exact.run(feed) for feed in feeds], [session.run(feed) for feed in feeds])
    worst = worst_noise(found)
    assert worst is not None and worst.sqnr_db is not None, "the reference is all zeros"
    return round(worst.sqnr_db, 2)
