"""Adds one operator each to a graph in the making; each function returns False where it does not fit."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import TensorProto

from tools.fuzz_graphs.graphs import FLOATS, GraphMaker, Tensor

__all__ = ["ADDERS"]

UNARY = {
    "Relu": 7, "Sigmoid": 7, "Tanh": 7, "LeakyRelu": 7, "Elu": 7, "Selu": 7, "Softplus": 7, "Softsign": 7,
    "HardSigmoid": 7, "HardSwish": 14, "Mish": 18, "Gelu": 20, "Abs": 7, "Neg": 7, "Erf": 9, "Identity": 7,
    "Dropout": 7, "Celu": 12, "ThresholdedRelu": 10, "Swish": 24,
}  # fmt: skip
"""Functions of one number without steps, and the opset that introduced each."""

STEPS = {"Floor": 7, "Ceil": 7, "Round": 11, "Sign": 9}
REDUCTIONS = ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceSumSquare")


def _unary(made: GraphMaker) -> bool:
    value = made.pick()
    known = [name for name, since in UNARY.items() if since <= made.opset]
    return value is not None and made.add(made.choose.choice(known), [value.name]) is not None


def _step(made: GraphMaker) -> bool:
    value = made.pick(exact=True)
    known = [name for name, since in STEPS.items() if since <= made.opset]
    return value is not None and made.add(made.choose.choice(known), [value.name], exact=True) is not None


def _clip(made: GraphMaker) -> bool:
    value = made.pick()
    if value is None:
        return False
    lo, hi = made.choose.choice([(0.0, 6.0), (-1.0, 1.0), (-0.25, 0.5)])
    if made.opset < 11:
        return made.add("Clip", [value.name], min=lo, max=hi) is not None
    limits = [made.constant(np.array(limit, FLOATS[value.dtype])) for limit in (lo, hi)]
    kept = made.choose.choice([limits, limits[:1], ["", limits[1]]])
    return made.add("Clip", [value.name, *kept]) is not None


def _binary(made: GraphMaker) -> bool:
    left = made.pick()
    if left is None:
        return False
    operator = made.choose.choice(["Add", "Sub", "Mul", "Max", "Min", "Div"])
    same = [value for value in made.values if value.dtype == left.dtype and value is not left and value.rank]
    if operator != "Div" and same and made.choose.random() < 0.6:
        return made.add(operator, [left.name, made.choose.choice(same).name]) is not None
    shape = [size if made.choose.random() < 0.5 else 1 for size in left.shape][made.choose.randint(0, left.rank) :]
    array = np.random.default_rng(made.choose.randrange(2**32)).uniform(0.5, 1.5, shape)
    constant = made.constant(array.astype(FLOATS[left.dtype]))
    names = [left.name, constant]
    if operator not in ("Div",) and made.choose.random() < 0.3:
        names.reverse()
    return made.add(operator, names) is not None


def _window(made: GraphMaker, value: Tensor, *, dilate: bool = True) -> dict[str, object]:
    """Returns the attributes of a window that slides over all axes but the first two."""
    choose, axes = made.choose, value.rank - 2
    # ONNX does not define a window that is larger than its image.
    kernel = [min(choose.choice([1, 2, 3, 3]), size) for size in value.shape[2:]]
    found: dict[str, object] = {"kernel_shape": kernel}
    if choose.random() < 0.5:
        found["strides"] = [choose.choice([1, 2, 3]) for _ in range(axes)]
    if dilate and choose.random() < 0.2:
        found["dilations"] = [choose.choice([1, 2]) for _ in range(axes)]
    if choose.random() < 0.2:
        found["auto_pad"] = choose.choice(["SAME_UPPER", "SAME_LOWER", "VALID"])
        found.pop("dilations", None)
    elif choose.random() < 0.6:
        found["pads"] = [choose.randint(0, size // 2) for size in (*kernel, *kernel)]
    return found


def _spatial(made: GraphMaker) -> Tensor | None:
    value = made.pick(least_rank=3)
    return value if value is not None and value.rank <= 5 else None


def _conv(made: GraphMaker) -> bool:
    value = _spatial(made)
    if value is None:
        return False
    window = _window(made, value)
    channels, kernel = value.shape[1], window["kernel_shape"]
    assert isinstance(kernel, list)
    groups = made.choose.choice([group for group in (1, 1, 1, 2, channels) if channels % group == 0])
    outputs = groups * made.choose.choice([1, 2, 4])
    transposed = made.choose.random() < 0.2 and "auto_pad" not in window
    shape = (channels, outputs // groups) if transposed else (outputs, channels // groups)
    names = [value.name, made.weight(*shape, *kernel)]
    if made.choose.random() < 0.6:
        names.append(made.weight(outputs, scale=0.2))
    return made.add("ConvTranspose" if transposed else "Conv", names, group=groups, **window) is not None


def _pool(made: GraphMaker) -> bool:
    value = _spatial(made)
    if value is None:
        return False
    if made.choose.random() < 0.25:
        return made.add(made.choose.choice(["GlobalAveragePool", "GlobalMaxPool"]), [value.name]) is not None
    operator = made.choose.choice(["MaxPool", "AveragePool"])
    window = _window(made, value, dilate=operator == "MaxPool" and made.opset >= 10)
    if made.opset >= 10 and "auto_pad" not in window and made.choose.random() < 0.3:
        window["ceil_mode"] = 1
    if operator == "AveragePool" and made.choose.random() < 0.4:
        window["count_include_pad"] = 1
    return made.add(operator, [value.name], **window) is not None


def _matmul(made: GraphMaker) -> bool:
    value = made.pick(least_rank=1)
    if value is None:
        return False
    inner = value.shape[-1]
    if value.rank == 2 and made.choose.random() < 0.5:
        return _gemm(made, value)
    shape: tuple[int, ...] = (inner, made.choose.choice([1, 3, 8]))
    if made.choose.random() < 0.15:
        shape = (inner,)
    elif value.rank > 2 and made.choose.random() < 0.3:
        shape = (*value.shape[:-2], *shape)
    return made.add("MatMul", [value.name, made.weight(*shape, scale=(2 / inner) ** 0.5)]) is not None


def _gemm(made: GraphMaker, value: Tensor) -> bool:
    outputs, turned = made.choose.choice([2, 4, 8]), made.choose.random() < 0.5
    inner = value.shape[1]
    shape = (outputs, inner) if turned else (inner, outputs)
    names = [value.name, made.weight(*shape, scale=(2 / inner) ** 0.5)]
    bias = made.choose.choice([(outputs,), (1, outputs), (value.shape[0], 1), (1,), None])
    if bias is not None or made.opset < 11:
        names.append(made.weight(*(bias or (outputs,)), scale=0.2))
    attributes = {"alpha": 0.5} if made.choose.random() < 0.2 else {}
    return made.add("Gemm", names, transB=int(turned), **attributes) is not None


def _products(made: GraphMaker) -> bool:
    """A product of two activations."""
    value = made.pick(least_rank=2)
    if value is None or value.rank > 4:
        return False
    order = [*range(value.rank - 2), value.rank - 1, value.rank - 2]
    turned = made.add("Transpose", [value.name], perm=order, exact=value.exact)
    return turned is not None and made.add("MatMul", [value.name, turned[0].name]) is not None


def _norm(made: GraphMaker) -> bool:
    value = made.pick(least_rank=3)
    if value is None:
        return False
    channels = value.shape[1]
    kind = made.choose.choice(["BatchNormalization", "InstanceNormalization", "LayerNormalization", "LRN"])
    if kind == "LRN":
        return made.add(kind, [value.name], size=3) is not None
    if kind == "LayerNormalization":
        axis = made.choose.choice([-1, value.rank - 1, value.rank - 2])
        scale = made.weight(*value.shape[axis:], scale=1.0)
        return made.add(kind, [value.name, scale], axis=axis) is not None
    names = [value.name, made.weight(channels, scale=1.0), made.weight(channels, scale=0.2)]
    if kind == "BatchNormalization":
        variance = np.random.default_rng(made.choose.randrange(2**32)).uniform(0.5, 2, channels)
        names += [made.weight(channels, scale=0.2), made.constant(variance.astype(FLOATS[value.dtype]))]
    return made.add(kind, names) is not None


def _arrange(made: GraphMaker) -> bool:
    value = made.pick(least_rank=1)
    if value is None:
        return False
    return made.choose.choice([_transpose, _reshape, _flatten, _unsqueeze, _squeeze, _tile, _expand, _blocks])(
        made, value
    )


def _transpose(made: GraphMaker, value: Tensor) -> bool:
    order = list(range(value.rank))
    made.choose.shuffle(order)
    return made.add("Transpose", [value.name], perm=order, exact=value.exact) is not None


def _reshape(made: GraphMaker, value: Tensor) -> bool:
    shape = made.choose.choice([[-1], [0, -1], [value.shape[0], -1], [1, -1, value.shape[-1]], [*value.shape, 1]])
    return made.add("Reshape", [value.name, made.ints(*shape)], exact=value.exact) is not None


def _flatten(made: GraphMaker, value: Tensor) -> bool:
    return made.add("Flatten", [value.name], axis=made.choose.randint(0, value.rank), exact=value.exact) is not None


def _unsqueeze(made: GraphMaker, value: Tensor) -> bool:
    if value.rank > 4:
        return False
    return _with_axes(made, "Unsqueeze", value, [made.choose.randint(0, value.rank)], 13)


def _squeeze(made: GraphMaker, value: Tensor) -> bool:
    axes = [axis for axis, size in enumerate(value.shape) if size == 1]
    return bool(axes) and _with_axes(made, "Squeeze", value, [made.choose.choice(axes)], 13)


def _with_axes(made: GraphMaker, operator: str, value: Tensor, axes: list[int], since: int, **more: int) -> bool:
    """Adds an operator whose axes are an attribute before opset ``since``, and an input from then on."""
    exact = value.exact and operator in ("Squeeze", "Unsqueeze")
    if made.opset < since:
        return made.add(operator, [value.name], axes=axes, exact=exact, **more) is not None
    return made.add(operator, [value.name, made.ints(*axes)], exact=exact, **more) is not None


def _tile(made: GraphMaker, value: Tensor) -> bool:
    repeats = [made.choose.choice([1, 1, 2]) for _ in value.shape]
    return made.add("Tile", [value.name, made.ints(*repeats)], exact=value.exact) is not None


def _expand(made: GraphMaker, value: Tensor) -> bool:
    shape = [size if size > 1 else made.choose.choice([1, 3]) for size in value.shape]
    return made.opset >= 8 and made.add("Expand", [value.name, made.ints(*shape)], exact=value.exact) is not None


def _blocks(made: GraphMaker, value: Tensor) -> bool:
    operator = made.choose.choice(["DepthToSpace", "SpaceToDepth"])
    return value.rank == 4 and made.add(operator, [value.name], blocksize=2, exact=value.exact) is not None


def _slice(made: GraphMaker) -> bool:
    value = made.pick(least_rank=1)
    if value is None:
        return False
    axis = made.choose.randrange(value.rank)
    start = made.choose.randint(0, value.shape[axis] - 1)
    end = made.choose.choice([2**31 - 1, value.shape[axis], -1])
    if made.opset < 10:
        return made.add("Slice", [value.name], starts=[start], ends=[end], axes=[axis], exact=value.exact) is not None
    names = [value.name, made.ints(start), made.ints(end), made.ints(axis), made.ints(made.choose.choice([1, 1, 2]))]
    return made.add("Slice", names, exact=value.exact) is not None


def _split(made: GraphMaker) -> bool:
    value = made.pick(least_rank=1)
    if value is None:
        return False
    axis = made.choose.randrange(value.rank)
    size = value.shape[axis]
    if size < 2:
        return False
    first = made.choose.randint(1, size - 1)
    if made.opset < 13:
        return made.add("Split", [value.name], outputs=2, axis=axis, split=[first, size - first]) is not None
    return made.add("Split", [value.name, made.ints(first, size - first)], outputs=2, axis=axis) is not None


def _concat(made: GraphMaker) -> bool:
    value = made.pick(least_rank=1)
    if value is None:
        return False
    axis = made.choose.randrange(value.rank)
    fitting = [
        other
        for other in made.values
        if other.dtype == value.dtype
        and other.rank == value.rank
        and all(a == b for i, (a, b) in enumerate(zip(other.shape, value.shape, strict=True)) if i != axis)
    ]
    return made.add("Concat", [value.name, made.choose.choice(fitting).name], axis=axis) is not None


def _pad(made: GraphMaker) -> bool:
    value = made.pick(least_rank=2)
    if value is None:
        return False
    before = [made.choose.choice([0, 0, 1, 2]) for _ in value.shape]
    after = [made.choose.choice([0, 1]) for _ in value.shape]
    mode = made.choose.choice(["constant", "constant", "reflect", "edge"])
    if made.opset < 11:
        return made.add("Pad", [value.name], pads=[*before, *after], mode=mode, value=0.5) is not None
    names = [value.name, made.ints(*before, *after)]
    if mode == "constant" and made.choose.random() < 0.5:
        names.append(made.constant(np.array(-0.5, FLOATS[value.dtype])))
    return made.add("Pad", names, mode=mode) is not None


def _gather(made: GraphMaker) -> bool:
    value = made.pick(least_rank=1)
    if value is None:
        return False
    axis = made.choose.randrange(value.rank)
    numbers = [
        made.choose.randrange(-value.shape[axis] if made.opset >= 11 else 0, value.shape[axis]) for _ in range(2)
    ]
    indices = np.array(numbers if made.choose.random() < 0.7 else numbers[0], made.choose.choice([np.int64, np.int32]))
    return made.add("Gather", [value.name, made.constant(indices)], axis=axis, exact=value.exact) is not None


def _reduce(made: GraphMaker) -> bool:
    value = made.pick(least_rank=1)
    if value is None:
        return False
    operator = made.choose.choice(REDUCTIONS)
    axes = sorted(made.choose.sample(range(value.rank), made.choose.randint(1, value.rank)))
    keep = made.choose.choice([0, 1])
    return _with_axes(made, operator, value, axes, 13 if operator == "ReduceSum" else 18, keepdims=keep)


def _softmax(made: GraphMaker) -> bool:
    value = made.pick(least_rank=1)
    if value is None:
        return False
    axis = made.choose.choice([value.rank - 1, made.choose.randrange(value.rank)])
    attributes = {"axis": axis} if made.choose.random() < 0.8 else {}
    return made.add(made.choose.choice(["Softmax", "Softmax", "LogSoftmax"]), [value.name], **attributes) is not None


def _argmax(made: GraphMaker) -> bool:
    value = made.pick(least_rank=1, exact=True)
    if value is None:
        return False
    operator = made.choose.choice(["ArgMax", "ArgMin"])
    axis = made.choose.randrange(value.rank)
    return made.add(operator, [value.name], axis=axis, keepdims=made.choose.choice([0, 1])) is not None


def _resize(made: GraphMaker) -> bool:
    value = made.pick(rank=4)
    if value is None:
        return False
    scales = made.constant(np.array([1, 1, *(made.choose.choice([2, 2, 1.5, 0.5]) for _ in range(2))], np.float32))
    mode = made.choose.choice(["nearest", "linear"])
    if made.opset < 9:
        return made.add("Upsample", [value.name], mode=mode, scales=[1.0, 1.0, 2.0, 2.0]) is not None
    if made.opset < 11:
        operator = "Upsample" if made.opset == 9 else "Resize"
        return made.add(operator, [value.name, scales], mode=mode) is not None
    rules = ["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"]
    attributes = {"mode": mode, "coordinate_transformation_mode": made.choose.choice(rules)}
    if mode == "nearest":
        attributes["nearest_mode"] = made.choose.choice(["floor", "round_prefer_floor", "ceil", "round_prefer_ceil"])
    empty = made.constant(np.array([], np.float32)) if made.opset < 13 else ""
    return made.add("Resize", [value.name, empty, scales], **attributes) is not None


def _cast(made: GraphMaker) -> bool:
    """A cast to another float and back."""
    value = made.pick()
    if value is None:
        return False
    other = made.choose.choice([TensorProto.FLOAT16, TensorProto.DOUBLE])
    narrow = made.add("Cast", [value.name], to=other)
    return narrow is not None and made.add("Cast", [narrow[0].name], to=value.dtype) is not None


def _where(made: GraphMaker) -> bool:
    value = made.pick(exact=True)
    if value is None or made.opset < 9:
        return False
    threshold = made.constant(np.array(0.1, FLOATS[value.dtype]))
    condition = made.add("Less", [value.name, threshold])
    if condition is None:
        return False
    return made.add("Where", [condition[0].name, value.name, threshold], exact=True) is not None


def _prelu(made: GraphMaker) -> bool:
    value = made.pick(least_rank=2)
    if value is None:
        return False
    shape = made.choose.choice([(1,), (value.shape[1], *(1,) * (value.rank - 2))])
    return made.add("PRelu", [value.name, made.weight(*shape, scale=0.25)]) is not None


def _own_shape(made: GraphMaker) -> bool:
    """A Reshape to a shape that the graph computes: the batch, and the rest flat."""
    value = made.pick(least_rank=2)
    if value is None:
        return False
    shape = made.add("Shape", [value.name], exact=True)
    batch = made.add("Gather", [shape[0].name, made.ints(0)], axis=0, exact=True) if shape is not None else None
    whole = made.add("Concat", [batch[0].name, made.ints(-1)], axis=0, exact=True) if batch is not None else None
    return whole is not None and made.add("Reshape", [value.name, whole[0].name], exact=value.exact) is not None


Adder = Callable[[GraphMaker], bool]

ADDERS: dict[Adder, int] = {
    _unary: 5, _conv: 5, _matmul: 4, _binary: 4, _arrange: 4, _pool: 3, _norm: 2, _reduce: 2, _slice: 1, _split: 1,
    _concat: 2, _pad: 2, _gather: 1, _softmax: 2, _argmax: 1, _resize: 2, _cast: 1, _where: 1, _prelu: 1, _clip: 1,
    _step: 1, _products: 1, _own_shape: 1,
}  # fmt: skip
"""What adds an operator, and how often relative to the others."""
