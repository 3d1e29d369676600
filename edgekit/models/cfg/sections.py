"""Builds a network from the sections of a cfg file, with the default values of Darknet's ``parser.c``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edgekit.errors import nearest
from edgekit.models.cfg.heads import check_heads, detection, region, yolo
from edgekit.models.cfg.layers import NET, NET_ONLY, NET_TRAINING, TRAINING, Layer, Network, Reader, Shape
from edgekit.models.cfg.text import Section, read_cfg

__all__ = ["network_from_cfg"]

MAX_PARAMETERS = 2**31 - 1
"""More than any Darknet network has; a larger number is a typing error."""


def network_from_cfg(path: Path, size: tuple[int, int] | None = None) -> Network:
    """Reads a cfg file and checks that its layers fit together.

    Args:
        path: the file.
        size: height and width of the input; default: the file's.

    Raises:
        RecipeError: the file cannot be read, is not supported, or its layers do not fit together; names the line.
    """
    sections = read_cfg(path)
    net = sections[0]
    net.known({*NET, *NET_ONLY, *NET_TRAINING})
    net.only(NET_ONLY)
    height, width = size or (net.integer("height", 0, minimum=1), net.integer("width", 0, minimum=1))
    image = Shape(net.integer("channels", 0, minimum=1), height, width)
    if (inputs := net.integer("inputs", image.numbers)) != image.numbers and size is None:
        raise net.error(f"expected {image.numbers}, the values of an image of {image}, got {inputs}", "inputs")
    network = Network(path, image, letter_box=_letter_box(net))
    if len(sections) == 1:
        raise net.error("expected layers after it, got none")
    for section in sections[1:]:
        if section.name not in _READERS:
            raise section.error("unsupported layer", hint=nearest(section.name, _READERS))
        network.layers.append(_READERS[section.name](Reader(network, section)))
        if network.parameters > MAX_PARAMETERS:
            raise section.error(f"expected at most {MAX_PARAMETERS} parameters in total, got {network.parameters}")
    check_heads(network)
    return network


def _letter_box(net: Section) -> bool | None:
    """Returns whether images keep their aspect ratio; None if the file does not say."""
    if "letter_box" not in net.options:
        return None
    value = net.integer("letter_box", 0)
    if value > 1:
        raise net.error(f"expected 0 or 1, got {value}", "letter_box")
    return value == 1


def _convolutional(read: Reader) -> Layer:
    only = {"flipped": 0.0, "binary": 0.0, "xnor": 0.0, "dilation": 1.0, "antialiasing": 0.0, "dontload": 0.0}
    keys = "filters size stride pad padding groups batch_normalize activation"
    read.options(*keys.split(), only={**only, "dontloadscales": 0.0})
    section, before = read.section, read.before
    filters, size, stride = (read.positive(key, 1) for key in ("filters", "size", "stride"))
    padding = size // 2 if section.integer("pad", 0) else section.integer("padding", 0)
    groups, norm = read.positive("groups", 1), section.integer("batch_normalize", 0) > 0
    for what, channels in (("channels", before.channels), ("filters", filters)):
        if channels % groups:
            raise section.error(f"expected a divisor of its {channels} {what}, got {groups}", "groups")
    height, width = ((side + 2 * padding - size) // stride + 1 for side in before[1:])
    return read.layer(
        Shape(filters, height, width),
        parameters=filters * (before.channels // groups) * size * size + (2 if norm else 1) * filters,
        activation=read.activation("logistic"),
        filters=filters,
        size=size,
        stride=stride,
        padding=padding,
        groups=groups,
        norm=norm,
    )


def _local(read: Reader) -> Layer:
    read.options("filters", "size", "stride", "pad", "activation")
    before = read.before
    filters, size, stride = (read.positive(key, 1) for key in ("filters", "size", "stride"))
    padding = read.section.integer("pad", 0)
    if padding and (padding, size) != (1, 3):
        # Darknet pads by this number, but computes the output size as if it were half of the kernel.
        raise read.section.error(f"expected 0, or 1 with size=3, got {padding} with size={size}", "pad")
    height, width = ((side + 2 * padding - size) // stride + 1 for side in before[1:])
    positions = max(height, 0) * max(width, 0)
    return read.layer(
        Shape(filters, height, width),
        parameters=positions * filters * (before.channels * size * size + 1),
        activation=read.activation("logistic"),
        filters=filters,
        size=size,
        stride=stride,
        padding=padding,
    )


def _connected(read: Reader) -> Layer:
    read.options("output", "batch_normalize", "activation", only={"dontload": 0.0, "dontloadscales": 0.0})
    filters, norm = read.positive("output", 1), read.section.integer("batch_normalize", 0) > 0
    return read.layer(
        Shape(filters, 1, 1),
        parameters=filters * (read.before.numbers + (2 if norm else 1)),
        activation=read.activation("logistic"),
        filters=filters,
        norm=norm,
    )


def _maxpool(read: Reader) -> Layer:
    read.options("size", "stride", "padding", only={"maxpool_depth": 0.0, "antialiasing": 0.0})
    before, stride = read.before, read.positive("stride", 1)
    size = read.positive("size", stride)
    padding = read.section.integer("padding", size - 1)
    if padding > 2 * (size - 1):
        raise read.section.error(f"expected at most {2 * (size - 1)} with size={size}, got {padding}", "padding")
    height, width = ((side + padding - size) // stride + 1 for side in before[1:])
    return read.layer(Shape(before.channels, height, width), size=size, stride=stride, padding=padding)


def _avgpool(read: Reader) -> Layer:
    read.options()
    return read.layer(Shape(read.before.channels, 1, 1))


def _softmax(read: Reader) -> Layer:
    read.options(only={"groups": 1.0, "temperature": 1.0, "spatial": 0.0, "noloss": 0.0})
    if read.before[1:] != (1, 1):
        raise read.section.error(f"expected an input with one row and one column, got {read.before}")
    return read.layer(read.before)


def _activation(read: Reader) -> Layer:
    read.options("activation")
    return read.layer(read.before, activation=read.activation("linear"))


def _same(read: Reader) -> Layer:
    read.section.known({*TRAINING, "type", "scale", "dropblock", "dropblock_size_rel", "dropblock_size_abs"})
    return read.layer(read.before)


def _crop(read: Reader) -> Layer:
    read.options("crop_width", "crop_height", "noadjust")
    before = read.before
    height, width = read.positive("crop_height", 1), read.positive("crop_width", 1)
    if height > before.height or width > before.width:
        raise read.section.error(f"expected at most {before.height}x{before.width}, got {height}x{width}")
    return read.layer(Shape(before.channels, height, width), adjust=not read.section.integer("noadjust", 0))


def _route(read: Reader) -> Layer:
    read.options("layers", "groups", "group_id")
    numbers = read.section.integers("layers")
    if not numbers:
        raise read.section.error("expected layers=, the layers to concatenate")
    sources = tuple(read.resolve("layers", number) for number in numbers)
    shapes = [read.shape_of(source) for source in sources]
    for number, shape in zip(numbers, shapes, strict=True):
        if shape[1:] != shapes[0][1:]:
            raise read.section.error(
                f"expected layers of equal size, got {shapes[0]} from {numbers[0]} and {shape} from {number}",
                "layers",
            )
    groups, group = read.positive("groups", 1), read.section.integer("group_id", 0, minimum=0)
    if group >= groups:
        raise read.section.error(f"expected at most {groups - 1} with groups={groups}, got {group}", "group_id")
    for number, shape in zip(numbers, shapes, strict=True):
        if shape.channels % groups:
            raise read.section.error(
                f"expected a divisor of the {shape.channels} channels of {number}, got {groups}", "groups"
            )
    channels = sum(shape.channels // groups for shape in shapes)
    return read.layer(Shape(channels, *shapes[0][1:]), sources=sources, groups=groups, group=group)


def _shortcut(read: Reader) -> Layer:
    read.options("from", "activation", only={"alpha": 1.0, "beta": 0.0})
    if len(numbers := read.section.integers("from")) != 1:
        raise read.section.error(f"expected from= with one layer, got {len(numbers)}", "from")
    before, source = read.before, read.resolve("from", numbers[0])
    if (added := read.shape_of(source)) != before:
        raise read.section.error(
            f"expected two layers of the same shape, got {before} and, from {numbers[0]}, {added}", "from"
        )
    return read.layer(before, sources=(read.index - 1, source), activation=read.activation("linear"))


def _upsample(read: Reader) -> Layer:
    read.options("stride", only={"scale": 1.0})
    before, stride = read.before, read.positive("stride", 2)
    return read.layer(Shape(before.channels, before.height * stride, before.width * stride), stride=stride)


def _reorg(read: Reader) -> Layer:
    read.options("stride", only={"reverse": 0.0, "flatten": 0.0, "extra": 0.0})
    before, stride = read.before, read.positive("stride", 1)
    if before.height % stride or before.width % stride or before.channels % stride**2:
        raise read.section.error(
            f"expected multiples of the stride as height and width, and of its square as channels, got {before}",
            "stride",
        )
    shape = Shape(before.channels * stride**2, before.height // stride, before.width // stride)
    return read.layer(shape, stride=stride)


_READERS: dict[str, Callable[[Reader], Layer]] = {
    "activation": _activation,
    "avgpool": _avgpool,
    "connected": _connected,
    "convolutional": _convolutional,
    "cost": _same,
    "crop": _crop,
    "detection": detection,
    "dropout": _same,
    "local": _local,
    "maxpool": _maxpool,
    "region": region,
    "reorg": _reorg,
    "route": _route,
    "shortcut": _shortcut,
    "softmax": _softmax,
    "upsample": _upsample,
    "yolo": yolo,
}
