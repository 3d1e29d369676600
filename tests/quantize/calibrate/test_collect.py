from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgekit.errors import CalibrationError
from edgekit.quantize.calibrate.collect import (
    CalibrationTable,
    collect_statistics,
    graph_digest,
    observed_tensors,
    ranges_from_statistics,
)
from edgekit.quantize.calibrate.table import cached_table, keep_table, write_table
from edgekit.storage import read_cached, write_cached

LEAKY = """g (float[{n}, 4, 16, 16] x) => (float[{n}, 5, 12, 12] y) {{
    a = Conv (x, w1, b1)  l = LeakyRelu <alpha = 0.1> (a)  y = Conv (l, w2) }}"""

TABLE = CalibrationTable(
    method="mse",
    set="sample",
    set_digest="b" * 64,
    graph_digest="a" * 64,
    images=3,
    skipped=("broken.jpg: not an image",),
    ranges={"x": (-1.25, 0.1), "y": (0.0, 3e38)},
)


@pytest.fixture
def leaky(graph_of, weights):
    def build(batch=1):
        return graph_of(LEAKY.format(n=batch), w1=weights(8, 4, 3, 3), b1=weights(8, 1).ravel(), w2=weights(5, 8, 3, 3))

    return build


def images(count, batch=1):
    images = np.random.default_rng(0).standard_normal((count, 4, 16, 16)).astype(np.float32)
    return [(f"image {i}", {"x": images[i : i + batch]}) for i in range(0, count, batch)]


def collected(graph, feeds, method="mse"):
    return collect_statistics(graph, observed_tensors(graph), feeds, method=method, threads=1)


def test_ranges_are_those_of_the_tensors_in_onnxruntime(leaky, run_in_onnxruntime):
    graph = leaky()
    feeds = images(6)
    ranges = ranges_from_statistics(collected(graph, feeds, "minmax").statistics, "minmax")
    every = leaky()
    for value in [node.outputs[0] for node in every.graph][:-1]:
        every.graph.outputs.append(value)
    given = [arrays for _, arrays in feeds]
    results = [computed | arrays for computed, arrays in zip(run_in_onnxruntime(every, given), given, strict=True)]
    assert ranges.keys() == {"x", "a", "l", "y"}
    for name, (lo, hi) in ranges.items():
        seen = np.stack([arrays[name] for arrays in results])
        np.testing.assert_allclose([lo, hi], [seen.min(), seen.max()], rtol=1e-5, atol=1e-6)


def test_the_graph_is_not_changed(leaky):
    graph = leaky()
    before = ir.to_proto(graph).SerializeToString(deterministic=True)
    collected(graph, images(1))
    assert ir.to_proto(graph).SerializeToString(deterministic=True) == before


def test_statistics_do_not_depend_on_the_batch(leaky):
    one, four = collected(leaky(1), images(8)), collected(leaky(4), images(8, batch=4))
    assert (one.inputs, four.inputs) == (8, 2)
    for name, statistics in one.statistics.items():
        other = four.statistics[name]
        np.testing.assert_allclose([other.lo, other.hi], [statistics.lo, statistics.hi], rtol=1e-5)
        np.testing.assert_allclose(other.channel_lo, statistics.channel_lo, rtol=1e-5)
        np.testing.assert_allclose(other.channel_hi, statistics.channel_hi, rtol=1e-5)
        # A sum in another order may fall into the next bin.
        assert np.abs(other.histogram - statistics.histogram).sum() <= statistics.histogram.sum() / 1000


def test_statistics_do_not_depend_on_the_order_of_inputs(leaky):
    feeds = images(8)
    forward, backward = collected(leaky(), feeds), collected(leaky(), feeds[::-1])
    for name, statistics in forward.statistics.items():
        other = backward.statistics[name]
        assert (statistics.lo, statistics.hi) == (other.lo, other.hi)
        np.testing.assert_array_equal(statistics.histogram, other.histogram)
        np.testing.assert_array_equal(statistics.channel_lo, other.channel_lo)
        np.testing.assert_array_equal(statistics.channel_hi, other.channel_hi)


