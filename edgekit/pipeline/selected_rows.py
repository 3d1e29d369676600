"""Compares what two graphs compute of the rows that one of them selects, where a TopK or suppression orders rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
import onnx_ir as ir

from edgekit.device.cpu import cpu
from edgekit.graph.given_selection import GivenSelection
from edgekit.quantize.compare import OutputNoise, noise_of_outputs
from edgekit.quantize.half.check import rounding_graph
from edgekit.quantize.output_form import OutputForm

__all__ = ["noise_of_same_rows", "with_noise_of_same_rows"]

Arrays = Mapping[str, np.ndarray]


def noise_of_same_rows(
    exact: ir.Model, typed: ir.Model, feeds: Sequence[Arrays], forms: Mapping[str, OutputForm]
) -> tuple[OutputNoise, ...]:
    """Compares the outputs whose rows are selected by value, with the rows that ``exact`` selects in both graphs.

    Args:
        exact: the float graph.
        typed: the same with Q/DQ pairs or in half precision.
        feeds: inputs.
        forms: what the numbers of each output are.

    Returns:
        The noise of these outputs; none if there are no such outputs, or if something else than TopK, NonZero or
        NonMaxSuppression selects.
    """
    selected = {name: form._replace(selected=False) for name, form in forms.items() if form.selected}
    if not selected or not feeds or not GivenSelection.fits(exact):
        return ()
    selection = GivenSelection(exact, feeds, threads=cpu().compute_threads)
    wanted, got = (
        [{name: each[name] for name in selected} for each in outputs]
        for outputs in (selection.outputs, selection.outputs_of(rounding_graph(typed)))
    )
    return noise_of_outputs(wanted, got, selected)


def with_noise_of_same_rows(
    noise: Sequence[OutputNoise], same: Sequence[OutputNoise], *, beyond_db: float = 0.0
) -> tuple[OutputNoise, ...]:
    """Replaces the ratios of outputs whose rows were matched by those of the same rows; the agreement stays.

    Args:
        noise: of all outputs, rows matched as sets.
        same: what `noise_of_same_rows` found.
        beyond_db: how much more an engine loses than its graph, which is all that ``same`` tells about.
    """
    judged = [each for each in same if each.sqnr_db is not None]
    replaced = {each.output for each in judged}
    agreements = {each.output: each.agreement for each in noise}
    found = [each for each in noise if each.output not in replaced or each.sqnr_db is None]
    found += [
        msgspec.structs.replace(each, sqnr_db=(each.sqnr_db or 0.0) - beyond_db, agreement=agreements[each.output])
        for each in judged
        if each.output in agreements
    ]
    return tuple(found)
