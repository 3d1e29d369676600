"""The noise of each layer in the terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from edgekit.measure.noise_report import NoiseReport, SmallestGraph
from edgekit.quantize.compare import LayerNoise
from edgekit.report.noise_table import terminal_from_noise
from edgekit.specs import Precision


def printed(smallest_db: float, width: int) -> str:
    first = LayerNoise(node="mul", op_type="Mul", value="y", sqnr_db=9.7, lost_db=0.6, quantized=True)
    return " ".join(lines(smallest_db, width, first))


def lines(smallest_db: float, width: int, first: LayerNoise) -> list[str]:
    report = NoiseReport(
        name="net",
        target="cpu",
        precision=Precision.INT8,
        reference="the float graph in ONNX Runtime",
        compared="engine",
        limit_db=10.0,
        outputs_db={"INT8 engine for cpu": 37.1},
        layers=(first,),
        first=first,
        smallest=SmallestGraph(nodes=("conv", "mul"), inputs=("x",), output="y", sqnr_db=smallest_db),
    )
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(terminal_from_noise(report, width))
    return [" ".join(line.split()) for line in console.export_text().splitlines()]


@pytest.mark.parametrize("width", [80, 120])
def test_no_figure_and_no_operator_is_cut_off(width: int) -> None:
    name = "backbone.stage4.block12.attention.projection.convolution_quantized_whole_dequantize"
    long = LayerNoise(
        node=name, op_type="SpaceToDepthQuantized", value="y", sqnr_db=-123.4, lost_db=-150.7, quantized=True
    )
    (line,) = [line for line in lines(3.0, width, long) if line.startswith("…") or line.startswith(name)]
    assert line.endswith("dequantize SpaceToDepthQuantized yes -123.4 dB -150.7 dB")


@pytest.mark.parametrize("width", [80, 120])
def test_a_graph_that_is_lost_by_itself_is_shown_with_its_ratio(width: int) -> None:
    assert "smallest graph 2 nodes (conv, mul): 3.0 dB by itself" in printed(3.0, width)


@pytest.mark.parametrize("width", [80, 120])
def test_where_no_graph_is_lost_by_itself_the_table_says_so(width: int) -> None:
    assert "smallest graph none: all 2 nodes up to this layer keep 16.6 dB on one input" in printed(16.6, width)
