"""No reader takes time that grows faster than its file."""

from __future__ import annotations

import gc
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
import safetensors.numpy

from edgekit.data.array_files import arrays_from_file
from edgekit.data.calibration.manifest import manifest_from_file
from edgekit.data.examples import Choice
from edgekit.data.formats.class_lists import class_lists
from edgekit.data.formats.coco_json import coco_from_path
from edgekit.data.formats.csv_table import csv_from_path
from edgekit.data.formats.parallel_text import text_from_path
from edgekit.data.formats.text_lines import file_bytes, names_in
from edgekit.data.formats.voc import voc_from_path
from edgekit.data.formats.xml_tree import element_from_file
from edgekit.data.formats.yolo_text import yolo_from_path
from edgekit.data.formats.yolo_yaml import settings_from_data, settings_from_yaml
from edgekit.data.vocabulary import ids_from_text, text_from_ids
from edgekit.engine.bundle.manifest import read_manifest
from edgekit.errors import DataError, EdgeKitError, nearest
from edgekit.models.cfg.text import read_cfg
from edgekit.models.weights.read import load_weights
from edgekit.quantize.calibrate.collect import CalibrationTable
from edgekit.quantize.calibrate.table import cached_table, keep_table
from edgekit.recipe.schema import recipe_from_file

SMALL, FACTOR = 2_000, 8
# With a quadratic reader, eight times the file take 64 times as long; the rest is what a busy machine does.
LIMIT = 3 * FACTOR
LEAST_S = 0.02

Read = Callable[[Path], object]
KEY = {"graph_digest": "g", "set_digest": "s", "method": "minmax"}


def lines(make: Callable[[int], str], start: str = "", end: str = "") -> Callable[[int], bytes]:
    return lambda count: (start + "".join(map(make, range(count))) + end).encode()


def voc(file: Path) -> object:
    return voc_from_path(file.parent, Choice("train"))


def yolo_labels(file: Path) -> object:
    (file.parent / "labels").mkdir(exist_ok=True)
    (file.parent / "labels" / "1.txt").write_bytes(file.read_bytes())
    return yolo_from_path(file.parent, Choice("train"))


def splits_of_classes(file: Path) -> object:
    (file.parent / "test.txt").write_text("images/1\n")
    return class_lists(file.parent, [file.parent / "images"])


def vocabulary(file: Path) -> object:
    names = names_in(file)
    return text_from_ids(ids_from_text(" ".join(names), names), names)


def cache(file: Path) -> object:
    keep_table(CalibrationTable(set="s", images=1, ranges={}, **KEY), file.parent)
    next((file.parent / "calibration").iterdir()).write_bytes(file.read_bytes())
    return cached_table(file.parent, **KEY)


def tensors(file: Path) -> object:
    from torch import nn

    return load_weights(nn.Linear(1, 1), file)


