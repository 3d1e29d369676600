from __future__ import annotations

import pytest
from rich.cells import cell_len
from rich.console import Console

from edgekit.measure.inspection import Inspection, LayerRow
from edgekit.report.layer_table import terminal_from_inspection
from edgekit.specs import TensorSpec

LONG = "backbone.stage4.block12.attention.projection.convolution"


def row(name: str = LONG, **changes: object) -> LayerRow:
    fields = {
        "operator": "SkipSimplifiedLayerNormalization",
        "output_shape": (16, 1024, 416, 416),
        "precision": "bfloat16",
        "parameters": 123_456_789,
        "macs": 98_765_432_109,
        "weight_bytes": 246_913_578,
        "activation_bytes": 998_765_432,
        "intensity": 1234.5,
    }
    return LayerRow(name=name, **(fields | changes))  # type: ignore[arg-type]


def inspection(*layers: LayerRow, **changes: object) -> Inspection:
    fields = {
        "name": "net",
        "parameters": 61_949_149,
        "macs": 32_932_037_632,
        "weight_bytes": 10**8,
        "activation_bytes": 10**7,
        "intensity": 12.34,
        "assumed_sizes": {"batch": 1},
        "precision_from": "graph",
        "inputs": (TensorSpec("x", "float32", ("batch", 3, 8, 8)),),
        "outputs": (TensorSpec("y", "float32", ("batch", 4)),),
    }
    return Inspection(layers=layers, **(fields | changes))  # type: ignore[arg-type]


def printed(found: Inspection, width: int) -> list[str]:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(terminal_from_inspection(found, width))
    return capture.get().splitlines()


@pytest.mark.parametrize("width", [80, 100, 120, 160])
def test_every_layer_is_a_line_and_no_figure_is_cut_off(width: int) -> None:
    lines = printed(inspection(*(row(f"{LONG}.{i}") for i in range(300))), width)
    assert max(cell_len(line) for line in lines) <= width
    layers = [line for line in lines if "98.8G" in line]
    assert len(layers) == 300
    assert all(
        figure in line for line in layers for figure in ("16x1024x416x416", "bf16", "123M", "247M", "999M", "1.23k")
    )
    # Of a name that does not fit, what tells it from its neighbours is kept.
    assert f".{299} " in layers[-1]


def test_columns_are_aligned() -> None:
    lines = printed(inspection(row("a", macs=1), row("bb", macs=10**9)), 120)
    ends = {line.index("1234") if "1234" in line else line.index("1.23k") for line in lines if "k" in line[-8:]}
    assert len(ends) == 1


@pytest.mark.parametrize(
    ("macs", "text"), [(7, "7"), (943, "943"), (999.7, "1.00k"), (1183, "1.18k"), (99_960, "100k"), (2.5e12, "2.50T")]
)
def test_figures_have_three_digits(macs: float, text: str) -> None:
    lines = printed(inspection(row("a", macs=macs, parameters=0)), 120)
    assert text in next(line for line in lines if line.startswith("a ")).split()


def test_totals_are_written_out() -> None:
    text = "\n".join(printed(inspection(row()), 120))
    assert "61,949,149" in text and "32,932,037,632" in text
    assert "1 in bfloat16" in text
    assert "batch = 1" in text


def test_a_graph_without_layers_is_shown_all_the_same() -> None:
    assert any("parameters" in line for line in printed(inspection(), 80))
