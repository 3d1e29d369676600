"""The readers that are fuzzed, each with a few small valid inputs to start from."""

from __future__ import annotations

import gzip
import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx_ir as ir
import safetensors.torch
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from torch import nn

import edgekit
from edgekit.data.array_files import arrays_from_file
from edgekit.data.calibration.manifest import manifest_from_file
from edgekit.data.examples import Choice
from edgekit.data.formats.class_lists import class_lists
from edgekit.data.formats.coco_json import coco_from_path
from edgekit.data.formats.csv_table import csv_from_path
from edgekit.data.formats.idx import IdxFile
from edgekit.data.formats.parallel_text import text_from_path
from edgekit.data.formats.text_lines import names_in
from edgekit.data.formats.voc import voc_from_path
from edgekit.data.formats.yolo_text import yolo_from_path
from edgekit.data.images import read_image
from edgekit.data.vocabulary import ids_from_text, text_from_ids
from edgekit.engine.bundle.checks import read_bundle
from edgekit.graph.evaluator import Evaluator
from edgekit.graph.file import is_quantized
from edgekit.graph.load.onnx_file import graph_from_onnx
from edgekit.graph.passes import optimize
from edgekit.graph.stats import stats_from_graph
from edgekit.measure.layer_times import layer_times_from_report
from edgekit.models.cfg.recipe import recipe_from_cfg
from edgekit.models.darknet import save_darknet
from edgekit.models.weights.read import load_weights
from edgekit.quantize.calibrate.collect import CalibrationTable
from edgekit.quantize.calibrate.table import cached_table, keep_table
from edgekit.recipe.schema import recipe_from_file, shipped

__all__ = ["TARGETS", "Target"]


class Target(NamedTuple):
    """A reader.

    Attributes:
        read: writes an input into a folder and reads it.
        seeds: makes the valid inputs.
    """

    read: Callable[[bytes, Path], object]
    seeds: Callable[[], list[bytes]]


def _file(name: str, read: Callable[[Path], object]) -> Callable[[bytes, Path], object]:
    def written(content: bytes, folder: Path) -> object:
        (folder / name).write_bytes(content)
        return read(folder / name)

    return written


# ---- graphs


def _model(*, external: bool = False) -> bytes:
    """A small graph of opset 13 with a function, constants, a branch and computed shapes."""
    weight = numpy_helper.from_array(np.ones((16, 3, 3, 3), np.float32), "w")
    if external:
        weight.ClearField("raw_data")
        weight.data_location = TensorProto.EXTERNAL
        for key, value in (("location", "model.onnx.data"), ("offset", "0"), ("length", "1728")):
            weight.external_data.add(key=key, value=value)
    twice = helper.make_function(
        "own", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 13)]
    )
    then = helper.make_graph(
        [helper.make_node("Identity", ["s"], ["t1"])], "t", [], [helper.make_tensor_value_info("t1", 1, [1, 16, 8, 8])]
    )
    other = helper.make_graph(
        [helper.make_node("Neg", ["s"], ["t2"])], "e", [], [helper.make_tensor_value_info("t2", 1, [1, 16, 8, 8])]
    )
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Twice", ["c"], ["d"], domain="own"),
        helper.make_node("Shape", ["d"], ["n"]),
        helper.make_node("Range", ["zero", "eight", "one"], ["r"]),
        helper.make_node("Cast", ["r"], ["f"], to=1),
        helper.make_node("Add", ["d", "f"], ["s"]),
        helper.make_node("If", ["yes"], ["y"], then_branch=then, else_branch=other),
        helper.make_node("Constant", [], ["v"], value=numpy_helper.from_array(np.array([1, -1]), "v")),
        helper.make_node("Reshape", ["y", "v"], ["z"]),
    ]
    constants = [
        numpy_helper.from_array(np.array(value), name) for name, value in (("zero", 0), ("eight", 8), ("one", 1))
    ]
    constants.append(numpy_helper.from_array(np.array(True), "yes"))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", 1, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("z", 1, [1, 1024])],
        [weight, *constants],
    )
    imports = [helper.make_opsetid("", 13), helper.make_opsetid("own", 1)]
    content: bytes = helper.make_model(
        graph, functions=[twice], opset_imports=imports, ir_version=8
    ).SerializeToString()
    return content