def test_statistics_do_not_depend_on_the_threads(graph_of):
    graph = graph_of("g (float[1, 4, 512, 512] x) => (float[1, 4, 512, 512] y) { r = Relu(x) y = Neg(r) }")
    arrays = {"x": np.random.default_rng(5).standard_normal((1, 4, 512, 512)).astype(np.float32)}
    one, four = (
        collect_statistics(graph, observed_tensors(graph), [("image", arrays)], method="mse", threads=threads)
        for threads in (1, 4)
    )
    assert one.statistics.keys() == {"x", "r", "y"}
    for name, statistics in one.statistics.items():
        np.testing.assert_array_equal(statistics.histogram, four.statistics[name].histogram)
        np.testing.assert_array_equal(statistics.channel_hi, four.statistics[name].channel_hi)
    np.testing.assert_array_equal(one.statistics["r"].channel_hi, arrays["x"].max((0, 2, 3)))


@pytest.mark.parametrize("threads", [1, 4])
def test_of_several_tensors_with_a_nan_the_first_is_named(graph_of, threads):
    graph = graph_of("g (float[1, 4, 512, 512] x) => (float[1, 4, 512, 512] y) { b = Sqrt(x) c = Neg(b) y = Sqrt(c) }")
    feeds = [("image", {"x": np.full((1, 4, 512, 512), -1.0, np.float32)})]
    with pytest.raises(CalibrationError, match="tensor 'b' has a NaN at calibration input 'image'"):
        collect_statistics(graph, observed_tensors(graph), feeds, method="mse", threads=threads)


def test_memory_does_not_grow_with_the_number_of_images(leaky):
    graph = leaky()

    def peak_bytes(count):
        gc.collect()
        tracemalloc.start()
        try:
            collected(graph, ((str(i), images(1)[0][1]) for i in range(count)))
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak_bytes(2)
    assert peak_bytes(128) < peak_bytes(8) + 100_000  # an image alone has 4096


def test_error_on_nan_names_the_tensor_and_the_input(graph_of):
    graph = graph_of("g (float[1, 3] x) => (float[1, 3] y) { r = Sqrt (x)  y = Neg (r) }")
    good = np.ones((1, 3), np.float32)
    feeds = [("good.jpg", {"x": good}), ("bad.jpg", {"x": -good}), ("never.jpg", {"x": good})]
    with pytest.raises(CalibrationError, match="tensor 'r' has a NaN at calibration input 'bad.jpg'") as error:
        collected(graph, feeds)
    assert error.value.hint.startswith("the float model outputs NaN already")
    feeds = [("bad.npy", {"x": np.full((1, 3), np.nan, np.float32)})]
    graph = graph_of(
        "g (float[1, 3] x) => (float[1, 3] y) <float[3, 3] w = {1, 2, 3, 4, 5, 6, 7, 8, 9}> { y = MatMul (x, w) }"
    )
    with pytest.raises(CalibrationError, match="tensor 'x' has a NaN at calibration input 'bad.npy'") as error:
        collected(graph, feeds)
    assert error.value.hint.startswith("'bad.npy' has it: check how it was written")


@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy", "mse"])
@pytest.mark.parametrize(
    "body", ["m = ScatterElements<axis = 1>(nan, places, x)", "m = Where(known, x, nan)"], ids=["scattered", "selected"]
)
def test_values_that_a_model_marks_as_missing_have_no_part_in_a_range(graph_of, calibrated, body, method):
    constants = {
        "nan": np.full((1, 4 if "Scatter" in body else 3), np.nan, np.float32),
        "places": np.array([[0, 1, 3]]),
        "known": np.array([[True, False, True]]),
    }
    used = {name: array for name, array in constants.items() if name in body}
    graph = graph_of(f"g (float[1, 3] x) => (float[1, N] y) {{ {body} y = Neg(m) }}", **used)
    ranges = calibrated(graph, [{"x": np.array([[-3, 1, 5]], np.float32)}], method).ranges
    assert np.isfinite(list(ranges.values())).all()
    if method == "minmax":
        assert ranges["y"] == (-5, 3)


def test_a_nan_beside_missing_values_is_an_error(graph_of):
    nan = np.full((1, 3), np.nan, np.float32)
    graph = graph_of(
        """g (float[1, 3] x) => (float[1, 3] y, float[1, 3] z)
        { r = Sqrt(x) y = Neg(r) m = Where(known, x, nan) z = Neg(m) }""",
        nan=nan,
        known=np.array([[True, False, True]]),
    )
    with pytest.raises(CalibrationError, match="tensor 'r' has a NaN"):
        collected(graph, [("bad.npz", {"x": np.array([[-1, 1, 2]], np.float32)})])


