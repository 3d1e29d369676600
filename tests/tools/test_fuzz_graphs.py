"""Builds of random graphs, against ONNX Runtime on the original; `tools.fuzz_graphs` runs more of them."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tools.fuzz_graphs.builds import findings, reference_outputs
from tools.fuzz_graphs.generate import Case, case_from_choices
from tools.fuzz_graphs.known import reason_to_skip

FAILED_ONCE = sorted((Path(__file__).parent / "fuzzed_graphs").glob("*.onnx"))
"""Graphs that failed when the fuzzer made them, by the number of their seed."""
CPU = ("graph", "cpu-fp32", "cpu-int8")
OPENVINO = ("openvino-fp32", "openvino-int8")


def differences(case, targets):
    expected = reference_outputs(case)
    if expected is None:
        return None
    return [found for found in findings(case, targets, expected) if not reason_to_skip(case.model, found)]


def case_of(model):
    generator = np.random.default_rng(0)
    shapes = {
        value.name: [dim.dim_value or 2 for dim in value.type.tensor_type.shape.dim] for value in model.graph.input
    }
    feeds = [
        {name: generator.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()} for _ in range(3)
    ]
    is_open = any(dim.dim_param for value in model.graph.input for dim in value.type.tensor_type.shape.dim)
    return Case(model, feeds, "batch" if is_open else "")


@pytest.mark.parametrize("path", FAILED_ONCE, ids=lambda path: path.stem)
def test_graphs_that_failed_once_are_right(path):
    assert differences(case_of(onnx.load(path)), (*CPU, *OPENVINO)) == []


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(choices=st.randoms(use_true_random=False))
def test_random_graphs_are_right_on_cpu(choices):
    assert not differences(case_from_choices(choices), CPU)


@pytest.mark.parametrize("seed", range(0, 60, 5))
def test_graphs_of_fixed_seeds_are_right_on_every_cpu_target(seed):
    for number in range(seed, seed + 5):
        assert not differences(case_from_choices(random.Random(number)), CPU if number % 5 else (*CPU, *OPENVINO))


def test_the_same_seed_makes_the_same_graph():
    first, second = (case_from_choices(random.Random(7)) for _ in range(2))
    assert first.model == second.model
    np.testing.assert_equal(first.feeds, second.feeds)


def test_a_difference_is_found():
    case = case_from_choices(random.Random(7))
    expected = reference_outputs(case)
    wrong = [{name: array + 1 for name, array in outputs.items()} for outputs in expected]
    assert {found.kind for found in findings(case, ("cpu-fp32",), wrong)} == {"values"}


def test_reference_of_a_graph_that_onnx_runtime_refuses_is_none():
    case = case_from_choices(random.Random(7))
    case.model.graph.node[0].op_type = "NoSuchOperator"
    assert reference_outputs(case) is None
