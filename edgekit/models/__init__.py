"""Reference modules and their weights.

The files form a course; each builds on the earlier ones:

1.  `linear`: one fully connected layer, and least squares. `activations`: nonlinearities. `mlp`: several layers.
2.  `lenet`: convolution and pooling. `alexnet`: the same at a thousand times the size. `vgg`: only 3 x 3 convolutions.
3.  `blocks` and `nin`: 1 x 1 convolutions, and no fully connected layers at the end.
4.  `classifier_blocks` and the networks built from them: `googlenet`, `resnet`, `densenet`, `mobilenet_v2`,
    `efficientnet_lite`.
5.  `yolov1`, `yolov2`, `yolov3`: object detection. `yolo_head` is the last layer of YOLOv2 and YOLOv3; the output
    format is in `edgekit.kernels.decode.reference`.
6.  `attention`, `transformer`, `decoding`, `bert`: sequences.

The other modules contain no models: `factory` (modules from recipes), `weights` and `darknet` (weight files and their
download), and `cfg` (networks from Darknet cfg files).
"""

from __future__ import annotations

__all__ = ["COURSE"]

COURSE = (
    *("linear", "activations", "mlp"),
    *("lenet", "alexnet", "vgg"),
    *("blocks", "nin"),
    *("classifier_blocks", "googlenet", "resnet", "densenet", "mobilenet_v2", "efficientnet_lite"),
    *("yolov1", "yolov2", "yolov3", "yolo_head"),
    *("attention", "transformer", "decoding", "bert"),
)
"""Modules of this package in the order of the course; `edgekit models --course` lists them."""