def _quantized() -> bytes:
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s"], ["w"]),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    constants = [
        numpy_helper.from_array(np.ones((4, 4), np.int8), "q"),
        numpy_helper.from_array(np.array(0.5, np.float32), "s"),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(nodes, "g", [value("x", 1, ["n", 4])], [value("y", 1, ["n", 4])], constants)
    content: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10
    ).SerializeToString()
    return content


def _read_graph(content: bytes, folder: Path) -> object:
    (folder / "model.onnx").write_bytes(content)
    (folder / "model.onnx.data").write_bytes(bytes(2000))
    graph: ir.Model = graph_from_onnx(folder / "model.onnx")
    if is_quantized(graph):
        return graph
    Evaluator(optimize(graph))  # as `edgekit.pipeline.load_model`: what ONNX Runtime refuses is not looked at further
    return stats_from_graph(graph)


# ---- weights


def _module() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), nn.BatchNorm2d(2), nn.Conv2d(2, 1, 1))


def _weights(save: Callable[[nn.Module, Path], object]) -> Callable[[], list[bytes]]:
    def seeds() -> list[bytes]:
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "w"
            save(_module(), file)
            return [file.read_bytes()]

    return seeds


def _read_weights(content: bytes, folder: Path) -> object:
    (folder / "weights").write_bytes(content)
    return load_weights(_module(), folder / "weights")


# ---- arrays and images


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _npz(save: Callable[..., None]) -> bytes:
    buffer = io.BytesIO()
    save(buffer, a=np.ones((2, 3), np.float32), b=np.arange(4))
    return buffer.getvalue()


