"""What is wrong with an order, or missing on this machine, before time is spent on it."""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.engine.backend import Backend, backend
from edgekit.errors import UsageError, nearest, needs_extra
from edgekit.order import EngineOptions, Order
from edgekit.specs import Precision

__all__ = ["batch_from_sizes", "precision_from_name", "require_buildable"]


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


def batch_from_sizes(sizes: int | Sequence[int] | None) -> tuple[int, int, int] | None:
    """Least, usual and greatest size of a batch, from a number or all three; None of None.

    Raises:
        UsageError: they fall, or are not three.
    """
    if sizes is None:
        return None
    batch = (sizes,) * 3 if isinstance(sizes, int) else tuple(sizes)
    if len(batch) != 3 or not 0 < batch[0] <= batch[1] <= batch[2]:
        given = ":".join(map(str, batch))
        raise UsageError(f"--batch: expected a number, or three that do not fall, such as 1:4:16, got {given}")
    return batch


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
        import edgekit.int8  # noqa: F401  # it needs all that the extra brings


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
