"""Files of ONNX Runtime's ``quantize_dynamic`` become float files; the right values are computed here in float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnxruntime.quantization import QuantType, quantize_dynamic

from edgekit.graph.load.onnx_file import graph_from_onnx
from edgekit.graph.passes import InferShapes
from edgekit.graph.passes.dequantize_weights import DequantizeWeights
from edgekit.graph.passes.remove_dynamic_quantization import RemoveDynamicQuantization, removed_quantization_note

RANDOM = np.random.default_rng(0)
TABLE, FIRST, SECOND = (RANDOM.standard_normal(size).astype(np.float32) for size in ((9, 8), (8, 16), (16, 5)))
BIAS = RANDOM.standard_normal(16).astype(np.float32)
KERNEL = RANDOM.standard_normal((4, 3, 3, 3)).astype(np.float32)
TOKENS = """g (int64[2, 6] x) => (float[6, 2, 5] y)
    { e = Gather(TABLE, x) t = Transpose<perm = [1, 0, 2]>(e) m = MatMul(t, FIRST) b = Add(m, BIAS)
      r = Relu(b) y = MatMul(r, SECOND) }"""
IDS = RANDOM.integers(0, 9, (2, 6))


def written(text: str, folder: Path, **weights: np.ndarray) -> Path:
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]>\n{text}')
    for name, array in weights.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    for index, node in enumerate(proto.graph.node):
        node.name = f"{node.op_type}_{index}"
    onnx.save(proto, folder / "float.onnx")
    return folder / "float.onnx"


def quantized(file: Path, **options: object) -> Path:
    quantize_dynamic(file, file.with_name("dynamic.onnx"), **options)
    return file.with_name("dynamic.onnx")


def constants(file: Path) -> dict[str, np.ndarray]:
    """The float64 numbers that the 8-bit weights of a file stand for, by the name of the float weight."""
    found = {each.name: onnx.numpy_helper.to_array(each) for each in onnx.load(file).graph.initializer}
    numbers = {}
    for name in found:
        stem = name.removesuffix("_quantized")
        if stem != name:
            scale, zero = (found[f"{stem}_{part}"].astype(np.float64) for part in ("scale", "zero_point"))
            numbers[stem] = (found[name] - zero) * scale
    return numbers


def operators(graph: ir.Model) -> list[str]:
    return [node.op_type for node in graph.graph if node.op_type not in ("Identity", "Cast")]


def without(file: Path) -> ir.Model:
    graph = graph_from_onnx(file)
    assert RemoveDynamicQuantization()(graph).modified
    InferShapes()(graph)
    onnx.checker.check_model(ir.to_proto(graph), full_check=True)
    return graph


def close(got: np.ndarray, right: np.ndarray) -> bool:
    return bool(np.abs(got - right).max() < 1e-5 * np.abs(right).max())


def right_tokens(file: Path) -> np.ndarray:
    numbers = constants(file)
    hidden = np.maximum(numbers["TABLE"][IDS].transpose(1, 0, 2) @ numbers["FIRST"] + BIAS, 0)
    return hidden @ numbers["SECOND"]


@pytest.mark.parametrize("options", [{}, {"per_channel": True}, {"weight_type": QuantType.QUInt8}])
def test_products_and_look_ups_are_those_of_the_weights(run_in_onnxruntime, tmp_path, options):
    file = quantized(written(TOKENS, tmp_path, TABLE=TABLE, FIRST=FIRST, BIAS=BIAS, SECOND=SECOND), **options)
    right = right_tokens(file)
    rounding = np.abs(run_in_onnxruntime(onnx.load(file), {"x": IDS})[0] - right).max()
    assert rounding > 1e-4  # the file rounds activations, so the comparison below sees whether that is gone
    graph = without(file)
    assert operators(graph) == ["Gather", "Transpose", "MatMul", "Add", "Relu", "MatMul"]
    assert [node.name for node in graph.graph if node.op_type == "MatMul"] == ["MatMul_2_quant", "MatMul_5_quant"]
    assert close(run_in_onnxruntime(graph, {"x": IDS})[0], right)


def test_fused_products_are_read_too(run_in_onnxruntime, tmp_path):
    file = quantized(written(TOKENS, tmp_path, TABLE=TABLE, FIRST=FIRST, BIAS=BIAS, SECOND=SECOND))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "fused.onnx")
    onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    fused = {node.op_type for node in onnx.load(tmp_path / "fused.onnx").graph.node}
    assert fused & {"DynamicQuantizeMatMul", "MatMulIntegerToFloat"}
    right = right_tokens(file)
    graph = without(tmp_path / "fused.onnx")
    assert not {node.domain for node in graph.graph} - {""}
    assert close(run_in_onnxruntime(graph, {"x": IDS})[0], right)


@pytest.mark.parametrize("bias", [False, True])
def test_convolutions_keep_pads_and_strides(run_in_onnxruntime, tmp_path, bias):
    added = RANDOM.standard_normal(4).astype(np.float32)
    weights = {"KERNEL": KERNEL, **({"ADDED": added} if bias else {})}
    conv = f"Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(x, KERNEL{', ADDED' if bias else ''})"
    text = f"g (float[1, 3, 8, 8] x) => (float[1, 4, 4, 4] y) {{ y = {conv} }}"
    file = quantized(written(text, tmp_path, **weights), weight_type=QuantType.QUInt8)
    x = RANDOM.standard_normal((1, 3, 8, 8)).astype(np.float32)
    kernel, padded = constants(file)["KERNEL"], np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))[:, :, ::2, ::2]
    right = np.einsum("nchwij,ocij->nohw", windows, kernel) + (added.reshape(1, 4, 1, 1) if bias else 0)
    graph = without(file)
    assert "ConvInteger" not in operators(graph)
    assert close(run_in_onnxruntime(graph, {"x": x})[0], right)


def test_products_of_two_activations_are_those_of_floats(run_in_onnxruntime, tmp_path):
    text = """g (float[2, 3, 8] x) => (float[2, 3, 3] y)
        { a = MatMul(x, FIRST) b = Transpose<perm = [0, 2, 1]>(a) y = MatMul(a, b) }"""
    file = quantized(written(text, tmp_path, FIRST=FIRST), extra_options={"MatMulConstBOnly": False})
    x = RANDOM.standard_normal((2, 3, 8)).astype(np.float32)
    a = x @ constants(file)["FIRST"]
    graph = without(file)
    assert operators(graph) == ["MatMul", "Transpose", "MatMul"]
    assert close(run_in_onnxruntime(graph, {"x": x})[0], a @ a.transpose(0, 2, 1))


@pytest.mark.parametrize("per_channel", [False, True])
def test_attention_is_that_of_its_weights(run_in_onnxruntime, tmp_path, per_channel):
    text = """g (float[2, 3, 8] x, int32[2, 3] seen) => (float[2, 3, 8] y)
        { y = com.microsoft.Attention<num_heads = 2>(x, WEIGHT, BIAS, seen) }"""
    weight, bias = (RANDOM.standard_normal(size).astype(np.float32) for size in ((8, 24), 24))
    file = written(text, tmp_path, WEIGHT=weight, BIAS=bias)
    proto = onnx.load(file)
    proto.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    onnx.save(proto, file)
    file = quantized(file, per_channel=per_channel)
    assert "QAttention" in {node.op_type for node in onnx.load(file).graph.node}
    x, seen = RANDOM.standard_normal((2, 3, 8)).astype(np.float32), np.array([[1, 1, 0], [1, 1, 1]], np.int32)
    packed = x @ constants(file)["WEIGHT"] + bias
    q, k, v = (each.reshape(2, 3, 2, 4).transpose(0, 2, 1, 3) for each in np.split(packed, 3, -1))
    scores = np.exp(q @ k.transpose(0, 1, 3, 2) / 2) * seen[:, None, None]
    right = (scores / scores.sum(-1, keepdims=True) @ v).transpose(0, 2, 1, 3).reshape(2, 3, 8)
    graph = graph_from_onnx(file)
    assert RemoveDynamicQuantization()(graph).modified
    assert operators(graph) == ["Attention"]
    assert close(run_in_onnxruntime(graph, {"x": x, "seen": seen})[0], right)


def test_embeddings_of_integers_are_those_that_they_stand_for(run_in_onnxruntime, tmp_path):
    text = """g (int32[2, 3] ids, int32[2, 3] kinds) => (float[2, 3, 16] y)
        { e, none = com.microsoft.EmbedLayerNormalization<epsilon = 0.01>
            (ids, kinds, TABLE, PLACES, KINDS, SCALE, SHIFT) y = MatMul(e, FIRST) }"""
    sizes = {"PLACES": (5, 8), "KINDS": (2, 8), "SCALE": 8, "SHIFT": 8}
    weights = {name: RANDOM.standard_normal(size).astype(np.float32) for name, size in sizes.items()}
    file = written(text, tmp_path, TABLE=TABLE, FIRST=FIRST, **weights)
    proto = onnx.load(file)
    proto.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    onnx.save(proto, file)
    file = quantized(file)
    assert "QEmbedLayerNormalization" in {node.op_type for node in onnx.load(file).graph.node}
    feeds = {"ids": np.array([[0, 8, 4], [3, 3, 1]], np.int32), "kinds": np.array([[0, 0, 1], [1, 0, 1]], np.int32)}
    numbers = constants(file)
    total = numbers["TABLE"][feeds["ids"]] + numbers["PLACES"][:3] + numbers["KINDS"][feeds["kinds"]]
    centered = total - total.mean(-1, keepdims=True)
    normal = centered / np.sqrt((centered**2).mean(-1, keepdims=True) + 0.01)
    right = (normal * numbers["SCALE"] + numbers["SHIFT"]) @ numbers["FIRST"]
    graph = without(file)
    assert {node.domain for node in graph.graph} == {""}
    DequantizeWeights()(graph)
    assert not {"DequantizeLinear", "MatMulInteger"} & set(operators(graph))
    assert close(run_in_onnxruntime(graph, feeds)[0], right)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def right_lstm(x: np.ndarray, w: np.ndarray, r: np.ndarray, b: np.ndarray) -> np.ndarray:
    """One direction: w is (inputs, 4 * hidden), r (hidden, 4 * hidden), b (8 * hidden), with the gates i, o, f, c."""
    hidden = len(r)
    state = memory = np.zeros((x.shape[1], hidden))
    outputs = []
    for step in x:
        gates = step @ w + state @ r + b[: 4 * hidden] + b[4 * hidden :]
        i, o, f, c = np.split(gates, 4, axis=-1)
        memory = sigmoid(f) * memory + sigmoid(i) * np.tanh(c)
        state = sigmoid(o) * np.tanh(memory)
        outputs.append(state)
    return np.stack(outputs)


@pytest.mark.parametrize("per_channel", [False, True])
def test_both_directions_of_an_lstm_have_their_own_weights(run_in_onnxruntime, tmp_path, per_channel):
    hidden, features = 4, 3
    w, r, b = (
        (RANDOM.standard_normal(size) * scale).astype(np.float32)
        for size, scale in (((2, 16, features), [[[1]], [[3]]]), ((2, 16, hidden), [[[2]], [[1]]]), ((2, 32), 1))
    )
    text = f"""g (float[5, 2, {features}] x) => (float[5, 2, 2, {hidden}] y)
        {{ y = LSTM<hidden_size = {hidden}, direction = "bidirectional">(x, W, R, B) }}"""
    file = quantized(written(text, tmp_path, W=w, R=r, B=b), per_channel=per_channel, weight_type=QuantType.QInt8)
    (node,) = [each for each in onnx.load(file).graph.node if each.op_type == "DynamicQuantizeLSTM"]
    found = {each.name: onnx.numpy_helper.to_array(each) for each in onnx.load(file).graph.initializer}
    levels, scales = [found[node.input[i]].astype(np.float64) for i in (1, 2)], [found[node.input[i]] for i in (8, 10)]
    dequantized = [each * scale.reshape(2, 1, -1) for each, scale in zip(levels, scales, strict=True)]
    x = RANDOM.standard_normal((5, 2, features)).astype(np.float32)
    forward = right_lstm(x, dequantized[0][0], dequantized[1][0], b[0])
    backward = right_lstm(x[::-1], dequantized[0][1], dequantized[1][1], b[1])[::-1]
    graph = without(file)
    assert operators(graph) == ["LSTM"]
    assert close(run_in_onnxruntime(graph, {"x": x})[0], np.stack([forward, backward], axis=1))


def test_a_file_with_calibrated_ranges_stays_as_it_is(graph_of):
    graph = graph_of(
        """g (float[1, 8] x) => (float[1, 5] y)
        { q, s, z = DynamicQuantizeLinear(x) d = DequantizeLinear(q, s, z)
          k = QuantizeLinear(d, scale, zero) f = DequantizeLinear(k, scale, zero) y = MatMul(f, w) }""",
        scale=np.array(0.1, np.float32),
        zero=np.array(3, np.uint8),
        w=RANDOM.standard_normal((8, 5)).astype(np.float32),
    )
    before = operators(graph)
    assert not RemoveDynamicQuantization()(graph).modified
    assert operators(graph) == before


def test_weights_that_are_rounded_to_steps_of_the_file_stay_integers(graph_of):
    graph = graph_of(
        """g (float[1, 8] x, float[8, 5] w, float t, uint8 o) => (float[1, 5] y)
        { q, s, z = DynamicQuantizeLinear(x) k = QuantizeLinear(w, t, o) m = MatMulInteger(q, k, z, o)
          f = Cast<to = 1>(m) a = Mul(s, t) y = Mul(f, a) }"""
    )
    assert not RemoveDynamicQuantization()(graph).modified


def test_the_note_counts_layers(tmp_path):
    file = quantized(written(TOKENS, tmp_path, TABLE=TABLE, FIRST=FIRST, BIAS=BIAS, SECOND=SECOND))
    assert removed_quantization_note(graph_from_onnx(file), "openvino") == ""
    assert "2 layers are read as floats" in removed_quantization_note(without(file), "openvino")
