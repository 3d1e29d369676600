"""Builds with TensorRT-RTX, which needs no GPU for them; see test_backend.py for TensorRT itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from edgekit.engine.backend import BuildOptions, BuildResult, backend
from edgekit.engine.builder import engine_from_graph
from edgekit.errors import BuildError, GraphError, UsageError
from edgekit.specs import Precision, ShapeRange

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")

Build = Callable[..., BuildResult]

BATCHES = {"images": ShapeRange((1, 4, 8, 8), (4, 4, 8, 8), (16, 4, 8, 8))}
LONG = {"light_densenet121", "light_inception_v2"}
EXAMPLES = [
    pytest.param(file, id=file.stem, marks=[pytest.mark.slow] if file.stem in LONG else [])
    for file in sorted((Path(onnx.__file__).parent / "backend/test/data/light").glob("*.onnx"))
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "engine").mkdir()
    return tmp_path / "engine"


@pytest.fixture
def build(tmp_path: Path, folder: Path) -> Build:
    """Builds a graph in a child process, as users do."""

    def run(graph: onnx.ModelProto, precision: Precision = Precision.FP32, **options: Any) -> BuildResult:
        from typed_graphs import save

        shapes = options.pop("shapes", {})
        told = BuildOptions(precision=precision, shapes=shapes, engine=options)
        return engine_from_graph(save(graph, tmp_path), folder, "tensorrt-rtx", told, timeout_s=120)

    return run


def layers(folder: Path) -> dict[str, dict[str, Any]]:
    """Reads the layers from ``layers.json``, by name."""
    return {layer["name"]: layer for layer in json.loads((folder / "layers.json").read_text())}


def test_a_float_graph_becomes_a_raw_plan_with_its_layers_beside_it(build: Build, folder: Path) -> None:
    from small_graphs import conv_graph

    result = build(conv_graph())
    assert result.engine == "engine.plan"
    assert sorted(file.name for file in folder.iterdir()) == sorted(result.files) == ["engine.plan", "layers.json"]
    assert (folder / "engine.plan").read_bytes()[1:4] == b"trt"  # without a header, as trtexec expects it
    assert result.layers == {"float32": 2}
    assert result.backend_version == backend("tensorrt-rtx").version()
    assert result.compute_capabilities == ("8.0", "8.6", "8.9", "12.0", "12.1")
    assert result.notes == ()
    assert layers(folder)["head"] == {
        "name": "head",
        "type": "convolution",
        "precision": "float32",
        "outputs": [[1, 3, 6, 6]],
        "nodes": ["head"],
    }


def test_half_precision_comes_from_the_graph(build: Build, folder: Path) -> None:
    from typed_graphs import half_graph

    assert build(half_graph(), Precision.FP16).layers == {"float16": 1}
    assert layers(folder)["body"]["precision"] == "float16"
    assert layers(folder)["head"]["precision"] == "float32"


def test_integers_come_from_q_dq_pairs_with_half_precision_scales(build: Build, folder: Path) -> None:
    from typed_graphs import quantized_graph

    result = build(quantized_graph(), Precision.INT8)
    assert result.layers == {"int8": 1, "float16": 1}
    read_back = {name: layer["precision"] for name, layer in layers(folder).items()}
    assert (read_back["body"], read_back["last"]) == ("int8", "float16")
    assert any("INT8" in note and "not yet measured" in note and "precision='fp16'" in note for note in result.notes)


def test_integer_products_are_found_behind_what_the_parser_puts_between(build: Build) -> None:
    from typed_graphs import quantized_products

    assert build(quantized_products(), Precision.INT8).layers == {"int8": 2}


def test_weights_that_alone_are_quantized_make_no_integer_product(build: Build) -> None:
    from typed_graphs import quantized_weights

    result = build(quantized_weights(), Precision.FP16)
    assert result.layers == {"float16": 1}
    assert result.notes == ()  # weight-only INT8 is on TensorRT-RTX's support matrix


@pytest.mark.parametrize(
    ("graph", "precision", "words"),
    [
        ("half_graph", Precision.INT8, ["needs Q/DQ pairs", "quantize"]),
        ("half_graph", Precision.FP32, ["float16", "expected float32", "body"]),
        ("quantized_graph", Precision.FP32, ["expected float32", "precision='int8'"]),
    ],
)
def test_a_graph_that_is_typed_otherwise_than_asked_is_not_built(
    graph: str, precision: Precision, words: list[str], build: Build, folder: Path
) -> None:
    import typed_graphs

    with pytest.raises(BuildError) as caught:
        build(getattr(typed_graphs, graph)(), precision)
    assert [word for word in words if word not in str(caught.value)] == []
    assert list(folder.iterdir()) == []


def test_weights_in_a_file_beside_the_graph_are_found(tmp_path: Path, folder: Path) -> None:
    from typed_graphs import half_graph, save

    graph = save(half_graph(), tmp_path, weights_beside=True)
    assert (tmp_path / "graph.onnx.data").stat().st_size > 0
    told = BuildOptions(precision=Precision.FP16)
    assert engine_from_graph(graph, folder, "tensorrt-rtx", told).layers == {"float16": 1}


def test_a_batch_that_is_chosen_at_run_time_gets_a_profile(build: Build, folder: Path) -> None:
    from typed_graphs import quantized_graph

    result = build(quantized_graph(batch="N"), Precision.INT8, shapes=BATCHES)
    assert result.layers == {"int8": 1, "float16": 1}
    assert layers(folder)["body"]["outputs"] == [[-1, 6, 8, 8]]


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ({}, ["'images' (?, 4, 8, 8)", "got none", "batch=(1, 4, 16)"]),
        ({"images": ShapeRange((1, 4, 8), (4, 4, 8), (16, 4, 8))}, ["(?, 4, 8, 8)", "got (1, 4, 8)"]),
        ({"images": ShapeRange((1, 3, 8, 8), (4, 3, 8, 8), (9, 3, 8, 8))}, ["(?, 4, 8, 8)", "got (1, 3, 8, 8)"]),
        (
            {"images": ShapeRange((4, 4, 8, 8), (1, 4, 8, 8), (9, 4, 8, 8))},
            ["'images'", "min <= opt <= max", "(4, 4, 8, 8)"],
        ),
    ],
)
def test_shapes_that_are_missing_or_do_not_fit_are_named(
    shapes: dict[str, ShapeRange], words: list[str], build: Build
) -> None:
    from typed_graphs import half_graph

    with pytest.raises(UsageError) as caught:
        build(half_graph(batch="N"), Precision.FP16, shapes=shapes)
    assert [word for word in words if word not in str(caught.value)] == []


def test_the_gpus_that_an_engine_is_for_can_be_chosen(build: Build, folder: Path) -> None:
    from small_graphs import conv_graph

    assert build(conv_graph(), sm=(86,)).compute_capabilities == ("8.6",)
    one = (folder / "engine.plan").stat().st_size
    assert build(conv_graph(), sm=(75, 89, 120)).compute_capabilities == ("7.5", "8.9", "12.0")
    assert (folder / "engine.plan").stat().st_size > one


@pytest.mark.parametrize("wanted", [(87,), (86, 90), (86, 86)])
def test_a_gpu_that_the_library_does_not_list_is_refused_with_those_it_does(
    wanted: tuple[int, ...], build: Build
) -> None:
    from small_graphs import conv_graph

    with pytest.raises(UsageError, match=r"75, 80, 86, 89, 120, 121"):
        build(conv_graph(), sm=wanted)


def test_an_operator_that_tensorrt_has_not_is_named_with_its_node(build: Build) -> None:
    from small_graphs import unknown_operator

    with pytest.raises(GraphError) as caught:
        build(unknown_operator())
    words = ["operator 'Frobnicate'", "node 'odd'", "Plugin not found", "replace the operator"]
    assert [word for word in words if word not in str(caught.value)] == []


def test_an_unsupported_node_is_named_with_its_module(build: Build) -> None:
    from small_graphs import unknown_operator

    graph = unknown_operator()
    graph.graph.node[0].name = "backbone.stage1.0.roll"
    with pytest.raises(GraphError, match=r"node 'backbone\.stage1\.0\.roll', named after its module,"):
        build(graph)


def test_a_graph_that_was_quantized_for_the_processor_says_so(build: Build) -> None:
    from small_graphs import conv_graph

    with pytest.raises(GraphError, match="quantized for another target"):
        build(conv_graph(quantized=True), Precision.INT8)


def test_a_graph_with_ranges_of_each_run_says_so(build: Build) -> None:
    text = """<ir_version: 10, opset_import: ["" : 20]> g (float[2, 4] x) => (float[2, 4] y)
    { q, s, z = DynamicQuantizeLinear (x)  y = DequantizeLinear (q, s, z) }"""
    with pytest.raises(GraphError, match="DynamicQuantizeLinear") as caught:
        build(onnx.parser.parse_model(text), Precision.INT8)
    assert "quantized for another target" in str(caught.value.hint)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x08\x0a" * 50], ids=["empty", "text", "numbers"])
def test_a_file_that_is_not_a_graph_is_rejected(content: bytes, tmp_path: Path, folder: Path) -> None:
    (tmp_path / "graph.onnx").write_bytes(content)
    with pytest.raises(GraphError, match=r"graph\.onnx"):
        engine_from_graph(
            tmp_path / "graph.onnx", folder, "tensorrt-rtx", BuildOptions(precision=Precision.FP32), timeout_s=60
        )


def test_attention_without_a_fused_kernel_is_decomposed(build: Build) -> None:
    from typed_graphs import attention_graph

    assert build(attention_graph()).files == ("engine.plan", "layers.json")


def test_a_version_compatible_plan_is_built(build: Build, folder: Path) -> None:
    from small_graphs import conv_graph

    assert build(conv_graph(), version_compatible=True).layers == {"float32": 2}


@pytest.mark.parametrize("option", ["refittable", "strip_weights"])
def test_refittable_and_stripped_plans_are_built_or_need_a_gpu(option: str, build: Build) -> None:
    from small_graphs import conv_graph

    try:
        result = build(conv_graph(), **{option: True})
    except BuildError as e:
        assert "TensorRT-RTX needs a GPU to build refittable plans" in e.hint  # noqa: PT017
    else:
        assert result.layers == {"float32": 2}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dla": 0}, r"engine\['dla'\] goes with tensorrt"),
        ({"hardware_compatible": True}, r"engine\['hardware_compatible'\] goes with"),
    ],
)
def test_options_that_this_library_has_no_use_for_are_refused(
    options: dict[str, Any], words: str, build: Build
) -> None:
    from small_graphs import conv_graph

    with pytest.raises(UsageError, match=words):
        build(conv_graph(), **options)


def test_a_build_that_fails_ends_with_the_builders_last_words(build: Build, folder: Path) -> None:
    from small_graphs import conv_graph

    with pytest.raises(BuildError, match="workspace limit") as caught:
        build(conv_graph(), workspace_mib=1)
    assert "engine['workspace_mib']" in caught.value.hint
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("file", EXAMPLES)
def test_classifiers_of_onnxs_own_tests_are_built(file: Path, folder: Path) -> None:
    result = engine_from_graph(file, folder, "tensorrt-rtx", BuildOptions(precision=Precision.FP32), timeout_s=300)
    graph = onnx.load(file).graph
    products = [node for node in graph.node if node.op_type in {"Conv", "Gemm", "MatMul"}]
    assert result.layers == {"float32": len(products)}
