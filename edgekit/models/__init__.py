"""Reference modules, the weights they are given, and where those come from.

Read in this order they are a course, each file with what those before it have shown:

1.  `linear`: one full layer, and least squares. `activations`: why there is something between two layers. `mlp`: two.
2.  `lenet`: convolutions and pools. `alexnet`: the same, a thousand times as large. `vgg`: nothing but 3 x 3.
3.  `blocks` and `nin`: convolutions of size 1, and no full layers at the end.
4.  `classifier_blocks`, with the nets made of them: `googlenet`, `resnet`, `densenet`, `mobilenet_v2`,
    `efficientnet_lite`.
5.  `yolov1`, `yolov2`, `yolov3`: from what is in a picture to where it is. `yolo_head` is how the last two end; what
    their outputs mean is in `edgekit.kernels.decode.reference`.
6.  `attention`, `transformer`, `decoding`, `bert`: sequences.

What remains is no model: `factory` (a recipe's module), `weights` and `darknet` (files of weights and where they come
from), and `cfg` (networks out of Darknet's cfg files).
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
