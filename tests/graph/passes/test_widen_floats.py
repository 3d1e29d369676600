from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.errors import GraphError
from edgekit.graph.load.onnx_file import graph_from_onnx
from edgekit.graph.passes import optimize, source_types, types_note, widened

TYPES = {
    "float16": (np.dtype(np.float16), TensorProto.FLOAT16),
    "bfloat16": (np.dtype(ml_dtypes.bfloat16), TensorProto.BFLOAT16),
    "float64": (np.dtype(np.float64), TensorProto.DOUBLE),
}
OTHER_FLOATS = {ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE}


def model(text, opset=20, **weights):
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}, "own" : 1]>\n{text}')
    for name, array in weights.items():
        proto.graph.initializer.append(numpy_helper.from_array(array, name))
    return proto


def random(*shape):
    return np.random.default_rng(0).standard_normal(shape)


def other_floats(graph):
    return {value.name for node in graph.graph.all_nodes() for value in node.outputs if value.dtype in OTHER_FLOATS}


CONVOLUTION = """
agraph ({kind}[1, 3, 8, 8] x) => ({kind}[1, 4] y) {{
    c = Conv <pads = [1, 1, 1, 1]> (x, w)
    half = Constant <value_float = 0.3> ()
    cast = Cast <to = {number}> (half)
    m = Mul (c, cast)
    r = Relu (m)
    g = GlobalAveragePool (r)
    y = Flatten (g)
}}
"""


@pytest.mark.parametrize("dtype", TYPES)
def test_a_file_in_another_float_computes_its_own_numbers_in_float32(run_in_onnxruntime, dtype):
    numpy_type, number = TYPES[dtype]
    w, x = random(4, 3, 3, 3).astype(numpy_type), random(1, 3, 8, 8).astype(np.float32)
    kind = {"float64": "double"}.get(dtype, dtype)
    source = ir.from_proto(model(CONVOLUTION.format(kind=kind, number=number), w=w))
    # The same graph, written in float32 with the numbers that are in the file.
    plain = model(CONVOLUTION.format(kind="float", number=1), w=w.astype(np.float32))
    got = widened(source)
    np.testing.assert_array_equal(run_in_onnxruntime(got, {"x": x})[0], run_in_onnxruntime(plain, {"x": x})[0])
    assert source_types(got) == {"x": dtype, "y": dtype}
    assert "x (" + dtype + ")" in types_note(got)


def test_the_graph_that_was_given_is_not_changed():
    proto = model(CONVOLUTION.format(kind="float16", number=10), w=random(4, 3, 3, 3).astype(np.float16))
    source = ir.from_proto(proto)
    before = ir.to_proto(source).SerializeToString(deterministic=True)
    widened(source)
    assert ir.to_proto(source).SerializeToString(deterministic=True) == before


def test_a_float32_graph_stays_as_it_is():
    source = ir.from_proto(model(CONVOLUTION.format(kind="float", number=1), w=random(4, 3, 3, 3).astype(np.float32)))
    got = widened(source)
    assert source_types(got) == {}
    assert types_note(got) == ""
    assert [node.op_type for node in got.graph] == [node.op_type for node in source.graph]


def test_casts_within_a_float32_file_leave_no_half_precision(tmp_path):
    proto = model(
        """agraph (float[2, 4] x) => (float[2, 3] y) {
            h = Cast <to = 10> (x)
            m = MatMul (h, w)
            b = Cast <to = 16> (m)
            d = Cast <to = 11> (b)
            e = Exp (d)
            y = Cast <to = 1> (e)
        }""",
        w=random(4, 3).astype(np.float16),
    )
    onnx.save(proto, tmp_path / "m.onnx")
    graph = optimize(graph_from_onnx(tmp_path / "m.onnx"))
    assert [node.op_type for node in graph.graph] == ["MatMul", "Exp"]
    assert other_floats(graph) == set()
    assert types_note(graph) == ""


def test_branches_bodies_and_functions_are_converted(run_in_onnxruntime):
    proto = model(
        """agraph (float16[4] x, bool c) => (float16[4] y) {
            branch = If (c) <
                then_branch = one () => (float16[4] t) { t = Mul (x, k) },
                else_branch = two () => (float16[4] e) { e = own.twice <type = 10> (x) }
            >
            three = Constant <value = int64 {3}> ()
            yes = Constant <value = bool {1}> ()
            y = Loop (three, yes, branch) <
                body = step (int64 i, bool go, float16[4] a) => (bool on, float16[4] b) {
                    on = Identity (go)
                    f = Cast <to = 10> (i)
                    s = Add (a, f)
                    b = Add (s, start)
                }
            >
        }
        <domain: "own", opset_import: ["" : 20]>
        twice <type> (v) => (w) {
            f = Cast <to = 1> (v)
            s = Add (f, f)
            w = Cast <to : int = @type> (s)
        }""",
        start=np.array(1.5, np.float16),
        k=np.array(2.25, np.float16),
    )
    x = np.array([0.1, 1, -2, 3], np.float32)
    for flag, factor in ((True, 2.25), (False, 2.0)):
        got = widened(ir.from_proto(proto))
        assert not other_floats(got)
        result = run_in_onnxruntime(got, {"x": x, "c": np.array(flag)})[0]
        np.testing.assert_allclose(result, x * factor + 0 + 1 + 2 + 3 * 1.5, rtol=1e-6)


