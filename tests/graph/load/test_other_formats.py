"""Models in other formats than ONNX are named, with the way to an ONNX file; ONNX files may have any suffix."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from edgekit.errors import GraphError
from edgekit.graph.load.onnx_file import graph_from_onnx

PLAIN = b"\xff\xfe no ONNX"


@pytest.mark.parametrize(
    ("name", "content", "got", "hint"),
    [
        ("m.engine", PLAIN, "an engine of TensorRT", "the ONNX file that it was made from"),
        ("m.xml", b"<?xml version='1.0'?><net></net>", "a model of OpenVINO", "the ONNX file that it was made from"),
        ("m.onnx", b"<?xml version='1.0'?><error/>", "a page of HTML or XML", "the download returned a web page"),
        ("m.pb", PLAIN, "a model of TensorFlow or Keras", "convert it with tf2onnx"),
        ("photo.JPG", PLAIN, "an image", "give a model"),
        ("m.keras", b"PK\x03\x04rest", "a model of TensorFlow or Keras", "convert it with tf2onnx"),
        ("m.h5", b"\x89HDF\r\n\x1a\nrest", "a model of TensorFlow or Keras", "convert it with tf2onnx"),
        ("m.tflite", b"\x1c\0\0\0TFL3rest", "a TensorFlow Lite model", "convert it with tf2onnx"),
        ("m.pt2", b"PK\x03\x04rest", "a zip archive, such as PyTorch's .pt", "build it from its module: edgekit.build"),
        ("m.engine", b"\x1f\x8brest", "a gzip archive", "unpack it first"),
        ("m.rknn", PLAIN, "a model for another program", "the ONNX file that it was made from"),
        ("m.pdmodel", PLAIN, "a model of PaddlePaddle", "paddle2onnx"),
        ("m.onnx", PLAIN, "10 bytes that are not ONNX, or a truncated file", "download or export it again"),
    ],
)
def test_another_format_is_named(tmp_path: Path, name: str, content: bytes, got: str, hint: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(GraphError, match=f"expected an ONNX file, got {got}") as error:
        graph_from_onnx(tmp_path / name)
    assert hint in error.value.hint


@pytest.mark.parametrize("name", ["m.pb", "m.bin", "m.engine"])
def test_an_onnx_file_may_have_any_suffix(tmp_path: Path, name: str, write_classifier: Callable[..., Path]) -> None:
    shutil.copy(write_classifier(tmp_path / "m.onnx"), tmp_path / name)
    assert graph_from_onnx(tmp_path / name).graph.inputs
