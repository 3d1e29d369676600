from __future__ import annotations

import itertools
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgekit.errors import GraphError
from edgekit.graph.evaluator import Evaluator
from edgekit.graph.load.onnx_file import graph_from_onnx

sys.path.insert(0, str(Path(__file__).parent))
from upgrade_cases import Case, all_cases, floats  # noqa: E402

CASES = {
    operator: list(cases) for operator, cases in itertools.groupby(sorted(all_cases(), key=str), lambda c: c.operator)
}
WITH_TESTS_OF_THEIR_OWN = {"Constant", "If", "Loop", "Scan"}
NOT_IN_INFERENCE = {"NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss"}
NO_TENSORS = {"OptionalGetElement", "OptionalHasElement"}

CHOICE = """
<ir_version: 8, opset_import: ["" : {opset}]>
g (bool c, float[2, 3, 4] x) => (float[2, 3, 4] y) {{
    a = Relu (x)
    y = If (c) <
        then_branch = one () => (float[2, 3, 4] t) {{ b = Softmax <axis = 1> (a) t = Add (b, x) }},
        else_branch = two () => (float[2, 3, 4] e) {{
            b = Clip <min = 0.1, max = 0.6> (a)
            s = Unsqueeze <axes = [0]> (b)
            e = Squeeze <axes = [0]> (s)
        }}
    >
}}
"""


def upgraded(model: onnx.ModelProto, folder: Path):
    path = folder / "model.onnx"
    onnx.save(model, path)
    graph = graph_from_onnx(path)
    assert graph.opset_imports[""] == 20
    return graph


def test_every_operator_that_changes_between_opset_7_and_20_is_compared():
    versions = defaultdict(set)
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "" and schema.since_version <= 20:
            versions[schema.name].add(schema.since_version)
    changed = {name for name, found in versions.items() if max(found) > 7 and len(found) > 1}
    assert changed - CASES.keys() == WITH_TESTS_OF_THEIR_OWN | NOT_IN_INFERENCE | NO_TENSORS


def in_float32(array):
    return array.astype(np.float32) if array.dtype.kind == "f" else array


@pytest.mark.parametrize("operator", CASES)
def test_upgraded_operator_computes_what_the_original_does(operator, tmp_path, run_in_onnxruntime):
    differing = []
    for case in CASES[operator]:
        model = case.model()
        expected = run_in_onnxruntime(model, case.inputs)
        # Loading makes FP32 of other floats, so their cases are compared in FP32.
        expected = [in_float32(array) for array in expected]
        got = list(
            Evaluator(upgraded(model, tmp_path)).run({n: in_float32(a) for n, a in case.inputs.items()}).values()
        )
        same = [(a.shape, a.dtype) for a in expected] == [(a.shape, a.dtype) for a in got] and all(
            np.allclose(a, b, rtol=1e-5, atol=1e-6, equal_nan=True) for a, b in zip(expected, got, strict=True)
        )
        differing += [] if same else [str(case)]
    assert not differing


@pytest.mark.parametrize("opset", [7, 9, 10, 11, 12])
@pytest.mark.parametrize("choice", [True, False])
def test_operators_in_subgraphs_are_upgraded(tmp_path, run_in_onnxruntime, opset, choice):
    if opset == 11 or opset == 12:
        text = CHOICE.replace("Clip <min = 0.1, max = 0.6> (a)", "HardSigmoid (a)")
    else:
        text = CHOICE
    model = onnx.parser.parse_model(text.format(opset=opset))
    feeds = {"c": np.asarray(choice), "x": floats(2, 3, 4)}
    (expected,) = run_in_onnxruntime(model, feeds)
    np.testing.assert_allclose(Evaluator(upgraded(model, tmp_path)).run(feeds)["y"], expected, rtol=1e-6)