def test_a_nan_in_weights_is_no_missing_value(graph_of):
    graph = graph_of("g (float[1, 3] x) => (float[1, 3] y) { y = MatMul(x, w) }", w=np.full((3, 3), np.nan, np.float32))
    with pytest.raises(CalibrationError, match="tensor 'y' has a NaN"):
        collected(graph, [("good.npz", {"x": np.ones((1, 3), np.float32)})])


@pytest.mark.parametrize(("name", "hint"), [("bad.jpg", "check its weights"), ("random input 0", "fix an input")])
def test_error_on_nan_says_how_to_go_on(graph_of, name, hint):
    graph = graph_of("g (float[1, 3] x) => (float[1, 3] y) { r = Sqrt (x)  y = Neg (r) }")
    with pytest.raises(CalibrationError) as caught:
        collected(graph, [(name, {"x": -np.ones((1, 3), np.float32)})])
    assert hint in caught.value.hint


def test_error_on_a_calibration_set_without_inputs(leaky):
    with pytest.raises(CalibrationError, match="has no inputs"):
        collected(leaky(), [])


@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy", "mse"])
def test_infinities_of_padding_do_not_spoil_a_range(graph_of, weights, calibrated, feeds_for, method):
    text = """g (float[1, 4, 8, 8] x) => (float[1, 4, 8, 8] y) {
        a = Conv (x, w)  p = Pad (a, pads, fill)  q = Neg (p)  m = MaxPool <kernel_shape = [3, 3]> (p)
        n = Neg (q)  o = MaxPool <kernel_shape = [3, 3]> (n)  y = Add (m, o) }"""
    pads = np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64)
    graph = graph_of(text, w=weights(4, 4, 1, 1), pads=pads, fill=np.float32(-np.inf))
    assert "Pad" in [node.op_type for node in graph.graph]
    ranges = calibrated(graph, feeds_for(graph), method).ranges
    assert ranges["p"] == ranges["a"] and np.isfinite(ranges["a"]).all()


def test_outputs_of_the_graph_have_ranges_and_reshaped_tensors_do_not(graph_of, weights):
    text = """g (float[2, 8] x, int64[2] i) => (float[2, 6] y) {
        f = Flatten (x)  y = MatMul (f, w)  s = Shape (y)  z = Cast <to = 1> (s) }"""
    graph = graph_of(text, w=weights(8, 6))
    assert [value.name for value in observed_tensors(graph)] == ["x", "y"]


def test_a_table_reads_back_as_written(tmp_path):
    write_table(TABLE, tmp_path / "folder" / "calibration.json")
    written = (tmp_path / "folder" / "calibration.json").read_bytes()
    assert msgspec.json.decode(written, type=CalibrationTable) == TABLE
    assert b'\n "method": "mse"' in written
    assert [file.name for file in (tmp_path / "folder").iterdir()] == ["calibration.json"]


def wanted(table):
    return {"graph_digest": table.graph_digest, "set_digest": table.set_digest, "method": table.method}


def test_a_table_is_read_from_the_cache(tmp_path):
    assert cached_table(tmp_path, **wanted(TABLE)) is None
    keep_table(TABLE, tmp_path)
    assert cached_table(tmp_path, **wanted(TABLE)) == TABLE


@pytest.mark.parametrize("field", ["graph_digest", "set_digest", "method"])
def test_a_table_of_something_else_is_not_used(tmp_path, field):
    keep_table(TABLE, tmp_path)
    assert cached_table(tmp_path, **wanted(TABLE) | {field: "other"}) is None
    # Not even if its file has the other's name.
    other = msgspec.structs.replace(TABLE, **{field: "other"})
    (kept,) = tmp_path.rglob("*.json")
    write_cached(kept, msgspec.json.encode(other))
    assert cached_table(tmp_path, **wanted(TABLE)) is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: raw[:-40],
        lambda raw: b"",
        lambda raw: b"\x00" * 100,
        lambda raw: b"[]",
        lambda raw: b'"\xff"',
        lambda raw: raw.replace(b'"images":3', b'"images":"three"'),
        lambda raw: raw.replace(b'"format":', b'"format":99'),
        lambda raw: raw.replace(b'"ranges"', b'"spans"'),
    ],
)
def test_a_damaged_or_newer_table_is_not_used(tmp_path, damage):
    keep_table(TABLE, tmp_path)
    (kept,) = tmp_path.rglob("*.json")
    raw = read_cached(kept)
    assert raw is not None and damage(raw) != raw
    write_cached(kept, damage(raw))  # with the right hash: written by another version
    assert cached_table(tmp_path, **wanted(TABLE)) is None
    keep_table(TABLE, tmp_path)
    assert cached_table(tmp_path, **wanted(TABLE)) == TABLE


