"""What is wrong with an order, or missing on this machine, before time is spent on it."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import SupportsIndex

from edgekit.config import EngineOptions, Order
from edgekit.engine.backend import Backend, backend
from edgekit.errors import UsageError, nearest, needs_extra
from edgekit.specs import Precision, Shape, Size, SizeRange

__all__ = ["precision_from_name", "require_buildable", "shape_from_sizes", "size_from_value"]


def precision_from_name(name: str) -> Precision:
    """The precision of that name.

    Raises:
        UsageError: there is none.
    """
    known = [str(precision) for precision in Precision]
    if name not in known:
        expected = f"{', '.join(known[:-1])} or {known[-1]}"
        raise UsageError(f"unknown precision '{name}': expected {expected}", hint=nearest(name, known))
    return Precision(name)


def size_from_value(value: int | Sequence[int], option: str) -> Size:
    """One dimension: a number, or the range that its least, usual and greatest size are; a number if all are equal.

    Raises:
        UsageError: they are not three, fall, or one is below 1; ``option`` is what the message begins with.
    """
    numbers = tuple(value) if isinstance(value, Sequence) else (value,)
    whole = [operator.index(number) for number in numbers if isinstance(number, SupportsIndex)]
    if (
        len(numbers) != len(whole)
        or len(whole) not in (1, 3)
        or not 0 < whole[0] <= whole[len(whole) // 2] <= whole[-1]
    ):
        raise UsageError(
            f"{option}: expected a number of 1 or more, or a range MIN:OPT:MAX with 1 <= MIN <= OPT <= MAX, got "
            f"{':'.join(map(str, numbers))}",
            hint="least, usual and greatest size, in this order, as in 1:4:16",
        )
    return whole[0] if whole[0] == whole[-1] else SizeRange(*whole)


def shape_from_sizes(sizes: Sequence[int | Sequence[int]], option: str) -> Shape:
    """A shape, a number or a range a dimension; see `size_from_value`.

    Raises:
        UsageError: a dimension is neither.
    """
    return tuple(size_from_value(size, option) for size in sizes)


def require_buildable(order: Order) -> None:
    """Says what is wrong with the order, or missing on this machine, before time is spent.

    Raises:
        UsageError: options that do not go together, or with the target.
        BackendUnavailable: what building needs is not installed.
    """
    given = [
        option
        for option, value in (
            ("--calib", order.calib),
            ("--calib-method", order.calib_method),
            ("--calib-images", order.calib_images),
            ("--calib-column", order.calib_column),
            ("--keep-float", order.keep_float),
        )
        if value
    ]
    # Half precision looks at ranges too, to know what overflows, but by a method of its own.
    half = [option for option in given if option == "--calib-method"]
    refused = {Precision.INT8: [], Precision.FP32: given}.get(order.precision, half)
    if refused:
        raise UsageError(f"{refused[0]} does not go with --{order.precision}", hint="leave one of them out")
    library = backend(order.target)
    _check_target(order, library)
    with needs_extra("building an engine", "build"):
        import edgekit.pipeline.calibrate  # noqa: F401  # it needs all that the extra brings


def _check_target(order: Order, library: Backend) -> None:
    if order.precision not in library.precisions:
        known = ", ".join(f"--{precision}" for precision in Precision if precision in library.precisions)
        raise UsageError(f"target '{order.target}' does not build {order.precision}: expected {known}")
    if not library.on_gpu:
        if order.engine != EngineOptions() or order.plan_only or order.half_io:
            raise UsageError(
                f"target '{order.target}' runs on the processor: the options of a GPU's builder do not go with it",
                hint="add --target tensorrt or --target tensorrt-rtx, or leave them out",
            )
    if order.half_io and order.precision not in (Precision.FP16, Precision.INT8):
        raise UsageError(f"--half-io goes with --fp16 and --int8, not with --{order.precision}")
    if not order.plan_only:
        library.require()
