"""Parsers of the detection sections ``[yolo]``, ``[region]`` and ``[detection]``, and checks of their inputs."""

from __future__ import annotations

from edgekit.models.cfg.layers import Head, Layer, Network, Reader, Shape

__all__ = ["NMS_KINDS", "check_heads", "detection", "region", "yolo"]

NMS_KINDS = ("greedynms", "diounms")
"""Values of ``nms_kind`` that are accepted: suppression by IoU, or by DIoU."""

LARGEST_BETA = 100.0
"""Largest ``beta_nms``; that of published networks is 0.6."""

LARGEST_SCALE = 100.0
"""Largest ``scale_x_y``; that of published networks is at most 2."""


def check_heads(network: Network) -> None:
    """Checks that the heads are compatible, and that the last layer is a head.

    Raises:
        RecipeError: a check failed; names the line of the head that differs from the first.
    """
    if not network.heads:
        return
    first = network.heads[0]
    for head in network.heads[1:]:
        for what, expected, got in (
            ("kind of head", f"[{first.section.name}]", f"[{head.section.name}]"),
            ("number of classes", first.classes, head.classes),
            ("number of anchors", len(first.anchors), len(head.anchors)),
        ):
            if expected != got:
                raise head.section.error(
                    f"expected the same {what} as in line {first.section.line}, {expected}, got {got}"
                )
        if not head.anchors:
            raise head.section.error(f"expected only one [detection], got another in line {first.section.line}")
    if (last := network.layers[-1]).kind != first.section.name:
        raise last.section.error("expected nothing after the last head, got an unused layer")


def yolo(read: Reader) -> Layer:
    """Parses a head of YOLOv3, v4 or v7; ``mask`` selects its anchors, in px."""
    read.options(*"anchors classes mask num nms_kind beta_nms scale_x_y new_coords".split())
    if (kind := read.section.text("nms_kind", "default")) not in ("default", *NMS_KINDS):
        raise read.section.error(f"expected one of {', '.join(NMS_KINDS)}, got '{kind}'", "nms_kind")
    betas = read.section.numbers("beta_nms")
    if betas and not (len(betas) == 1 and 0 < betas[0] <= LARGEST_BETA):
        raise read.section.error(f"expected a number above 0 and up to {LARGEST_BETA:g}, got {betas[0]:g}", "beta_nms")
    scales = read.section.numbers("scale_x_y") or [1.0]
    if len(scales) != 1 or not 0 < scales[0] <= LARGEST_SCALE:
        raise read.section.error(
            f"expected a number above 0 and up to {LARGEST_SCALE:g}, got {scales[0]:g}", "scale_x_y"
        )
    if (new_coords := read.section.integer("new_coords", 0)) not in (0, 1):
        raise read.section.error(f"expected 0 or 1, got {new_coords}", "new_coords")
    pairs = _anchors(read)
    chosen = read.section.integers("mask", minimum=0) or list(range(len(pairs)))
    for number in chosen:
        if number >= len(pairs):
            raise read.section.error(f"expected anchor indices from 0 to {len(pairs) - 1}, got {number}", "mask")
    anchors = [pairs[number] for number in chosen]
    return _anchored(read, anchors, in_cells=False, scale_xy=scales[0], new_coords=new_coords == 1)


def region(read: Reader) -> Layer:
    """Parses a YOLOv2 head: anchors in cells, a softmax over the classes."""
    read.options("anchors", "classes", "num", only={"coords": 4.0, "softmax": 1.0, "background": 0.0, "classfix": 0.0})
    if "softmax" not in read.section.options:
        raise read.section.error("expected softmax=1, got none")
    return _anchored(read, _anchors(read), in_cells=True)


def _raw(read: Reader) -> Shape:
    """Returns the shape of the raw output that the head decodes."""
    if not read.network.layers:
        raise read.section.error("expected a layer before it, got none")
    return read.before


def _anchors(read: Reader) -> list[tuple[float, float]]:
    sides = read.section.numbers("anchors")
    count = read.positive("num", 1)
    if len(sides) != 2 * count:
        raise read.section.error(
            f"expected {2 * count} numbers, two per anchor with num={count}, got {len(sides)}", "anchors"
        )
    if min(sides) <= 0:
        raise read.section.error(f"expected widths and heights > 0, got {min(sides):g}", "anchors")
    return list(zip(sides[::2], sides[1::2], strict=True))


def _anchored(
    read: Reader,
    anchors: list[tuple[float, float]],
    *,
    in_cells: bool,
    scale_xy: float = 1.0,
    new_coords: bool = False,
) -> Layer:
    before, classes = _raw(read), read.positive("classes", 20)
    expected = len(anchors) * (5 + classes)
    if before.channels != expected:
        raise read.section.error(
            f"expected {expected} channels, {len(anchors)} anchors * (5 + {classes} classes), from the previous "
            f"layer, got {before.channels}",
            hint=_hint(read, "convolutional", "filters", expected),
        )
    stride = _stride(read, before.height, before.width)
    unit = stride if in_cells else 1
    pixels = tuple((float(f"{unit * w:.9g}"), float(f"{unit * h:.9g}")) for w, h in anchors)
    head = Head(
        section=read.section,
        output=read.index - 1,
        predicts=read.index - 1,
        stride=stride,
        anchors=pixels,
        boxes=0,
        classes=classes,
        scale_xy=scale_xy,
        new_coords=new_coords,
    )
    read.network.heads.append(head)
    return read.layer(before)


def detection(read: Reader) -> Layer:
    """Parses a YOLOv1 head: ``num`` boxes per cell, no anchors."""
    read.options("classes", "num", "side", only={"coords": 4.0, "softmax": 0.0, "sqrt": 1.0, "reorg": 0.0})
    for key in ("coords", "sqrt"):
        if key not in read.section.options:
            raise read.section.error(f"expected {key}={4 if key == 'coords' else 1}, got none")
    classes, boxes, side = read.positive("classes", 1), read.positive("num", 1), read.positive("side", 7)
    expected = side * side * (classes + 5 * boxes)
    if (got := _raw(read).numbers) != expected:
        raise read.section.error(
            f"expected {expected} values, {side} * {side} * ({classes} classes + 5 * {boxes}), from the previous "
            f"layer, got {got}",
            hint=_hint(read, "connected", "output", expected),
        )
    stride = _stride(read, side, side)
    shape = Shape(classes + 5 * boxes, side, side)
    head = Head(
        section=read.section,
        output=read.index,
        predicts=read.index - 1,
        stride=stride,
        anchors=(),
        boxes=boxes,
        classes=classes,
    )
    read.network.heads.append(head)
    return read.layer(shape, boxes=boxes)


def _stride(read: Reader, rows: int, columns: int) -> int:
    """Computes the side of a cell in px."""
    image = read.network.image
    stride = image.height // rows
    if (stride * rows, stride * columns) != image[1:]:
        raise read.section.error(
            f"expected square cells with a whole number of px, got an input of {image.height}x{image.width} px with "
            f"{rows}x{columns} cells"
        )
    return stride


def _hint(read: Reader, kind: str, key: str, number: int) -> str:
    """Returns a hint on how to change the previous layer's output size."""
    section = read.network.layers[-1].section
    if section.name != kind:
        return f"add a [{kind}] with {key}={number} and activation=linear before it"
    if key in section.options:
        return f"set {key}={number} in line {section.options[key].line}"
    return f"add {key}={number} after line {section.line}"