DIGESTED = """g (float[1, 4, 8, 8] x) => (float[1, 4, 6, 6] y) {
    a = Conv (x, w)  y = LeakyRelu <alpha = 0.1> (a) }"""


def test_the_digest_of_a_graph_does_not_depend_on_the_file_or_node_names(graph_of, weights, tmp_path):
    graph = graph_of(DIGESTED, w=weights(4, 4, 3, 3))
    digest = graph_digest(graph)
    ir.save(graph, tmp_path / "graph.onnx", external_data="weights", size_threshold_bytes=0)
    read = ir.load(tmp_path / "graph.onnx")
    for node in read.graph:
        node.name, node.doc_string = f"other {node.name}", "remarks"
    assert graph_digest(read) == digest


@pytest.mark.parametrize(
    "change",
    [
        lambda text, w: (text.replace("0.1", "0.2"), w),
        lambda text, w: (text.replace("LeakyRelu", "Elu"), w),
        lambda text, w: (text, w + np.float32(0.125) * (np.arange(w.size) == 7).reshape(w.shape)),
        lambda text, w: (text.replace("1, 4, 8, 8", "2, 4, 8, 8").replace("1, 4, 6, 6", "2, 4, 6, 6"), w),
        lambda text, w: (text.replace("(x, w)", "<pads = [1, 1, 1, 1]> (x, w)").replace("6, 6", "8, 8"), w),
        lambda text, w: (text.replace("a = C", "b = C").replace("(a)", "(b)"), w),
    ],
)
def test_the_digest_of_a_graph_depends_on_its_computation(graph_of, weights, change):
    array = weights(4, 4, 3, 3)
    text, changed = change(DIGESTED, array)
    assert graph_digest(graph_of(text, w=changed)) != graph_digest(graph_of(DIGESTED, w=array))


def test_the_digest_sees_weights_inside_of_branches():
    def branch(name, number):
        value = onnx.numpy_helper.from_array(np.full(5000, number, np.float32))
        node = onnx.helper.make_node("Constant", [], [f"{name} value"], value=value)
        return onnx.helper.make_graph(
            [node], name, [], [onnx.helper.make_tensor_value_info(f"{name} value", 1, [5000])]
        )

    def digest(number):
        node = onnx.helper.make_node("If", ["c"], ["y"], then_branch=branch("t", 1), else_branch=branch("e", number))
        info = onnx.helper.make_tensor_value_info
        graph = onnx.helper.make_graph([node], "g", [info("c", onnx.TensorProto.BOOL, [])], [info("y", 1, [5000])])
        return graph_digest(ir.from_proto(onnx.helper.make_model(graph)))

    assert digest(2) == digest(2) != digest(3)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data.replace(b"mse", b"mst", 1),
        lambda data: data.replace(b"0", b"9", 1) if b"0" in data else data[:-1],
        lambda data: data[: len(data) // 2],
        lambda data: b"",
        lambda data: b"\xff\xfe" + data,
        lambda data: b"[" * 200_000,
        lambda data: data.partition(b"\n")[0] + b"\n" + b'{"a":' * 100_000,
        lambda data: data.partition(b"\n")[2],
    ],
)
def test_a_cached_calibration_that_was_damaged_counts_as_none(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    keep_table(TABLE, tmp_path)
    (file,) = (path for path in tmp_path.rglob("*") if path.is_file())
    before = file.read_bytes()
    file.write_bytes(damage(before))
    assert file.read_bytes() != before
    assert cached_table(tmp_path, **wanted(TABLE)) is None
