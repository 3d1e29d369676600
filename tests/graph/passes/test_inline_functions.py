from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from edgekit.errors import GraphError
from edgekit.graph.passes.inline_functions import inlined

MODEL = """
<ir_version: 10, opset_import: ["" : {opset}, "own" : 1]>
agraph (float[2, 3, 4] x) => (float[n] y) {{
    b = own.block (x, w)
    c = Relu (b)
    y = Squeeze (c, axes)
}}
<domain: "own", opset_import: ["" : 11]>
eleven (v) => (s) {{ s = ReduceSum <axes = [0, 1], keepdims = 1> (v) }}
<domain: "own", opset_import: ["" : 20]>
twenty (v) => (s) {{
    axes = Constant <value_ints = [0, 1]> ()
    s = ReduceMean <keepdims = 1> (v, axes)
}}
<domain: "own", opset_import: ["" : {function_opset}, "own" : 1]>
block (a, w) => (o) {{
    m = MatMul (a, w)
    o = own.{name} (m)
}}
"""


def function_model(opset, function_opset, name):
    text = MODEL.format(opset=opset, function_opset=function_opset, name=name)
    proto = onnx.parser.parse_model(text)
    w = np.random.default_rng(0).standard_normal((4, 500)).astype(np.float32)
    proto.graph.initializer.append(numpy_helper.from_array(w, "w"))
    proto.graph.initializer.append(numpy_helper.from_array(np.array([0, 1], np.int64), "axes"))
    return proto


@pytest.mark.parametrize("name", ["eleven", "twenty"])
@pytest.mark.parametrize(("opset", "function_opset"), [(13, 20), (18, 11), (20, 18), (21, 21)])
def test_functions_of_other_opsets_compute_the_same(run_in_onnxruntime, opset, function_opset, name):
    proto = function_model(opset, function_opset, name)
    x = np.random.default_rng(1).standard_normal((2, 3, 4)).astype(np.float32)
    # ONNX Runtime runs the nodes of all functions in the graph's opset.
    expected = ReferenceEvaluator(proto).run(None, {"x": x})[0]
    graph = inlined(ir.from_proto(proto))
    assert not graph.functions
    onnx.checker.check_model(ir.to_proto(graph), full_check=True)
    np.testing.assert_allclose(run_in_onnxruntime(graph, {"x": x})[0], expected, rtol=1e-5, atol=1e-6)


def test_the_graph_s_own_nodes_keep_their_names():
    proto = function_model(13, 20, "twenty")
    proto.graph.node[1].name = "activation"
    graph = inlined(ir.from_proto(proto))
    (node,) = (node for node in graph.graph if node.op_type == "Relu")
    assert (node.name, node.outputs[0].name) == ("activation", "c")


def test_a_function_that_calls_itself_is_refused():
    proto = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 20, "own" : 1]>
        agraph (float[2] x) => (float[2] y) { y = own.f (x) }
        <domain: "own", opset_import: ["" : 20, "own" : 1]>
        f (a) => (b) { b = own.f (a) }"""
    )
    with pytest.raises(GraphError, match="cannot be inlined: Cyclic"):
        inlined(ir.from_proto(proto))
