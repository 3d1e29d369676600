"""Measures the time of each layer with OpenVINO's performance counters (the property ``PERF_COUNT``)."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import numpy as np

from edgekit.engine.layer_timer import LayerTimings, TimedLayer
from edgekit.engine.openvino.executed import PRODUCTS, element_type, fact, group_size, original_names, product_type
from edgekit.errors import RunError

__all__ = ["OpenVinoLayerTimer"]

CONSTANT = "Const"


class OpenVinoLayerTimer:
    """A `LayerTimer`. The counters are durations without starts, in whole microseconds, of the last run.

    Args:
        compiled: the compiled engine, with ``PERF_COUNT``.
        run: runs one of its requests.
    """

    def __init__(self, compiled: Any, run: Callable[[Any, dict[str, np.ndarray]], dict[str, np.ndarray]]) -> None:
        self._compiled: Any = compiled
        self._request: Any = compiled.create_infer_request()
        self._run = run
        self._rows: list[dict[str, float]] = []

    def run(self, feeds: dict[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """See `LayerTimer.run`."""
        if self._request is None:
            raise RunError("the layer timer is closed")
        outputs = self._run(self._request, feeds)
        counters = self._request.get_profiling_info()
        self._rows.append(
            {c.node_name: 1e3 * c.real_time.total_seconds() for c in counters if c.status == c.Status.EXECUTED}
        )
        return outputs

    def finish(self) -> LayerTimings:
        """See `LayerTimer.finish`."""
        if not self._rows:
            raise RunError("expected at least one run before the layers' times are read, got none")
        executed = self._compiled.get_runtime_model().get_ops()
        in_order = sorted(executed, key=lambda operator: int(fact(operator, "execOrder")))
        names = {name for row in self._rows for name in row}
        group = group_size(self._compiled)
        layers = [_layer(operator, names, group) for operator in in_order if operator.get_friendly_name() in names]
        return LayerTimings(
            layers=tuple(layers),
            times_ms=tuple(tuple(row.get(layer.name, 0.0) for layer in layers) for row in self._rows),
        )

    def close(self) -> None:
        """See `LayerTimer.close`."""
        self._request = self._compiled = None


def _layer(operator: Any, executed: Collection[str], group: int) -> TimedLayer:
    sources = [value for value in operator.input_values() if not _is_constant(value.get_node())]
    kind = fact(operator, "layerType")
    return TimedLayer(
        name=operator.get_friendly_name(),
        operator=kind,
        nodes=original_names(operator),
        readers=tuple(dict.fromkeys(_readers(operator, executed))),
        precision=product_type(operator, group) if kind in PRODUCTS else element_type(operator),
        inputs=tuple(_shape(value) for value in sources),
        outputs=tuple(_shape(value) for value in operator.outputs()),
        activation_bytes=_sum(_bytes(value) for value in (*sources, *operator.outputs())),
        kernel=fact(operator, "primitiveType"),
    )


def _readers(operator: Any, executed: Collection[str]) -> Iterator[str]:
    """Yields the names of the executed layers that read an operator's outputs, if only through others."""
    for value in operator.outputs():
        for port in value.get_target_inputs():
            reader = port.get_node()
            if reader.get_friendly_name() in executed:
                yield str(reader.get_friendly_name())
            else:
                yield from _readers(reader, executed)


def _is_constant(operator: Any) -> bool:
    """Whether an operator of the executed graph outputs a constant, or one in another shape or layout."""
    values = operator.input_values()
    return fact(operator, "layerType") == CONSTANT or (
        bool(values) and all(_is_constant(value.get_node()) for value in values)
    )


def _shape(value: Any) -> tuple[int, ...]:
    """Returns the shape of a value of the executed graph; -1 is a dynamic size."""
    return tuple(-1 if size.is_dynamic else size.get_length() for size in value.get_partial_shape())


def _bytes(value: Any) -> int | None:
    shape = _shape(value)
    return None if -1 in shape else math.prod(shape) * value.get_element_type().size


def _sum(sizes: Iterator[int | None]) -> int | None:
    known = list(sizes)
    return None if None in known else sum(size for size in known if size is not None)