def _read_member(content: bytes, folder: Path) -> object:
    """Reads ``content`` as a member of an archive, so that its checksum is right."""
    with zipfile.ZipFile(folder / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", content)
    return arrays_from_file(folder / "x.npz")


def _images() -> list[bytes]:
    found = []
    for kind in ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM"):
        buffer = io.BytesIO()
        Image.linear_gradient("L").resize((8, 8)).convert("RGB").save(buffer, kind)
        found.append(buffer.getvalue())
    return found


def _png(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        Image.new("RGB", (8, 8)).save(file)


# ---- data sets


def _coco(file: Path) -> object:
    _png(file.parent / "1.png")
    return coco_from_path(file, Choice("train"))


def _voc(content: bytes, folder: Path) -> object:
    (folder / "1.xml").write_bytes(content)
    _png(folder / "1.png")
    return [voc_from_path(folder, Choice(split)) for split in ("train",)]


def _yolo(name: str) -> Callable[[bytes, Path], object]:
    def read(content: bytes, folder: Path) -> object:
        _png(folder / "images" / "1.png")
        (folder / "labels").mkdir(exist_ok=True)
        (folder / "labels" / "1.txt").write_text("0 0.5 0.5 0.2 0.2\n")
        (folder / "1.names").write_text("cat\n")
        # A configuration may name any folder: the reader would list the files of this machine.
        (folder / name).write_bytes(content.replace(b"..", b"__").replace(b"/", b"_"))
        return yolo_from_path(folder if name.startswith("labels") else folder / name, Choice("train"))

    return read


def _csv(file: Path) -> object:
    table = csv_from_path(file, Choice("train"))
    return [table[index] for index in range(min(len(table), 5))]


def _idx(name: str) -> Callable[[bytes, Path], object]:
    return _file(name, _first_element)


def _first_element(file: Path) -> object:
    found = IdxFile(file)
    return found[0] if found.shape[0] else None


def _text(file: Path) -> object:
    texts = text_from_path(file, Choice("train"))
    return [texts[index] for index in range(min(len(texts), 5))]


def _names(content: bytes, folder: Path) -> object:
    """Reads lines as those of a list that divides the images of classes, and as names of classes."""
    images = folder / "images"
    _png(images / "ant" / "1.png")
    (folder / "test.txt").write_text("ant/1\n")
    (folder / "train.txt").write_bytes(content)
    return class_lists(images, [images / "ant"]), names_in(folder / "train.txt")


def _vocabulary(file: Path) -> object:
    names = names_in(file)
    return [text_from_ids(ids_from_text(name, names), names) for name in names[:50]]


_COCO = (
    b'{"images":[{"id":1,"file_name":"1.png","width":8,"height":8}],"annotations":[{"image_id":1,"category_id":3,'
    b'"bbox":[1,1,2,2],"iscrowd":0}],"categories":[{"id":3,"name":"cat"}]}'
)
_VOC = (
    b"<annotation><filename>1.png</filename><size><width>8</width><height>8</height></size><object><name>cat</name>"
    b"<difficult>0</difficult><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>4</xmax><ymax>4</ymax></bndbox></object>"
    b"</annotation>"
)
_YAML = [
    b"path: .\ntrain: images\nval: images\nnc: 2\nnames: ['cat', \"dog\"]  # both\n",
    b"train: [images]\nnames:\n  0: cat\n  1: it's a dog\n",
    b"train: images\nnames:\n- cat\n- 'a''b'\n",
]
_CFG = (
    b"[net]\nwidth=32\nheight=32\nchannels=3\n\n[convolutional]\nbatch_normalize=1\nfilters=8\nsize=3\nstride=2\npad=1\n"
    b"activation=leaky\n\n[route]\nlayers=-1\n\n[convolutional]\nfilters=18\nsize=1\nstride=1\npad=1\nactivation=linear\n\n"
    b"[yolo]\nmask=0,1,2\nanchors=10,14, 23,27, 37,58\nclasses=1\nnum=3\n"
)
_NOTHING = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"  # the SHA-256 of an empty file
_MANIFEST = f"""{{"format":2,"edgekit":"1","created":"2026-01-01T00:00:00+00:00","name":"m","task":"tensor",
"backend":"null","backend_version":"{edgekit.__version__}","precision":"int8","layers":{{"int8":1}},"engine":"e",
"machine":{{"arch":"x86_64","cpu":"c","features":[],"system":"Linux"}},"source":{{"kind":"onnx","name":"m.onnx"}},
"inputs":[{{"name":"x","dtype":"float32","shape":[1,3,8,8]}}],"outputs":[],"labels":["cat"],
"files":{{"e":{{"size_bytes":0,"sha256":"{_NOTHING}"}}}}}}""".encode()
_DETECTOR_MANIFEST = _MANIFEST.replace(b'"task":"tensor"', b'"task":"detect"').replace(
    b'"labels"', b'"postprocess":{"head":{"family":"end2end","output":"y"},"score_threshold":0.25},"labels"'
)
_CALIBRATION_SET = (
    b'title = "t"\n[[images]]\nfile = "1.png"\nsha256 = "'
    + b"0" * 64
    + b'"\nsource = "s"\nauthor = "a"\nlicense = "CC0"\n'
    b'[[views]]\nname = "whole"\ncrop = [0.0, 0.0, 1.0, 1.0]\n'
)
_KEY = {"graph_digest": "g", "set_digest": "s", "method": "minmax"}


def _read_manifest(content: bytes, folder: Path) -> object:
    (folder / "manifest.json").write_bytes(content)
    (folder / "e").write_bytes(b"")
    return read_bundle(folder)


def _calibration_cache(content: bytes, folder: Path) -> object:
    keep_table(CalibrationTable(set="s", images=1, ranges={"x": (0.0, 1.0)}, **_KEY), folder)
    next((folder / "calibration").iterdir()).write_bytes(content)
    return cached_table(folder, **_KEY)


def _calibration_table() -> list[bytes]:
    import msgspec

    table = CalibrationTable(set="s", images=1, ranges={"x": (0.0, 1.0)}, channels={"x": ((0.0,), (1.0,))}, **_KEY)
    return [msgspec.json.encode(table)]


def _recipes() -> list[bytes]:
    names = ("yolov3-tiny.toml", "lenet.toml", "transformer-tiny.toml")
    return [(shipped("recipes") / name).read_bytes() for name in names]


def _recipe(content: bytes, folder: Path) -> object:
    (folder / "labels").mkdir(exist_ok=True)
    (folder / "labels" / "coco.txt").write_text("".join(f"name {index}\n" for index in range(80)))
    (folder / "r.toml").write_bytes(content)
    return recipe_from_file(folder / "r.toml")


def _safetensors(module: nn.Module, file: Path) -> object:
    return safetensors.torch.save_file(module.state_dict(), file)


def _report() -> list[bytes]:
    return [b'{"layer_times":{"layers":[],"runs":1,"sum_ms":1,"profiled_ms":1,"end_to_end_ms":1,"difference":0.0}}']


TARGETS: dict[str, Target] = {
    "onnx": Target(_read_graph, lambda: [_model(), _quantized()]),
    "onnx-external": Target(_read_graph, lambda: [_model(external=True)]),
    "recipe": Target(_recipe, _recipes),
    "cfg": Target(_file("m.cfg", recipe_from_cfg), lambda: [_CFG]),
    "darknet": Target(_read_weights, _weights(save_darknet)),
    "safetensors": Target(_read_weights, _weights(_safetensors)),
    "torch": Target(_read_weights, _weights(lambda module, file: torch.save(module.state_dict(), file))),
    "npy": Target(_file("x.npy", arrays_from_file), lambda: [_npy(np.ones((2, 3), np.float32)), _npy(np.arange(3))]),
    "npz": Target(_file("x.npz", arrays_from_file), lambda: [_npz(np.savez), _npz(np.savez_compressed)]),
    "npz-member": Target(_read_member, lambda: [_npy(np.ones((2, 3), np.float32))]),
    "image": Target(_file("i.png", read_image), _images),
    "coco": Target(_file("a.json", _coco), lambda: [_COCO]),
    "voc": Target(_voc, lambda: [_VOC]),
    "yolo-yaml": Target(_yolo("data.yaml"), lambda: _YAML),
    "yolo-data": Target(_yolo("obj.data"), lambda: [b"classes = 1\ntrain = images\nnames = 1.names\n"]),
    "yolo-labels": Target(_yolo("labels/1.txt"), lambda: [b"0 0.5 0.5 0.2 0.2\n", b"1.0 0.1 0.1 0.2 0.1 0.2 0.2\n"]),
    "csv": Target(
        _file("train.csv", _csv), lambda: [b"a,b,y\n1,2,3\n4,5,6\n7,8,9\n1,1,1\n", b'1;2;"a b"\n3;4;c\n5;6;d\n7;8;c\n']
    ),
    "idx": Target(_idx("t-idx3-ubyte"), lambda: [bytes([0, 0, 8, 3, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 2, 1, 2, 3, 4])]),
    "idx-gzip": Target(
        _idx("t-idx1-ubyte.gz"), lambda: [gzip.compress(bytes([0, 0, 8, 1, 0, 0, 0, 2, 1, 2]), mtime=0)]
    ),
    "parallel-text": Target(_file("t.tsv", _text), lambda: [b"a b\tb a\nc\td\n"]),
    "names": Target(_names, lambda: [b"cat\ndog\n", b"ant/1.png 0\n./images/ant/1\n"]),
    "vocabulary": Target(
        _file("v.txt", _vocabulary), lambda: [b"<pad>\n<s>\n</s>\n<unk>\na\nb\n", b"p\nq\nr\ns\nword\n"]
    ),
    "manifest": Target(_read_manifest, lambda: [_MANIFEST, _DETECTOR_MANIFEST]),
    "calibration-cache": Target(_calibration_cache, _calibration_table),
    "calibration-set": Target(_file("c.toml", manifest_from_file), lambda: [_CALIBRATION_SET]),
    "report": Target(_file("report.json", layer_times_from_report), _report),
}
"""Every reader of files that users give, by name."""
