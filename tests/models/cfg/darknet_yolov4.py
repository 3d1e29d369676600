"""The structures of YOLOv4, YOLOv4-tiny and YOLOv7-tiny as cfg files: arXiv:2004.10934, 2011.08036, 2207.02696."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["yolov4", "yolov4_tiny", "yolov7_tiny"]

V4_ANCHORS = "12,16,19,36,40,28,36,75,76,55,72,146,142,110,192,243,459,401"
TINY_ANCHORS = "10,14,23,27,37,58,81,82,135,169,344,319"
V7_ANCHORS = "10,13,16,30,33,23,30,61,62,45,59,119,116,90,156,198,373,326"


class Cfg:
    """A cfg file that grows by sections."""

    def __init__(self, side: int, width: int, activation: str) -> None:
        self.text = f"[net]\nwidth={side}\nheight={side}\nchannels=3\nmosaic=1\nletter_box=0\n"
        self.width, self.activation = width, activation

    def conv(self, filters: int, size: int, stride: int = 1) -> None:
        filters = filters * self.width // 32
        self.text += f"[convolutional]\nbatch_normalize=1\nfilters={filters}\nsize={size}\nstride={stride}\npad=1\n"
        self.text += f"activation={self.activation}\n"

    def route(self, *layers: int, part: bool = False) -> None:
        self.text += f"[route]\nlayers={','.join(map(str, layers))}\n" + "groups=2\ngroup_id=1\n" * part

    def maxpool(self, size: int, stride: int) -> None:
        self.text += f"[maxpool]\nsize={size}\nstride={stride}\n"

    def yolo(self, classes: int, mask: Sequence[int], anchors: str, scale: float) -> None:
        self.text += f"[convolutional]\nsize=1\nstride=1\npad=1\nfilters={3 * (5 + classes)}\nactivation=linear\n"
        self.text += f"[yolo]\nmask={','.join(map(str, mask))}\nanchors={anchors}\nclasses={classes}\n"
        self.text += f"num={anchors.count(',') // 2 + 1}\nscale_x_y={scale}\niou_loss=ciou\nnms_kind=greedynms\n"
        self.text += "beta_nms=0.6\nmax_delta=5\nresize=1.5\nobjectness_smooth=0\n"


def yolov4(classes: int = 80, side: int = 608, width: int = 32) -> str:
    """CSPDarknet-53 with Mish, spatial pyramid and path aggregation network; the first layer has ``width`` channels."""
    cfg = Cfg(side, width, "mish")
    cfg.conv(32, 3)
    for filters, half, blocks in ((64, 64, 1), (128, 64, 2), (256, 128, 8), (512, 256, 8), (1024, 512, 4)):
        cfg.conv(filters, 3, 2)
        cfg.conv(half, 1)
        cfg.route(-2)
        cfg.conv(half, 1)
        for _ in range(blocks):
            cfg.conv(filters // 2 if blocks == 1 else half, 1)
            cfg.conv(half, 3)
            cfg.text += "[shortcut]\nfrom=-3\nactivation=linear\n"
        cfg.conv(half, 1)
        cfg.route(-1, -(3 * blocks + 4))
        cfg.conv(filters, 1)
    cfg.activation = "leaky"
    for filters, size in ((512, 1), (1024, 3), (512, 1)):
        cfg.conv(filters, size)
    cfg.maxpool(5, 1)
    cfg.route(-2)
    cfg.maxpool(9, 1)
    cfg.route(-4)
    cfg.maxpool(13, 1)
    cfg.route(-1, -3, -5, -6)
    for filters, size in ((512, 1), (1024, 3), (512, 1)):
        cfg.conv(filters, size)
    for filters, lateral in ((256, 85), (128, 54)):
        cfg.conv(filters, 1)
        cfg.text += "[upsample]\nstride=2\n"
        cfg.route(lateral)
        cfg.conv(filters, 1)
        cfg.route(-1, -3)
        for size in (1, 3, 1, 3, 1):
            cfg.conv(filters * (1 + (size == 3)), size)
    cfg.conv(256, 3)
    cfg.yolo(classes, (0, 1, 2), V4_ANCHORS, 1.2)
    for filters, back, mask, scale in ((256, -16, (3, 4, 5), 1.1), (512, -37, (6, 7, 8), 1.05)):
        cfg.route(-4)
        cfg.conv(filters, 3, 2)
        cfg.route(-1, back)
        for size in (1, 3, 1, 3, 1, 3):
            cfg.conv(filters * (1 + (size == 3)), size)
        cfg.yolo(classes, mask, V4_ANCHORS, scale)
    return cfg.text


def yolov4_tiny(classes: int = 80, side: int = 416, width: int = 32) -> str:
    """Three partial stages, whose second part of the channels is convolved, and two heads."""
    cfg = Cfg(side, width, "leaky")
    cfg.conv(32, 3, 2)
    cfg.conv(64, 3, 2)
    for filters in (64, 128, 256):
        cfg.conv(filters, 3)
        cfg.route(-1, part=True)
        cfg.conv(filters // 2, 3)
        cfg.conv(filters // 2, 3)
        cfg.route(-1, -2)
        cfg.conv(filters, 1)
        cfg.route(-6, -1)
        cfg.maxpool(2, 2)
    for filters, size in ((512, 3), (256, 1), (512, 3)):
        cfg.conv(filters, size)
    cfg.yolo(classes, (3, 4, 5), TINY_ANCHORS, 1.05)
    cfg.route(-4)
    cfg.conv(128, 1)
    cfg.text += "[upsample]\nstride=2\n"
    cfg.route(-1, 23)
    cfg.conv(256, 3)
    cfg.yolo(classes, (1, 2, 3), TINY_ANCHORS, 1.05)
    return cfg.text


def yolov7_tiny(classes: int = 80, side: int = 416, width: int = 32) -> str:
    """Aggregation of four branches in each stage, a spatial pyramid, three heads with logistic outputs."""
    cfg = Cfg(side, width, "leaky")

    def aggregate(filters: int) -> None:
        cfg.conv(filters, 1)
        cfg.route(-2)
        cfg.conv(filters, 1)
        cfg.conv(filters, 3)
        cfg.conv(filters, 3)
        cfg.route(-5, -3, -2, -1)
        cfg.conv(2 * filters, 1)

    cfg.conv(32, 3, 2)
    cfg.conv(64, 3, 2)
    aggregate(32)
    for filters in (64, 128, 256):
        cfg.maxpool(2, 2)
        aggregate(filters)
    cfg.conv(256, 1)
    cfg.route(-2)
    cfg.conv(256, 1)
    cfg.maxpool(5, 1)
    cfg.route(-2)
    cfg.maxpool(9, 1)
    cfg.route(-4)
    cfg.maxpool(13, 1)
    cfg.route(-1, -3, -5, -6)
    cfg.conv(256, 1)
    cfg.route(-10, -1)
    cfg.conv(256, 1)
    for filters, lateral in ((128, 24), (64, 16)):
        cfg.conv(filters, 1)
        cfg.text += "[upsample]\nstride=2\n"
        cfg.route(lateral)
        cfg.conv(filters, 1)
        cfg.route(-1, -3)
        aggregate(filters // 2)
    for filters, lateral in ((128, 56), (256, 44)):
        cfg.conv(filters, 3, 2)
        cfg.route(-1, lateral)
        aggregate(filters // 2)
    for place, (source, filters) in enumerate(((68, 128), (77, 256), (86, 512))):
        cfg.route(source)
        cfg.conv(filters, 3)
        cfg.yolo(classes, range(3 * place, 3 * place + 3), V7_ANCHORS, 2.0)
    plain = f"filters={3 * (5 + classes)}\nactivation="
    cfg.text = cfg.text.replace(f"{plain}linear", f"{plain}logistic").replace("nms_kind=greedynms", "nms_kind=diounms")
    return cfg.text.replace("objectness_smooth=0", "objectness_smooth=1\nnew_coords=1")
