"""One scale for all that is joined, so that joining is copying."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from edgekit.quantize.plan import Plan, range_source
from edgekit.specs import QuantScheme

__all__ = ["share_concat_ranges", "without_pairs_behind"]

Range = tuple[float, float]

LEAST_SHARE = 0.5
"""Of the common range, what each summand's own one has to fill: a bit of precision is the most that joining costs."""


def share_concat_ranges(plan: Plan, ranges: Mapping[str, Range], scheme: QuantScheme) -> dict[str, Range]:
    """Ranges in which the inputs and the output of each quantized Concat have the same one.

    With scales of their own, every number is looked up or multiplied on its way into the Concat: on YOLOv3-416
    0.25 ms on ONNX Runtime, and 0.4 ms on OpenVINO. TensorRT joins in place only what has one scale.

    Args:
        plan: what is quantized.
        ranges: least and greatest number of each tensor by name.
        scheme: of the target.

    Returns:
        All of ``ranges``; those are wider that were joined. Where one input would lose more than `LEAST_SHARE`, or
        the saturation of Q stands for an activation function that ends elsewhere, the Concat's are left as they are.
    """
    joined = dict(ranges)
    bound = _bound(plan, scheme)
    together: dict[str, set[str]] = {}
    # TensorRT moves the Q behind a Concat to before it, where it meets the DQ of what is joined.
    with_pairs = plan.integers.union(plan.tensors if scheme.propagated else ())
    for node in plan.nodes:
        if node.op_type != "Concat":
            continue
        names = {str(range_source(value).name) for value in node.inputs if value is not None}
        names.update(str(value.name) for value in node.outputs if value in with_pairs)
        # Concats in a row share all they join.
        names = set().union(*(together.get(name, {name}) for name in names))
        if not names <= joined.keys():
            continue
        low, high = min(ranges[name][0] for name in names), max(ranges[name][1] for name in names)
        common = low, high
        if any(ranges[name][end] != common[end] for name in names for end in bound.get(name, ())):
            continue
        if all(_span(ranges[name], scheme) >= LEAST_SHARE * _span(common, scheme) for name in names):
            joined.update(dict.fromkeys(names, (low, high)))
            together.update(dict.fromkeys(names, names))
    return joined


def without_pairs_behind(plan: Plan, ranges: Mapping[str, Range], scheme: QuantScheme) -> list[ir.Value]:
    """The tensors of a plan that need a pair, less the outputs of Concats whose inputs have one range.

    Integers of one scale are joined as they are. OpenVINO moves a Q behind to before the Concat, where it is computed
    once an input.

    Args:
        plan: what is quantized.
        ranges: as `share_concat_ranges` gives them.
        scheme: of the target; where it wants pairs at outputs, or carries integers on itself, all stay.
    """
    if scheme.quantize_outputs or scheme.propagated:
        return plan.tensors
    joined = set()
    for node in plan.nodes:
        if node.op_type == "Concat" and node.attributes.get_int("axis", 0) == 1:
            found = {ranges.get(str(range_source(value).name)) for value in node.inputs if value is not None}
            output = node.outputs[0]
            # Other readers, another Concat among them, and a convolution whose weights are split, want bytes before
            # them; with channels joined along another axis, OpenVINO computes in float32.
            convs = all(use.node.op_type == "Conv" and use.node not in plan.split for use in output.uses())
            if convs and len(found) == 1 and None not in found:
                joined.add(output)
    return [value for value in plan.tensors if value not in joined]


def _span(numbers: Range, scheme: QuantScheme) -> float:
    """What the integers are spread over, up to a factor."""
    return max(-numbers[0], numbers[1]) if scheme.activation_dtype == "int8" else numbers[1] - numbers[0]


def _bound(plan: Plan, scheme: QuantScheme) -> dict[str, tuple[int, ...]]:
    """The ends of ranges, 0 the lower and 1 the upper, where Q's saturation stands for an activation function."""
    if not scheme.quantize_outputs:
        return {}
    fused = [node for node in plan.nodes if node.op_type in scheme.fused_activations]
    return {str(node.outputs[0].name): (0,) if node.op_type == "Relu" else (0, 1) for node in fused}