def test_loop_body_is_upgraded(tmp_path, run_in_onnxruntime):
    text = """
    <ir_version: 8, opset_import: ["" : 11]>
    g (float[2, 3] x) => (float[2, 3] y) {
        n = Constant <value = int64 {3}> ()
        c = Constant <value = bool {1}> ()
        y = Loop (n, c, x) <body = step (int64 i, bool go, float[2, 3] v) => (bool more, float[2, 3] w) {
            more = Identity (go)
            s = ReduceSum <axes = [1], keepdims = 1> (v)
            w = Sub (v, s)
        }>
    }
    """
    model = onnx.parser.parse_model(text)
    feeds = {"x": floats(2, 3)}
    (expected,) = run_in_onnxruntime(model, feeds)
    np.testing.assert_allclose(Evaluator(upgraded(model, tmp_path)).run(feeds)["y"], expected, rtol=1e-6)


def test_new_names_do_not_collide_with_those_of_the_graph(tmp_path, run_in_onnxruntime):
    nodes = [
        helper.make_node("Softmax", ["x"], ["y"], name="n", axis=1),
        helper.make_node("Relu", ["x"], ["n_flatten"]),
        helper.make_node("Add", ["y", "n_flatten"], ["z"]),
    ]
    shape = [2, 3, 4]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 9)], ir_version=6)
    feeds = {"x": floats(*shape)}
    (expected,) = run_in_onnxruntime(model, feeds)
    np.testing.assert_allclose(Evaluator(upgraded(model, tmp_path)).run(feeds)["z"], expected, rtol=1e-6)


def test_opset_of_the_domain_ai_onnx_is_upgraded_too(tmp_path):
    x = floats(2, 3, 4)
    model = Case("Hardmax", 11, {"x": x}, ("x",), {"axis": 1}, {}).model()
    model.opset_import[0].domain = "ai.onnx"
    got = Evaluator(upgraded(model, tmp_path)).run({"x": x})["y0"]
    assert got.sum() == 2  # one maximum in each row of a matrix (2, 12), not one in each of (2, 3)


def test_group_normalization_inside_a_function_is_replaced(tmp_path):
    x, scale, shift = floats(2, 4, 3), floats(2, seed=1), floats(2, seed=2)
    body = [helper.make_node("GroupNormalization", ["x", "s", "b"], ["y"], num_groups=2)]
    function = helper.make_function("own", "Norm", ["x", "s", "b"], ["y"], body, [helper.make_opsetid("", 18)])
    infos = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, a.shape)
        for n, a in zip("xsb", (x, scale, shift), strict=True)
    ]
    graph = helper.make_graph(
        [helper.make_node("Norm", ["x", "s", "b"], ["z"], domain="own")],
        "g",
        infos,
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, x.shape)],
    )
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    model = helper.make_model(graph, opset_imports=imports, functions=[function], ir_version=8)
    got = Evaluator(upgraded(model, tmp_path)).run({"x": x, "s": scale, "b": shift})["z"]
    groups = x.reshape(2, 2, -1)
    normal = (groups - groups.mean(-1, keepdims=True)) / np.sqrt(groups.var(-1, keepdims=True) + 1e-5)
    expected = (normal * scale[:, None] + shift[:, None]).reshape(x.shape)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_statistics_of_batch_normalization_are_refused_by_name(tmp_path):
    parameters = {name: np.ones(3, np.float32) for name in "abcd"}
    case = Case("BatchNormalization", 9, {"x": floats(2, 3, 4)}, ("x", *"abcd"), {}, parameters, 5, (0, 1))
    with pytest.raises(GraphError, match="'the_node'.*training outputs") as caught:
        upgraded(case.model(), tmp_path)
    assert "evaluation" in caught.value.hint


def test_scan_of_opset_8_is_refused_by_name(tmp_path):
    text = """
    <ir_version: 8, opset_import: ["" : 8]>
    g (float[1, 2] s, float[1, 3, 2] x) => (float[1, 2] y, float[1, 3, 2] z) {
        y, z = Scan <num_scan_inputs = 1, body = step (float[2] a, float[2] b) => (float[2] c, float[2] d) {
            c = Add (a, b)
            d = Identity (c)
        }> ("", s, x)
    }
    """
    model = onnx.parser.parse_model(text)
    model.graph.node[0].name = "walk"
    with pytest.raises(GraphError, match="'walk'.*opset 8"):
        upgraded(model, tmp_path)