def arrays(count: int) -> bytes:
    import io

    buffer = io.BytesIO()
    np.savez(buffer, **{f"a{index}": np.zeros(1) for index in range(count // 20)})
    return buffer.getvalue()


def table(count: int) -> bytes:
    return msgspec.json.encode(
        CalibrationTable(set="s", images=1, ranges={f"t{i}": (0, 1) for i in range(count)}, **KEY)
    )


OBJECT = "<object><name>{}</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>4</xmax><ymax>4</ymax></bndbox></object>"
VOC_START = "<annotation><size><width>8</width><height>8</height></size>"
COCO_START = '{"images":[{"id":1,"file_name":"1.png","width":8,"height":8}],'
MANIFEST = '{"format":2,"labels":['

CASES: dict[str, tuple[str, Read, Callable[[int], bytes]]] = {
    "yaml: a list in one line": ("d.yaml", settings_from_yaml, lines("name {}, ".format, "names: [", "x]\n")),
    "yaml: a map in one line": ("d.yaml", settings_from_yaml, lines("{0}: name, ".format, "names: {", "}\n")),
    "yaml: anchors": ("d.yaml", settings_from_yaml, lambda n: b"names: " + b"&a !b " * 10 * n + b"\n- cat\n"),
    "yaml: JSON": ("d.yaml", settings_from_yaml, lambda n: b'{"names": [' + b'"cat", ' * 20 * n + b'"dog"]}'),
    "yaml: quoted names": ("d.yaml", settings_from_yaml, lines("'a''{}', ".format, "names: [", "x]\n")),
    "yaml: escaped quotes": ("d.yaml", settings_from_yaml, lambda n: b'names: ["' + b'\\"' * 20 * n + b"]\n"),
    "yaml: apostrophes": ("d.yaml", settings_from_yaml, lambda n: b"names: x'" + b' "' * 10 * n + b"\n"),
    "yaml: spaces": ("d.yaml", settings_from_yaml, lambda n: b"names: [a" + b" " * 50 * n + b"b]\n"),
    "yaml: a list in many lines": ("d.yaml", settings_from_yaml, lines("- name {}\n".format, "names:\n")),
    "yaml: numbered names": ("d.yaml", settings_from_yaml, lines("  {0}: name {0}\n".format, "names:\n")),
    "yaml: keys": ("d.yaml", settings_from_yaml, lines("key{}: value # no\n".format)),
    "yaml: a list that is not closed": ("d.yaml", settings_from_yaml, lines("- [\n".format, "names: [\n")),
    "data": ("obj.data", settings_from_data, lines("key{} = value\n".format)),
    "names": ("n.txt", names_in, lines("name {}\n".format)),
    "splits of classes": ("train.txt", splits_of_classes, lines("images/1.png {}\n".format)),
    "splits of classes: a path": ("train.txt", splits_of_classes, lambda n: b"images/1\n" + b"a/" * 20 * n),
    "vocabulary": ("n.txt", vocabulary, lines("name{}\n".format)),
    "cfg: sections": ("m.cfg", read_cfg, lines("[convolutional]\nsize={}\n".format, "[net]\n")),
    "cfg: options": ("m.cfg", read_cfg, lines("key{}=1\n".format, "[net]\n")),
    "cfg: a long line": ("m.cfg", read_cfg, lines("1, ".format, "[net]\nanchors=", "1\n")),
    "csv: rows": ("train.csv", lambda f: csv_from_path(f, Choice("train")), lines("{0},1,c{0}\n".format)),
    "csv: columns": ("train.csv", lambda f: csv_from_path(f, Choice("train")), lines("1,".format, "", "2\n" * 2)),
    "csv: quotes": ("train.csv", lambda f: csv_from_path(f, Choice("train")), lines('""'.format, 'a,"', '"\n1,2\n')),
    "text": ("t.tsv", lambda f: text_from_path(f, Choice("train")), lines("a{0} b\tb a{0}\n".format)),
    "coco: boxes": (
        "a.json",
        lambda f: coco_from_path(f, Choice("train")),
        lines(
            '{{"image_id":1,"category_id":1,"bbox":[1,1,2,{}e-9]}},'.format,
            COCO_START + '"categories":[{"id":1,"name":"cat"}],"annotations":[',
            '{"image_id":1,"category_id":1,"bbox":[1,1,2,2]}]}',
        ),
    ),
    "coco: categories": (
        "a.json",
        lambda f: coco_from_path(f, Choice("train")),
        lines(
            '{{"id":{0},"name":"cat {0}"}},'.format,
            COCO_START + '"annotations":[],"categories":[',
            '{"id":-1,"name":"cat"}]}',
        ),
    ),
    "coco: nested": ("a.json", lambda f: coco_from_path(f, Choice("train")), lambda n: b"[" * 50 * n),
    "voc: classes": ("1.xml", voc, lines(OBJECT.format, VOC_START, "</annotation>")),
    "voc: comments": ("1.xml", element_from_file, lines("a<!---->".format, "<a>", "</a>")),
    "voc: texts": ("1.xml", element_from_file, lines("a&#{}1;".format, "<a>", "</a>")),
    "yolo: boxes": ("l.txt", yolo_labels, lines("0 0.5 0.5 0.2 0.{}1\n".format)),
    "yolo: a polygon": ("l.txt", yolo_labels, lines("0.1 0.{}1 ".format, "0 ", "\n")),
    "toml: tables": ("r.toml", recipe_from_file, lines("[a{}]\nb=1\n".format)),
    "toml: a dotted key": ("r.toml", recipe_from_file, lambda n: b"a" + b".a" * 20 * n + b" = 1\n"),
    "toml: nested lists": ("r.toml", recipe_from_file, lambda n: b"a = " + b"[" * 50 * n),
    "toml: a calibration set": (
        "c.toml",
        manifest_from_file,
        lines('[[images]]\nfile="{}"\n'.format, 'title = "t"\n'),
    ),
    "manifest": ("manifest.json", lambda f: read_manifest(f.parent), lines('"label {}",'.format, MANIFEST, '"x"]}')),
    "calibration cache": ("t.json", cache, table),
    "safetensors": (
        "w.safetensors",
        tensors,
        lambda n: safetensors.numpy.save({f"t{i}": np.zeros(1, np.float32) for i in range(n)}),
    ),
    "npz": ("a.npz", arrays_from_file, arrays),
    "an unknown name": ("n.txt", lambda f: nearest("x" * 40, f.read_text().split()), lines("name{}\n".format)),
    "a long unknown name": ("n.txt", lambda f: nearest(f.read_text(), ["a" * 200] * 20), lines("a".format)),
}


def seconds(read: Read, file: Path) -> float:
    times = []
    # The collector looks at all objects of the process, most of which are other tests'.
    gc.disable()
    try:
        for _ in range(3):
            start = time.process_time()
            try:
                read(file)
            except EdgeKitError:
                pass
            times.append(time.process_time() - start)
    finally:
        gc.enable()
    return min(times)


@pytest.mark.parametrize("case", CASES)
def test_a_reader_takes_time_in_proportion_to_its_file(case: str, tmp_path: Path) -> None:
    from PIL import Image

    name, read, make = CASES[case]
    Image.new("RGB", (8, 8)).save(tmp_path / "1.png")
    (tmp_path / "images").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "images" / "1.png")
    file = tmp_path / name
    file.write_bytes(make(SMALL))
    small = seconds(read, file)
    file.write_bytes(make(SMALL * FACTOR))
    assert seconds(read, file) <= LIMIT * max(small, LEAST_S)


def test_a_small_file_takes_little_memory_whatever_the_limit(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b"{}")
    tracemalloc.start()
    try:
        assert file_bytes(tmp_path / "a.json", 4 << 30) == b"{}"
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()
    with pytest.raises(DataError, match="expected at most 1 bytes, got more"):
        file_bytes(tmp_path / "a.json", 1)
