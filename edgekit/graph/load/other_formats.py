"""Recognizes models in other formats than ONNX, so that a message can say how to get an ONNX file of them."""

from __future__ import annotations

from pathlib import Path

from edgekit.arguments import either
from edgekit.errors import GraphError

__all__ = ["not_onnx", "require_no_other_format"]

_BUILD_MODULE = "build it from its module: {}"
_TF2ONNX = "convert it with tf2onnx: python -m tf2onnx.convert --help"
_BY_START = (
    (b"PK\x03\x04", "a zip archive, such as PyTorch's .pt", _BUILD_MODULE),
    (b"\x80\x02", "a Python pickle", _BUILD_MODULE),
    (b"version https://git-lfs", "a pointer of Git LFS, not the file itself", "run: git lfs pull"),
    (b"\x1f\x8b", "a gzip archive", "unpack it first"),
    (b"\x89HDF\r\n", "a file of HDF5, such as Keras' .h5", _TF2ONNX),
)
_GIVE_ONNX = "give the ONNX file that it was made from"
# Only for files that are no ONNX: ONNX files may have any suffix, and some are called .pb.
_BY_SUFFIX = {
    (".engine", ".plan", ".trt"): ("an engine of TensorRT", _GIVE_ONNX),
    (".xml", ".bin"): ("a model of OpenVINO", _GIVE_ONNX),
    (".hef", ".rknn", ".dlc", ".mnn", ".param", ".gguf"): ("a model for another program", _GIVE_ONNX),
    (".mlmodel", ".mlpackage"): ("a model of Core ML", _GIVE_ONNX),
    (".pb", ".h5", ".keras", ".tflite"): ("a model of TensorFlow or Keras", _TF2ONNX),
    (".pdmodel", ".pdiparams"): ("a model of PaddlePaddle", "convert it with paddle2onnx"),
    (".jpg", ".jpeg", ".png", ".bmp", ".webp"): ("an image", "give a model; images are for run and --calib"),
    (".caffemodel", ".prototxt"): ("a model of Caffe", _GIVE_ONNX),
}


def require_no_other_format(content: bytes, path: Path) -> None:
    """Raises a `GraphError` if a file begins as one of another format; ``content`` is its beginning."""
    named = _of_suffix(path)
    if content.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        page = "a page of HTML or XML", "the download returned a web page: check its address"
        raise _error(path, *(named or page))  # OpenVINO's models are XML
    for start, what, hint in _BY_START:
        if content.startswith(start):
            # Keras' .keras is a zip archive too.
            raise _error(path, *(named if named and hint in (_BUILD_MODULE, _TF2ONNX) else (what, hint)))
    if content[4:8] == b"TFL3":
        raise _error(path, "a TensorFlow Lite model", _TF2ONNX)


def not_onnx(path: Path, what: str) -> GraphError:
    """Returns the error on a file that is no ONNX: by its suffix the format that it has, else ``what`` it is."""
    named = _of_suffix(path)
    return _error(path, *named) if named else _error(path, what, "download or export it again")


def _of_suffix(path: Path) -> tuple[str, str] | None:
    return next((named for suffixes, named in _BY_SUFFIX.items() if path.suffix.lower() in suffixes), None)


def _error(path: Path, what: str, hint: str) -> GraphError:
    module = either("edgekit build package.module:factory", "edgekit.build(module)")
    return GraphError(f"{path}: expected an ONNX file, got {what}", hint=hint.format(module))
