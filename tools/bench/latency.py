"""Compares INT8 latency with the INT8 of each peer and with FP32, on ONNX Runtime and on OpenVINO."""

from __future__ import annotations

from typing import Any

from tools.bench.turns import Candidate, measure_by_turns
from tools.bench.workshop import Workshop

__all__ = ["measure_latency", "measure_openvino"]

MODEL = "yolov3"
LIMIT = 1.0


def measure_latency(shop: Workshop) -> dict[str, Any]:
    """Compares EdgeKit's INT8 on ``cpu`` with ONNX Runtime's ``quantize_static`` of the same float graph.

    The peer runs with default settings, and with float heads, as EdgeKit's.
    """
    images = _images(shop)
    fp32 = shop.bundle(MODEL, "fp32")
    feeds = shop.feeds("sample", images, fp32)
    theirs = shop.peer_graph("onnxruntime", fp32 / "graph.onnx", feeds, images, ".onnx")
    heads = shop.peer_graph("onnxruntime", fp32 / "graph.onnx", feeds, images, ".onnx", "--float-heads")
    peer = f"ONNX Runtime {theirs.version} quantize_static"
    candidates = [
        Candidate(peer, "onnxruntime", theirs.path),
        Candidate("EdgeKit INT8", "edgekit", shop.bundle(MODEL, "int8", "cpu", "--calib-images", str(images))),
        Candidate(f"{peer}, heads in float", "onnxruntime", heads.path),
        Candidate("EdgeKit FP32", "edgekit", fp32),
    ]
    return _timed(shop, candidates, f"{MODEL}, latency on ONNX Runtime")


def measure_openvino(shop: Workshop) -> dict[str, Any]:
    """Compares EdgeKit's INT8 on ``openvino`` with NNCF's, with default settings and with float heads."""
    if shop.interpreter("nncf") is None:
        return {"skipped": "NNCF is not installed: see --peers"}
    images = _images(shop)
    fp32 = shop.bundle(MODEL, "fp32", "openvino")
    feeds = shop.feeds("sample", images, fp32)
    theirs = shop.peer_graph("nncf", fp32 / "graph.onnx", feeds, images, ".xml")
    heads = shop.peer_graph("nncf", fp32 / "graph.onnx", feeds, images, ".xml", "--float-heads")
    ours = shop.bundle(MODEL, "int8", "openvino", "--calib-images", str(images))
    candidates = [
        Candidate(f"NNCF {theirs.version}", "openvino", theirs.path),
        Candidate("EdgeKit INT8", "edgekit", ours),
        Candidate(f"NNCF {heads.version}, heads in float", "openvino", heads.path),
        Candidate("EdgeKit FP32", "edgekit", fp32),
    ]
    return _timed(shop, candidates, f"{MODEL}, latency on OpenVINO")


def _images(shop: Workshop) -> int:
    # Latency depends on the graph, not on its ranges.
    return 4 if shop.quick else 8


def _timed(shop: Workshop, candidates: list[Candidate], title: str) -> dict[str, Any]:
    manifest = shop.manifest(candidates[-1].path)
    feed = shop.feeds("sample", 1, candidates[-1].path) / "0000.npy"
    rounds, runs = (3, 3) if shop.quick else (15, 15)
    rows = measure_by_turns(candidates, feed, threads=shop.threads, rounds=rounds, runs=runs)
    return {
        "title": title,
        "shape": list(manifest.inputs[0].shape),
        "relative_to": candidates[0].name,
        "target": {"EdgeKit INT8": {"ratio": LIMIT}},
        "rows": rows,
    }
