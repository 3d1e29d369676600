"""Which parser of DeepStream, or of DeepStream-Yolo, reads the outputs of a detector.

nvinfer calls a C++ function with the output tensors (``parse-bbox-func-name`` in a ``custom-lib-path``). The functions
here were read in the sources of their libraries:

- ``NvDsInferParseYolo``: nvdsparsebbox_Yolo.cpp of github.com/marcoslucianops/DeepStream-Yolo, which its exporters
  prepare models for: one output of rows ``x1 y1 x2 y2 score class``;
- ``NvDsInferParseCustomBatchedNMSTLT``: nvdsinfer_custombboxparser.cpp of DeepStream (libnvds_infercustomparser.so);
- ``NvDsInferParseCustomDDETRTAO`` and ``NvDsInferClassiferParseNonSoftmax``: the library of
  github.com/NVIDIA-AI-IOT/deepstream_tao_apps (libnvds_infercustomparser_tao.so);
- ``NvDsInferParseCustomYoloV7``: nvdsparsebbox_Yolo.cpp of github.com/NVIDIA-AI-IOT/yolo_deepstream, for 80 classes.
"""

from __future__ import annotations

from typing import NamedTuple

from edgekit.engine.bundle.manifest import Manifest
from edgekit.recipe.heads import BoxesScoresLabels, CellHeads, Detr, EfficientNms, End2End, Head, YoloV5, outputs_of
from edgekit.specs import TensorSpec

__all__ = ["CLASSIFIER", "NO_CLUSTERS", "NMS", "Parser", "parser_of"]

NMS, NO_CLUSTERS = 2, 4
"""Values of ``cluster-mode``."""

TAO = "/opt/nvidia/deepstream/deepstream/lib/libnvds_infercustomparser_tao.so"
STOCK = "/opt/nvidia/deepstream/deepstream/lib/libnvds_infercustomparser.so"
YOLO = "nvdsinfer_custom_impl_Yolo/libnvdsinfer_custom_impl_Yolo.so"


class Parser(NamedTuple):
    """A function that turns outputs into objects.

    Attributes:
        function: its name.
        library: path of its library; a relative one is relative to the configuration.
        project: where the library comes from.
        cluster_mode: how nvinfer suppresses its boxes.
        background: it takes the first class for the background, which labels and number of classes include.
        note: in what its results differ from those of EdgeKit; empty if they do not.
    """

    function: str
    library: str
    project: str
    cluster_mode: int = NO_CLUSTERS
    background: bool = False
    note: str = ""


CLASSIFIER = Parser("NvDsInferClassiferParseNonSoftmax", TAO, "github.com/NVIDIA-AI-IOT/deepstream_tao_apps")
"""Reads logits, as EdgeKit's classifiers return them; the parser that is built into nvinfer reads probabilities."""

_DEEPSTREAM_YOLO = Parser("NvDsInferParseYolo", YOLO, "github.com/marcoslucianops/DeepStream-Yolo")
_BATCHED_NMS = Parser("NvDsInferParseCustomBatchedNMSTLT", STOCK, "DeepStream itself")
_DETR = Parser("NvDsInferParseCustomDDETRTAO", TAO, "github.com/NVIDIA-AI-IOT/deepstream_tao_apps", background=True)
_YOLOV7 = Parser(
    "NvDsInferParseCustomYoloV7",
    YOLO,
    "github.com/NVIDIA-AI-IOT/yolo_deepstream",
    NMS,
    note="its score is the objectness alone, without the probability of the class",
)

_YOLOV7_CLASSES = 80
_TAO_OUTPUTS = ("pred_boxes", "pred_logits")


def parser_of(head: Head, manifest: Manifest, classes: int) -> Parser | str:
    """Returns the parser that reads a detector's outputs, or why there is none.

    Args:
        head: the detector's family.
        manifest: the manifest, with types and order of the outputs.
        classes: number of classes, without a background.
    """
    outputs = manifest.outputs
    if isinstance(head, EfficientNms):
        return _of_nms(head, outputs)
    if others := [spec for spec in outputs if spec.dtype != "float32"]:
        return f"parsers read float32, and the output '{others[0].name}' is {others[0].dtype}"
    if isinstance(head, End2End):
        return _of_rows(head, outputs)
    if isinstance(head, Detr):
        return _of_queries(head)
    if isinstance(head, YoloV5):
        return _of_yolov5(head, outputs, classes)
    if isinstance(head, CellHeads):
        return "no parser decodes raw feature maps: DeepStream-Yolo builds such networks from the cfg file itself"
    if isinstance(head, BoxesScoresLabels):
        return "DeepStream-Yolo's parser reads boxes, scores and classes from one output"
    return "no parser reads this layout; DeepStream-Yolo's needs a model that its own exporter wrote"


def _of_nms(head: EfficientNms, outputs: tuple[TensorSpec, ...]) -> Parser | str:
    order = (head.count, head.boxes, head.scores, head.classes)
    types = ("int32", "float32", "float32", "float32")
    if tuple((spec.name, spec.dtype) for spec in outputs) != tuple(zip(order, types, strict=True)):
        return f"{_BATCHED_NMS.function} reads count (int32), boxes, scores and classes (float32), in this order"
    if head.coordinates != "normalized":
        return f"{_BATCHED_NMS.function} reads boxes from 0 to 1, and these are in px"
    return _BATCHED_NMS


def _of_rows(head: End2End, outputs: tuple[TensorSpec, ...]) -> Parser | str:
    if head.extras or head.angle or len(outputs) != 1:
        return f"{_DEEPSTREAM_YOLO.function} reads rows of x1 y1 x2 y2 score class from the only output"
    return _DEEPSTREAM_YOLO


def _of_queries(head: Detr) -> Parser | str:
    if (head.boxes, head.logits) != _TAO_OUTPUTS:
        return f"{_DETR.function} finds the outputs {' and '.join(_TAO_OUTPUTS)} by name, and these are {_names(head)}"
    if head.activation != "sigmoid" or head.background != "first":
        return f"{_DETR.function} applies a sigmoid, and takes the first class for the background"
    return _DETR


def _of_yolov5(head: YoloV5, outputs: tuple[TensorSpec, ...], classes: int) -> Parser | str:
    if head.extras or head.activation != "none" or len(outputs) != 1 or classes != _YOLOV7_CLASSES:
        return f"{_YOLOV7.function} reads {_YOLOV7_CLASSES} classes, already decoded, from the only output"
    return _YOLOV7


def _names(head: Head) -> str:
    return " and ".join(outputs_of(head))
