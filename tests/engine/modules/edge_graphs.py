"""Small graphs of one operator each, on numbers at the edges: NaN, infinities, overflowing integers, equal values."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from onnx import TensorProto, helper
from operator_graphs import Graph, floats, single

NAN, INF = np.nan, np.inf
FLOATS = np.asarray([NAN, INF, -INF, 0.0, -0.0, 1.0, -1.0, 0.5, -2.5, 1e30, -1e30], np.float32)
INTEGERS = {np.dtype(kind): np.arange(np.iinfo(kind).min, np.iinfo(kind).max + 1, 5, kind) for kind in ("i1", "u1")}


def pairs(numbers: np.ndarray) -> dict[str, np.ndarray]:
    a, b = np.meshgrid(numbers, numbers, indexing="ij")
    return {"a": a.ravel().copy(), "b": b.ravel().copy()}


def number(value: float, kind: type = np.float32) -> np.ndarray:
    return np.asarray(value, kind)


def edge_graphs() -> dict[str, list[Graph]]:
    """Graphs by group."""
    return {
        "NaN": list(_nan()),
        "infinities": list(_infinities()),
        "integers": list(_integers()),
        "equal values": list(_equal_values()),
        "positions": list(_positions()),
    }


def _nan() -> Iterator[Graph]:
    for operator in ("Max", "Min", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal"):
        yield single(operator, {}, pairs(FLOATS))
    for operator in ("Max", "Min"):
        yield single(operator, {}, {"a": FLOATS}, {"b": number(0)})
        yield single(operator, {}, {"a": FLOATS}, {"b": number(0)}, ("b", "a"))
        yield single(operator, {}, {"a": FLOATS}, {"b": number(NAN)}, ("b", "a"))
        yield single(operator, {}, {**pairs(FLOATS), "c": pairs(FLOATS)["b"][::-1].copy()})
    yield single("Clip", {}, {"a": FLOATS}, {"low": number(-1), "high": number(2)})
    yield single("Clip", {}, {"a": FLOATS}, {"low": number(-1)})
    yield single("Clip", {}, {"a": FLOATS}, {"high": number(2)}, ("a", "", "high"))
    yield single("Relu", {}, {"a": FLOATS})
    yield single("Cast", {"to": TensorProto.BOOL}, {"a": FLOATS})


def _infinities() -> Iterator[Graph]:
    rows = np.asarray(
        [[-INF] * 3, [INF] * 3, [-INF, 1, 2], [np.finfo(np.float32).min] * 3, [0.0, -0.0, 0.0]], np.float32
    )
    for operator in ("ReduceMax", "ReduceMin"):
        yield single(operator, {}, {"a": rows}, {"axes": np.asarray([1])})


def _integers() -> Iterator[Graph]:
    for kind, numbers in INTEGERS.items():
        for operator in ("Add", "Sub", "Mul"):
            yield single(operator, {}, pairs(numbers))
            yield single(operator, {}, {"a": numbers}, {"b": number(100, kind.type)})
        if kind == np.int8:
            yield single("Neg", {}, {"a": numbers})
            yield single("Abs", {}, {"a": numbers})
    for direction in ("LEFT", "RIGHT"):
        bits = {"a": np.repeat(np.arange(256, dtype=np.uint8), 10), "b": np.tile(np.arange(10, dtype=np.uint8), 256)}
        yield single("BitShift", {"direction": direction}, bits)
        yield single("BitShift", {"direction": direction}, {"a": bits["a"]}, {"b": number(3, np.uint8)})
    large = np.asarray([0, 1, -1, 7, 4001, -4001, 30_000, 2**20, -(2**31)], np.int32)
    for exponent in (2, 3):
        yield single("Pow", {}, {"a": large}, {"b": number(exponent, np.int32)})
    small = np.arange(16, dtype=np.int32).reshape(1, 1, 4, 4)
    scales = np.asarray([1, 1, 1.5, 2], np.float32)
    yield single("Resize", {"mode": "linear"}, {"a": small}, {"s": scales}, ("a", "", "s"))
    for operator in ("ReduceL2", "ReduceLogSum", "ReduceLogSumExp"):
        yield single(operator, {}, {"a": np.asarray([[1, 2, 4], [7, 7, 1]], np.int32)}, {"axes": np.asarray([1])})


def _equal_values() -> Iterator[Graph]:
    levels = np.random.default_rng(0).integers(0, 5, (2, 200))
    for kind in (np.float32, np.int32, np.uint8):
        for largest in (0, 1):
            top = single("TopK", {"largest": largest}, {"a": levels.astype(kind)}, {"k": np.asarray([30])})
            node = helper.make_node("TopK", ["a", "k"], ["y", "i"], largest=largest)
            yield top._replace(nodes=(node,), outputs=("y", "i"))
    yield single("Hardmax", {}, {"a": levels.astype(np.float32)})
    for last in (0, 1):
        yield single("ArgMax", {"axis": 1, "select_last_index": last}, {"a": levels.astype(np.float32)})


def _positions() -> Iterator[Graph]:
    x = {"a": np.arange(12, dtype=np.float32).reshape(3, 4)}
    for pads in ([1, 2, 0, 1], [0, 5, 0, 9], [1, -1, 0, 1], [-1, 0, 4, -2]):
        yield single("Pad", {"mode": "wrap"}, x, {"p": np.asarray(pads)})
    for bounds in ((0, 5, 2), (5, 0, -2), (0, -5, 1), (5, 9, -1), (3, 3, 1)):
        for kind in (np.int64, np.float32):
            given = zip(("start", "limit", "step"), bounds, strict=True)
            yield single("Range", {}, {name: number(value, kind) for name, value in given})
    for shape, slopes in (((1, 3, 3, 3), (3,)), ((1, 5, 5), (5,)), ((2, 3, 4, 5), (3, 1, 1)), ((2, 3, 4, 5), (4, 1))):
        slope = np.linspace(-1, 1, int(np.prod(slopes)), dtype=np.float32).reshape(slopes)
        yield single("PRelu", {}, {"a": floats(*shape)}, {"slope": slope})
        yield single("PRelu", {}, {"a": floats(*shape), "slope": slope})
    behind_product = (
        helper.make_node("MatMul", ["a", "w"], ["m"], "product"),
        helper.make_node("PRelu", ["m", "slope"], ["y"], "prelu"),
    )
    numbers = {"w": floats(8, 3), "slope": np.linspace(-1, 1, 5, dtype=np.float32).reshape(5, 1, 1)}
    yield Graph("PRelu behind MatMul", behind_product, {"a": floats(3, 5, 1, 8)}, numbers)
    for operator in ("ReduceL1", "ReduceL2", "ReduceLogSum"):
        none = {"axes": np.zeros(0, np.int64)}
        yield single(operator, {"noop_with_empty_axes": 1}, {"a": np.asarray([[-1, 2], [3, 4]], np.float32)}, none)
