"""The sections that decode: ``[yolo]``, ``[region]`` and ``[detection]``, and what the layer before each must give."""

from __future__ import annotations

from edgekit.models.cfg.layers import Head, Layer, Network, Reader, Shape

__all__ = ["check_heads", "detection", "region", "yolo"]


def check_heads(network: Network) -> None:
    """Checks that heads go together, and that the last layer is one.

    Raises:
        RecipeError: they do not: names the line of the one that differs from the first.
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
            raise head.section.error(f"expected one [detection], got another in line {first.section.line}")
    if (last := network.layers[-1]).kind != first.section.name:
        raise last.section.error("expected nothing after the last head, got a layer that nothing reads")


def yolo(read: Reader) -> Layer:
    """A head of YOLOv3: those of its anchors that ``mask`` chooses, in px."""
    read.options(*"anchors classes mask num nms_kind beta_nms".split(), only={"scale_x_y": 1.0, "new_coords": 0.0})
    if (kind := read.section.text("nms_kind", "default")) not in ("default", "greedynms"):
        raise read.section.error(f"only greedynms is taken, got '{kind}'", "nms_kind")
    pairs = _anchors(read)
    chosen = read.section.integers("mask", least=0) or list(range(len(pairs)))
    for number in chosen:
        if number >= len(pairs):
            raise read.section.error(f"expected numbers of its {len(pairs)} anchors, from 0 on, got {number}", "mask")
    return _anchored(read, [pairs[number] for number in chosen], in_cells=False)


def region(read: Reader) -> Layer:
    """The head of YOLOv2: anchors in cells, a softmax over the classes."""
    read.options("anchors", "classes", "num", only={"coords": 4.0, "softmax": 1.0, "background": 0.0, "classfix": 0.0})
    if "softmax" not in read.section.options:
        raise read.section.error("expected softmax=1, got none")
    return _anchored(read, _anchors(read), in_cells=True)


def _raw(read: Reader) -> Shape:
    """Shape of what the head decodes."""
    if not read.network.layers:
        raise read.section.error("expected layers before it, got none")
    return read.before


def _anchors(read: Reader) -> list[tuple[float, float]]:
    sides = read.section.numbers("anchors")
    count = read.positive("num", 1)
    if len(sides) != 2 * count:
        raise read.section.error(
            f"expected {2 * count} numbers, two for each of num={count}, got {len(sides)}", "anchors"
        )
    if min(sides) <= 0:
        raise read.section.error(f"expected widths and heights > 0, got {min(sides):g}", "anchors")
    return list(zip(sides[::2], sides[1::2], strict=True))


def _anchored(read: Reader, anchors: list[tuple[float, float]], *, in_cells: bool) -> Layer:
    before, classes = _raw(read), read.positive("classes", 20)
    expected = len(anchors) * (5 + classes)
    if before.channels != expected:
        raise read.section.error(
            f"expected {expected} channels, {len(anchors)} anchors * (5 + {classes} classes), from the layer before "
            f"it, got {before.channels}",
            hint=_hint(read, "convolutional", "filters", expected),
        )
    stride = _stride(read, before.height, before.width)
    unit = stride if in_cells else 1
    pixels = tuple((float(f"{unit * w:.9g}"), float(f"{unit * h:.9g}")) for w, h in anchors)
    return _head(read, before, read.index - 1, stride=stride, anchors=pixels, boxes=0, classes=classes)


def detection(read: Reader) -> Layer:
    """The head of YOLOv1: cells of ``num`` boxes each and no anchors."""
    read.options("classes", "num", "side", only={"coords": 4.0, "softmax": 0.0, "sqrt": 1.0, "reorg": 0.0})
    for key in ("coords", "sqrt"):
        if key not in read.section.options:
            raise read.section.error(f"expected {key}={4 if key == 'coords' else 1}, got none")
    classes, boxes, side = read.positive("classes", 1), read.positive("num", 1), read.positive("side", 7)
    expected = side * side * (classes + 5 * boxes)
    if (got := _raw(read).numbers) != expected:
        raise read.section.error(
            f"expected {expected} numbers, {side} * {side} * ({classes} classes + 5 * {boxes}), from the layer before "
            f"it, got {got}",
            hint=_hint(read, "connected", "output", expected),
        )
    stride = _stride(read, side, side)
    shape = Shape(classes + 5 * boxes, side, side)
    return _head(read, shape, read.index, stride=stride, anchors=(), boxes=boxes, classes=classes)


def _head(
    read: Reader,
    shape: Shape,
    output: int,
    *,
    stride: int,
    anchors: tuple[tuple[float, float], ...],
    boxes: int,
    classes: int,
) -> Layer:
    read.network.heads.append(
        Head(
            section=read.section,
            output=output,
            predicts=read.index - 1,
            stride=stride,
            anchors=anchors,
            boxes=boxes,
            classes=classes,
        )
    )
    return read.layer(shape, boxes=boxes)


def _stride(read: Reader, rows: int, columns: int) -> int:
    """Px that a cell covers."""
    picture = read.network.picture
    stride = picture.height // rows
    if (stride * rows, stride * columns) != picture[1:]:
        raise read.section.error(
            f"expected an input of square cells of whole pixels, got {picture.height}x{picture.width} px for "
            f"{rows}x{columns} cells"
        )
    return stride


def _hint(read: Reader, kind: str, key: str, number: int) -> str:
    """How the layer before a head comes to give so many numbers."""
    section = read.network.layers[-1].section
    if section.name != kind:
        return f"put a [{kind}] with {key}={number} and activation=linear before it"
    if key in section.options:
        return f"write {key}={number} in line {section.options[key].line}"
    return f"write {key}={number} below line {section.line}"
