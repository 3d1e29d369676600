"""Graphs from other exporters: published models, if their packages are installed, and ONNX's own."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgekit.engine.backend import BuildOptions, backend
from edgekit.graph.file import save_graph, set_input_shapes
from edgekit.graph.load.onnx_file import graph_from_onnx
from edgekit.graph.passes import optimize
from edgekit.quantize.plan import QuantPolicy
from edgekit.quantize.quantize import quantized_from_graph
from edgekit.specs import Precision

INT8 = BuildOptions(precision=Precision.INT8, threads=1)

# Package, file, input shapes, and the min SNR of the outputs for random inputs, in decibels: a detector's scores of
# noise are close to 0.
PUBLISHED = {
    "text detector": ("rapidocr_onnxruntime", "models/ch_PP-OCRv4_det_infer.onnx", {"x": (1, 3, 64, 64)}, None),
    "text recognizer": ("rapidocr_onnxruntime", "models/ch_PP-OCRv4_rec_infer.onnx", {"x": (1, 3, 48, 64)}, None),
    "text direction": ("rapidocr_onnxruntime", "models/ch_ppocr_mobile_v2.0_cls_infer.onnx", {"x": (1, 3, 48, 96)}, 25),
    "file types": ("magika", "models/standard_v3_3/model.onnx", {"bytes": (1, 2048)}, 20),
    "voice": (
        "silero_vad",
        "data/silero_vad_16k_op15.onnx",
        {"input": (1, 576), "state": (2, 1, 128), "sr": ()},
        15,
    ),
}


# OpenVINO compiles large graphs slowly.
QUICK = ("file types", "voice", "squeezenet")
LIBRARIES = {"cpu": "onnxruntime", "openvino": "openvino"}


def on_targets(names):
    return [(name, target) for name in names for target in LIBRARIES if target == "cpu" or name in QUICK]


def installed(package, file):
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        pytest.skip(f"needs the package {package.replace('_', '-')}")
    path = Path(found.submodule_search_locations[0]) / file
    if not path.is_file():
        pytest.skip(f"this version of {package.replace('_', '-')} has no {Path(file).name}")
    return path


@pytest.mark.parametrize(("name", "target"), on_targets(PUBLISHED))
def test_published_models_are_built_as_planned(
    feeds_for, calibrated, run_in_onnxruntime, sqnr_db, tmp_path, target, name
):
    pytest.importorskip(LIBRARIES[target])
    package, file, shapes, least_db = PUBLISHED[name]
    graph = graph_from_onnx(installed(package, file))
    set_input_shapes(graph, shapes)
    optimize(graph)
    feeds = feeds_for(graph, 2)
    exact = run_in_onnxruntime(graph, feeds)
    graph, plan, *_ = quantized_from_graph(
        graph, calibrated(graph, feeds), backend(target).scheme(), QuantPolicy(keep_heads=True)
    )
    save_graph(graph, tmp_path / "graph.onnx")
    result = backend(target).build(tmp_path / "graph.onnx", tmp_path, INT8)
    assert result.layers["int8"] >= len(plan.skipped)
    engine = backend(target).load(tmp_path / result.engine, threads=1)
    got = [engine.run(arrays) for arrays in feeds]
    assert [spec.name for spec in engine.outputs] == list(exact[0])
    assert all(np.isfinite(array).all() for arrays in got for array in arrays.values())
    if least_db is not None:
        assert min(sqnr_db(exact, got).values()) > least_db


LIGHT = Path(onnx.__file__).parent / "backend/test/data/light"
SMALL = {"squeezenet": 26, "shufflenet": 50}


def with_random_weights(graph):
    """Replaces the weights of ONNX's own models, which are constant-filled, by random numbers.

    Variances are 1, and all other weights are drawn so that activations keep their magnitude.
    """
    computed = {node.outputs[0] for node in graph.graph if all(i.const_value is not None for i in node.inputs)}
    for node in graph.graph:
        for index, value in enumerate(node.inputs):
            if value is None or not (value in computed or value.const_value is not None) or not value.shape:
                continue
            if value.dtype != ir.DataType.FLOAT or not all(isinstance(size, int) for size in value.shape):
                continue
            shape = value.shape.numpy()
            rng = np.random.default_rng(sum(shape) + index)
            array = (
                rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:])) if len(shape) > 1 else rng.random(shape)
            )
            if node.op_type == "BatchNormalization":
                array = np.ones(shape) if index in (1, 4) else np.zeros(shape)
            tensor = ir.tensor(array.astype(np.float32), name=f"{value.name} of {node.name} {index}")
            weight = ir.Value(name=tensor.name, type=value.type, shape=value.shape, const_value=tensor)
            graph.graph.register_initializer(weight)
            node.replace_input_with(index, weight)
    return graph


@pytest.mark.parametrize(("name", "target"), on_targets(SMALL))
def test_classifiers_of_onnx_itself_run_on_integers_throughout(
    feeds_for, calibrated, run_in_onnxruntime, sqnr_db, tmp_path, target, name
):
    pytest.importorskip(LIBRARIES[target])
    graph = optimize(with_random_weights(graph_from_onnx(LIGHT / f"light_{name}.onnx")))
    feeds = feeds_for(graph, 1)
    exact = run_in_onnxruntime(graph, feeds)
    scheme = msgspec.structs.replace(backend(target).scheme(), stem_channels=0)
    graph, plan, *_ = quantized_from_graph(graph, calibrated(graph, feeds), scheme)
    assert plan.skipped == {}
    save_graph(graph, tmp_path / "graph.onnx")
    result = backend(target).build(tmp_path / "graph.onnx", tmp_path, INT8)
    assert result.layers == {"int8": SMALL[name]}
    engine = backend(target).load(tmp_path / result.engine, threads=1)
    # The noise of weights doubles with each bit that they lack.
    least = 15 - 20 * np.log10(2) * (8 - scheme.weight_bits)
    assert min(sqnr_db(exact, [engine.run(arrays) for arrays in feeds]).values()) > least
