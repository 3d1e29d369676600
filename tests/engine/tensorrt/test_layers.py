"""Parses the JSON of TensorRT's engine inspector, in the forms of NVIDIA's documentation and of its versions."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edgekit.engine.layers import Layer, assert_precision, layer_counts
from edgekit.engine.tensorrt.layers import (
    EngineLayer,
    layers_from_inspector,
    nodes_in_words,
    product_layers,
    quantized_products,
)
from edgekit.errors import BuildError
from edgekit.specs import Precision

INT8_FORMAT = "Thirty-two wide channel vectorized row major Int8 format"
HALF_FORMAT = "Channel major FP16 format where channel % 8 == 0"


def tensor(words: str) -> dict[str, Any]:
    return {"Name": "t", "Location": "Device", "Dimensions": [1, 6, 8, 8], "Format/Datatype": words}


def entry(nodes: tuple[str, ...], inputs: tuple[str, ...], output: str, **more: Any) -> dict[str, Any]:
    return {
        "Name": " + ".join(nodes),
        "LayerType": "CaskConvolution",
        "Inputs": [tensor(words) for words in inputs],
        "Outputs": [tensor(output)],
        "Metadata": "\x1e".join(f"[ONNX Layer: {node}]" for node in nodes),
        **more,
    }


def told(*entries: dict[str, Any] | str) -> str:
    return json.dumps({"Layers": entries, "Bindings": ["images", "head"]})


def layer(name: str, precision: str, *, type: str = "convolution") -> EngineLayer:
    return EngineLayer(name=name, type=type, precision=precision, outputs=(), nodes=(name,))


WANTED = (layer("a", "int8"), layer("relu", "float16", type="activation"), layer("b", "float16"), layer("c", "int8"))


def test_a_layer_has_its_nodes_shapes_and_precision() -> None:
    read = layers_from_inspector(told(entry(("a", "relu"), (INT8_FORMAT,), HALF_FORMAT)))
    assert read == (
        EngineLayer(
            name="a + relu",
            type="caskconvolution",
            precision="int8",
            outputs=((1, 6, 8, 8),),
            nodes=("a", "relu"),
        ),
    )


@pytest.mark.parametrize(
    ("inputs", "more", "precision"),
    [
        ((INT8_FORMAT,), {"Weights": {"Type": "Int8", "Count": 216}}, "int8"),
        # Quantizes its inputs: inputs and outputs are half precision.
        ((HALF_FORMAT,), {"Weights": {"Type": "Int8", "Count": 216}}, "int8"),
        (("Half",), {"TacticName": "sm80_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32_f32_nchw"}, "int8"),
        (("Half", "Int8"), {}, "int8"),
        # Reads integers and dequantizes them before multiplying.
        ((INT8_FORMAT,), {"Weights": {"Type": "Half", "Count": 216}}, "float16"),
        ((HALF_FORMAT,), {}, "float16"),
        (("Row major linear FP32",), {}, "float32"),
        (("Float",), {}, "float32"),
        (("BFloat16",), {}, "bfloat16"),
        (("FP8",), {}, "float8"),
        ((), {}, "float16"),
    ],
)
def test_the_precision_of_a_convolution_is_that_of_its_multiplication(
    inputs: tuple[str, ...], more: dict[str, Any], precision: str
) -> None:
    (read,) = layers_from_inspector(told(entry(("a",), inputs, "Half", **more)))
    assert read.precision == precision


@pytest.mark.parametrize("text", [told("a + relu", "b"), told(), "{}", "", "no JSON", '{"Layers": 3}'])
def test_an_engine_without_details_has_no_layers(text: str) -> None:
    assert layers_from_inspector(text) == ()


def test_one_layer_of_an_engine_may_contain_several_products() -> None:
    read = layers_from_inspector(told(entry(("a", "relu", "b", "c"), ("Int8", "Half"), "Half", LayerType="kgen")))
    assert layer_counts(product_layers(WANTED, read)) == {"int8": 3}


def test_layers_that_an_engine_does_not_name_keep_the_type_of_the_graph() -> None:
    assert product_layers(WANTED, ()) == [Layer(("a",), "int8"), Layer(("b",), "float16"), Layer(("c",), "int8")]


def test_a_bias_added_in_half_precision_does_not_change_an_integer_product() -> None:
    read = layers_from_inspector(told(entry(("a",), ("Half",), "Half"), entry(("a",), ("Int8",), "Half")))
    assert product_layers(WANTED[:1], read) == [Layer(("a",), "int8")]


def test_a_quantized_convolution_that_came_out_in_half_precision_is_an_error() -> None:
    read = layers_from_inspector(
        told(entry(("a",), (INT8_FORMAT,), "Half"), entry(("b",), ("Half",), "Half"), entry(("c",), ("Half",), "Half"))
    )
    products = product_layers(WANTED, read)
    with pytest.raises(BuildError, match=r"runs 1 of 2 quantized layers in float16, expected int8: c"):
        assert_precision("tensorrt", Precision.INT8, quantized_products(WANTED), products)


@pytest.mark.parametrize(
    ("words", "nodes"),
    [
        ("Assertion !layerImpls.empty() failed. nms_1 has no runners that implement it", ("decode.nms",)),
        ("Could not find any implementation for node head.conv.", ("head.conv",)),
        ("Could not find any implementation for node {ForeignNode[head.conv...nms_1]}.", ("decode.nms", "head.conv")),
        ("Assertion failed: nms_12 and head.conv2 are unknown", ()),
    ],
)
def test_a_builder_message_is_traced_to_the_nodes_of_the_graph(words: str, nodes: tuple[str, ...]) -> None:
    network = [
        EngineLayer(name="nms_1", type="nms", precision="float32", outputs=(), nodes=("decode.nms",)),
        EngineLayer(name="head.conv", type="convolution", precision="float32", outputs=()),
    ]
    assert nodes_in_words(network, words) == nodes
