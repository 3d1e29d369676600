from __future__ import annotations

from collections.abc import Callable

import pytest
from rich.cells import cell_len
from rich.console import Console

from edgekit.measure.layer_times import LayerGroup, LayerTime, LayerTimes
from edgekit.report.layer_times import terminal_from_layer_times

LONG = "backbone.stage4.block12.attention.projection.convolution"


def layer(name: str, median_ms: float, **changes: object) -> LayerTime:
    fields = {
        "operator": "SkipSimplifiedLayerNormalization",
        "share": median_ms / 100,
        "nodes": ("a", "b"),
        "module": LONG,
        "precision": "bfloat16",
        "outputs": ((16, 1024, 416, 416),),
        "macs": 98_765_432_109,
        "weight_bytes": 246_913_578,
        "activation_bytes": 998_765_432,
    }
    return LayerTime(name=name, median_ms=median_ms, **(fields | changes))  # type: ignore[arg-type]


def times(*layers: LayerTime, **changes: object) -> LayerTimes:
    fields = {
        "runs": 50,
        "sum_ms": 100.0,
        "profiled_ms": 104.0,
        "end_to_end_ms": 102.0,
        "difference": -0.0196,
        "mapped": True,
        "by_operator": (LayerGroup(name="Conv", layers=3, median_ms=80.0, share=0.8, macs=10**9),),
    }
    return LayerTimes(layers=layers, **(fields | changes))  # type: ignore[arg-type]


def lines(shown: LayerTimes, width: int) -> list[str]:
    console = Console(width=width, highlight=False, color_system=None)
    with console.capture() as capture:
        console.print(terminal_from_layer_times(shown, console.width))
    return capture.get().splitlines()


@pytest.mark.parametrize("width", [80, 120])
def test_rows_fit_the_terminal_and_no_figure_is_cut(width: int) -> None:
    modules = tuple(LayerGroup(name=f"{LONG}.{i}", layers=1, median_ms=9, share=0.1, macs=1) for i in range(12))
    shown = lines(times(*(layer(f"layer{i}", 10 - i / 10) for i in range(30)), by_module=modules), width)
    assert max(map(cell_len, shown)) <= width
    rows = [line for line in shown if "bf16" in line]
    assert len(rows) == 20
    assert all("convolution" in row and "98.8G" in row and "1.25G" in row for row in rows)
    assert rows[0].split()[-6:-2] == ["bf16", "10.0", "10.0", "%"]


def test_the_slowest_are_first_and_the_rest_is_one_row() -> None:
    shown = lines(times(*(layer(f"layer{i}", 1.0 + i, module="") for i in range(22))), 80)
    names = [line.split()[0] for line in shown if line.startswith("layer") and "bf16" in line]
    assert names == [f"layer{i}" for i in range(21, 1, -1)]
    (rest,) = [line for line in shown if line.startswith("2 other layers")]
    assert rest.split()[3:6] == ["3.00", "3.0", "%"]  # 1 ms and 2 ms


def test_the_sum_stands_beside_the_time_of_a_run() -> None:
    shown = "\n".join(lines(times(layer("a", 100), notes=("The layers add up to 100 ms.",)), 120))
    assert "100 ms, medians of 50 runs" in shown
    assert "102 ms without profiling, -2.0 %" in shown
    assert shown.rstrip().endswith("The layers add up to 100 ms.")


@pytest.mark.parametrize(
    ("overhead_ms", "line"),
    [
        (
            {"quantize": 4.0, "transpose": 1.0},
            "overhead of quantization  5.00 ms, 5.0 % (quantize 4.00, transpose 1.00)",
        ),
        ({"reformat": 2.0}, "overhead of layouts  2.00 ms, 2.0 % (reformat 2.00)"),
        ({}, None),
    ],
)
def test_overhead_is_totalled(overhead_ms: dict[str, float], line: str | None) -> None:
    shown = lines(times(layer("a", 100), overhead_ms=overhead_ms), 120)
    found = [" ".join(row.split()) for row in shown if row.startswith("overhead")]
    assert found == ([" ".join(line.split())] if line else [])


def test_layers_without_a_mapping_are_counted_and_shown_by_their_own_names() -> None:
    shown = lines(times(layer("myelin_7", 100, module="", nodes=()), unmapped=1), 120)
    assert any(line.startswith("myelin_7") for line in shown)
    assert any("1 layers, shown by the backend's names" in line for line in shown)


def test_names_with_brackets_are_text_and_not_markup(make_report: Callable[..., object]) -> None:
    shown = lines(times(layer("[red]conv[/red]", 100, module="")), 120)
    assert any("[red]conv[/red]" in line for line in shown)
