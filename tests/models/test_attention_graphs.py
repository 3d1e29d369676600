"""Export and quantization of attention."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from msgspec import structs
from torch import nn

import edgekit
from edgekit.data.calibration.random_inputs import RandomInputs
from edgekit.engine.onnxruntime.backend import OnnxRuntime
from edgekit.engine.openvino.backend import OpenVino
from edgekit.engine.tensorrt.scheme import SCHEME as TENSORRT
from edgekit.graph.export.module import graph_from_module
from edgekit.graph.passes import optimize
from edgekit.models.attention import self_attention
from edgekit.models.bert import minilm
from edgekit.models.decoding import beam_search
from edgekit.models.factory import module_from_recipe
from edgekit.models.transformer import transformer
from edgekit.progress import Silent
from edgekit.quantize.calibrate.collect import collect_statistics, observed_tensors, ranges_from_statistics
from edgekit.quantize.plan import plan_from_graph
from edgekit.quantize.selections import range_source
from edgekit.recipe.schema import load_recipe
from edgekit.runtime.tasks.translate import greedy_tokens
from edgekit.specs import EVERY_ATTENTION, QuantScheme, TensorSpec

CPU = OnnxRuntime().scheme()
# Whether attention stays in float depends on the processor: both are checked on any.
SCHEMES: dict[str, QuantScheme] = {
    "cpu": structs.replace(CPU, float_attention=()),
    "cpu, attention in float": structs.replace(CPU, float_attention=EVERY_ATTENTION),
    "openvino": OpenVino().scheme(),
    "tensorrt": TENSORRT,
}


def ids(name: str, length: int) -> TensorSpec:
    return TensorSpec(name, "int64", (1, length))


SMALL: dict[str, tuple[nn.Module, tuple[TensorSpec, ...]]] = {
    "self-attention": (
        self_attention(64, 4, causal=True),
        (TensorSpec("tokens", "float32", (1, 9, 64)), ids("visibility", 9)),
    ),
    "transformer": (
        transformer(30, length=12, width=32, heads=4, hidden=64, layers=2),
        (ids("source", 8), ids("target", 12)),
    ),
    "transformer-norm-first": (
        transformer(30, length=12, width=32, heads=4, hidden=64, layers=1, norm_first=True),
        (ids("source", 8), ids("target", 12)),
    ),
    "bert": (minilm(30, length=16, width=32, heads=4, hidden=64, layers=2), (ids("ids", 12), ids("mask", 12))),
}


@pytest.fixture(scope="module", params=list(SMALL))
def model(request: pytest.FixtureRequest) -> tuple[ir.Model, nn.Module, tuple[TensorSpec, ...]]:
    module, specs = SMALL[request.param]
    module.eval()
    return optimize(graph_from_module(module, specs)), module, specs


def test_attention_only_has_operators_that_every_target_supports(model: Any) -> None:
    graph, _, _ = model
    used = {node.op_type for node in graph.graph.all_nodes()}
    assert all(node.domain == "" for node in graph.graph.all_nodes())
    assert used <= set(
        "Add Cast Clip Div Equal Expand Gather Gelu Gemm LayerNormalization MatMul Max Mul Not ReduceL2 ReduceSum Relu "
        "Reshape Softmax Sub Transpose Unsqueeze".split()
    )


def test_masks_fit_half_precision_and_do_not_widen_quantized_ranges(model: Any) -> None:
    graph, _, specs = model
    for value in graph.graph.initializers.values():
        array = value.const_value.numpy()
        assert np.abs(array.astype(np.float64)).max(initial=0) < 65504 or array.dtype == np.int64, value.name
    below = {spec.name: 2 if spec.name in ("mask", "visibility") else 30 for spec in specs}
    statistics = collect_statistics(
        graph,
        observed_tensors(graph),
        RandomInputs(4, below).feeds(specs, None),
        method="minmax",
        total=4,
        threads=1,
        progress=Silent(),
    ).statistics
    ranges = ranges_from_statistics(statistics, "minmax")
    for scheme in SCHEMES.values():
        quantized = [range_source(value).name for value in plan_from_graph(graph, scheme).tensors]
        assert quantized
        assert all(-100 < low <= high < 100 for low, high in (ranges[name] for name in quantized))


@pytest.mark.parametrize("target", SCHEMES)
def test_every_linear_layer_is_quantized_and_no_softmax_or_norm(model: Any, target: str) -> None:
    graph, module, _ = model
    scheme = SCHEMES[target]
    plan = plan_from_graph(graph, scheme)
    products = {node.name for node in graph.graph if node.op_type == "MatMul" and node.inputs[1].const_value is None}
    assert products
    if scheme.float_attention:
        assert plan.skipped == dict.fromkeys(products, "the target computes attention faster in float")
    elif scheme.quantize_outputs:
        assert plan.skipped == {}
    else:
        assert plan.skipped == dict.fromkeys(products, "it multiplies two activations")
    assert not {"Softmax", "LayerNormalization", "Gelu"} & {node.op_type for node in plan.nodes}
    weights = sum(node.op_type in ("MatMul", "Gemm") and node.inputs[1].const_value is not None for node in plan.nodes)
    linears = sum(isinstance(part, nn.Linear) for part in module.modules())
    packed = 3 * sum(hasattr(part, "in_proj_weight") for part in module.modules())
    pooler, scores = hasattr(module, "pooler"), hasattr(module, "transformer")
    assert weights == linears + packed - pooler + scores


@pytest.mark.parametrize("name", ["self-attention", pytest.param("transformer-tiny", marks=pytest.mark.slow)])
def test_recipes_keep_their_outputs_in_int8(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    place = edgekit.build(name, precision="int8", target="cpu", profile=False, output="engine")
    recipe = load_recipe(name)
    module = module_from_recipe(recipe)
    specs = [TensorSpec(spec.name, spec.dtype, spec.shape) for spec in recipe.inputs]
    num_values = {spec.name: spec.num_values for spec in recipe.inputs if spec.num_values}
    noise = signal = 0.0
    with edgekit.load(place) as session, torch.no_grad():
        for _, feeds in list(RandomInputs(20, num_values).feeds(specs, None))[-4:]:
            expected = module(*(torch.from_numpy(array) for array in feeds.values())).numpy()
            got = session.run(feeds)[recipe.outputs[0]]
            noise += float(np.square(got - expected).sum())
            signal += float(np.square(expected).sum())
    assert 10 * np.log10(signal / noise) > 25


@pytest.mark.slow
def test_an_engine_decodes_the_same_tokens_as_the_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    place = edgekit.build("transformer-tiny", precision="fp32", target="cpu", profile=False, output="engine")
    module = module_from_recipe(load_recipe("transformer-tiny"))
    texts = ["0", "17", "99999"]
    source = np.zeros((3, 8), np.int64)
    for row, text in zip(source, texts, strict=True):
        row[: len(text) + 1] = [*(4 + int(digit) for digit in text), 2]
    with edgekit.load(place) as session:
        got = [greedy_tokens(session.run, row[None], 52)[0] for row in source]
        assert session.tokens(source[:1]) == got[:1]
    assert got == beam_search(module, torch.from_numpy(source), width=1)