def test_double_arithmetic_between_integers_stays_exact(run_in_onnxruntime):
    proto = model(
        """agraph (int64[2] n, double[2] x) => (int64[2] m, double[2] y) {
            d = Cast <to = 11> (n)
            p = Mul (d, tenth)
            f = Floor (p)
            m = Cast <to = 7> (f)
            y = Mul (x, tenth)
        }""",
        tenth=np.array(0.1),
    )
    n = np.array([2**53 - 1, 30], np.int64)
    got = widened(ir.from_proto(proto))
    m, y = run_in_onnxruntime(got, {"n": n, "x": np.ones(2, np.float32)})
    np.testing.assert_array_equal(m, np.floor(n.astype(np.float64) * 0.1).astype(np.int64))
    assert y.dtype == np.float32


def test_a_range_of_doubles_keeps_its_length(run_in_onnxruntime):
    proto = model(
        """agraph (double[1] x) => (double[n] y) {
            r = Range (start, limit, delta)
            y = Add (r, x)
        }""",
        start=np.array(0.0),
        limit=np.array(0.6),
        delta=np.array(0.1),
    )
    x = np.zeros(1, np.float32)
    assert np.ceil(0.6 / 0.1) == 6
    assert np.ceil(float(np.float32(0.6)) / float(np.float32(0.1))) == 7
    got = run_in_onnxruntime(widened(ir.from_proto(proto)), {"x": x})[0]
    np.testing.assert_allclose(got, np.arange(6) * 0.1, rtol=1e-6)
    proto.graph.output[0].name = "r"
    del proto.graph.node[-1]
    assert run_in_onnxruntime(widened(ir.from_proto(proto)), {"x": x})[0].dtype == np.float32


def test_a_double_model_of_integer_inputs_is_converted(run_in_onnxruntime):
    table, w = random(10, 4), random(4, 5)
    proto = model(
        """agraph (int64[3] ids) => (int64[3] best) {
            e = Gather (table, ids)
            m = MatMul (e, w)
            best = ArgMax <axis = 1, keepdims = 0> (m)
        }""",
        table=table,
        w=w,
    )
    ids = np.array([0, 5, 9], np.int64)
    got = widened(ir.from_proto(proto))
    assert not other_floats(got)
    np.testing.assert_array_equal(run_in_onnxruntime(got, {"ids": ids})[0], (table[ids] @ w).argmax(1))


def test_numbers_out_of_range_stay_finite_and_not_zero(run_in_onnxruntime):
    lowest, tiny = np.finfo(np.float64).min, 1e-300
    proto = model(
        "agraph (double[3] x) => (double[3] y, double[3] z) { y = Add (x, mask) z = Div (x, eps) }",
        mask=np.array([lowest, -np.inf, np.nan]),
        eps=np.array([tiny, -tiny, 0.0]),
    )
    y, z = run_in_onnxruntime(widened(ir.from_proto(proto)), {"x": np.zeros(3, np.float32)})
    np.testing.assert_array_equal(y, np.array([np.finfo(np.float32).min, -np.inf, np.nan], np.float32))
    np.testing.assert_array_equal(z[:2], [0, 0])
    assert np.isnan(z[2])


def test_sequences_and_optional_values_are_converted(run_in_onnxruntime):
    proto = model(
        """agraph (float16[2] x) => (float16[n] y) {
            s = SequenceConstruct (x, x)
            e = SequenceEmpty <dtype = 10> ()
            t = SequenceInsert (e, x)
            a = ConcatFromSequence <axis = 0> (s)
            b = ConcatFromSequence <axis = 0> (t)
            y = Concat <axis = 0> (a, b)
        }"""
    )
    x = np.array([1, 2], np.float32)
    np.testing.assert_array_equal(run_in_onnxruntime(widened(ir.from_proto(proto)), {"x": x})[0], [*x, *x, *x])


def test_reading_the_bits_of_a_half_is_refused_by_name():
    node = helper.make_node("BitCast", ["x"], ["y"], name="bits", to=TensorProto.UINT16)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT16, [2])],
        [helper.make_tensor_value_info("y", TensorProto.UINT16, [2])],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 26)])
    with pytest.raises(GraphError, match="node 'bits'.*BitCast"):
        widened(ir.from_proto(proto))
