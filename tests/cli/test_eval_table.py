from __future__ import annotations

import io
import math
import re
from typing import Any

import pytest
from rich.console import Console

from edgekit.cli.eval.table import class_table, differences, headings, print_summary
from edgekit.evaluation.evaluate import FIGURES, Evaluation
from edgekit.evaluation.evaluators.base import ClassFigure


def evaluation(figures: dict[str, float], **changes: Any) -> Evaluation:
    fields: dict[str, Any] = {
        "name": "model",
        "task": "classify",
        "precision": "fp32",
        "backend": "cpu",
        "backend_version": "1",
        "data": "set",
        "split": "test",
        "examples": 5000,
        "skipped": (),
        "figures": figures,
        "per_class": (),
        "examples_per_s": 1234.5,
        "score_threshold": None,
        "notes": (),
    }
    return Evaluation(**(fields | changes))


def printed(found: list[Evaluation], names: list[str] | None = None, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    print_summary(console, found, names or [f"folder{i}" for i in range(len(found))])
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_shares_are_percentages_and_their_differences_points() -> None:
    out = printed([evaluation({"accuracy": 0.98765}), evaluation({"accuracy": 0.98}, precision="int8")])
    assert re.search(r"FP32 +INT8 +difference", out)
    assert re.search(r"accuracy +98\.77 % +98\.00 % +-0\.77 points", out)


def test_errors_are_plain_numbers() -> None:
    figures = {"mse": 0.25, "rmse": 0.5, "r2": 0.875}
    worse = {"mse": 0.36, "rmse": 0.6, "r2": 0.82}
    out = printed([evaluation(figures), evaluation(worse, precision="int8")])
    assert re.search(r"mean squared error +0\.25 +0\.36 +\+0\.11", out)
    assert re.search(r"R² +0\.875 +0\.82 +-0\.055", out)


@pytest.mark.parametrize(("name", "better"), [("accuracy", 0.9), ("mse", 0.1)])
def test_better_figures_are_green_and_worse_ones_are_not(name: str, better: float) -> None:
    from edgekit.cli.eval.table import _change

    change = better - 0.5
    assert _change(change, FIGURES[name]).style == "green"
    assert _change(-change, FIGURES[name]).style == "yellow"
    assert _change(0.0, FIGURES[name]).plain == "none"
    assert "±0.00" in _change(1e-6, FIGURES["accuracy"]).plain


def test_an_unknown_figure_is_a_dash() -> None:
    out = printed([evaluation({"map50": math.nan}), evaluation({"map50": 0.5}, precision="int8")])
    assert re.search(r"mAP 0\.50 +– +50\.00 % +–", out)


def test_headings_are_what_distinguishes_the_engines() -> None:
    fp32, int8 = evaluation({}), evaluation({}, precision="int8")
    assert headings([fp32], ["x"]) == ["FP32"]
    assert headings([fp32, int8], ["x", "y"]) == ["FP32", "INT8", "difference"]
    assert headings([fp32, fp32], ["x", "y"]) == ["x", "y", "difference"]
    others = [evaluation({}, name="a", backend="cpu"), evaluation({}, name="b", backend="openvino"), fp32]
    assert headings(others, ["x", "y", "z"]) == ["a cpu", "b openvino", "model cpu"]


def test_the_weight_of_one_example_is_shown_if_it_is_large() -> None:
    assert "is 0.50 percentage points" in printed([evaluation({"accuracy": 1.0}, examples=200)])
    assert "points" not in printed([evaluation({"accuracy": 1.0}, examples=5000)])


def test_names_with_brackets_are_not_markup() -> None:
    odd = evaluation({"accuracy": 1.0}, name="[red]model", data="[set]", notes=("[note]",))
    out = printed([odd, evaluation({"accuracy": 1.0})], ["a", "b"])
    assert "[red]model" in out
    assert "[set]" in out
    assert "[note]" in out
    table = class_table([evaluation({}, per_class=(ClassFigure(label="[x]", count=1, value=1.0),))], ["a"])
    console = Console(file=io.StringIO(), width=80)
    console.print(table)
    assert "[x]" in console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("width", [80, 120])
def test_four_engines_fit(width: int) -> None:
    found = [evaluation(dict.fromkeys(("map50", "map50_95"), 0.87654)) for _ in range(4)]
    lines = printed(found, ["yolov3-fp32", "yolov3-int8", "yolov3-fp16", "yolov3-bf16"], width).splitlines()
    assert max(map(len, lines)) <= width
    assert sum("87.65 %" in line for line in lines) == 2


def test_differences_are_those_of_figures_that_both_have() -> None:
    assert differences(evaluation({"accuracy": 0.5}), evaluation({"accuracy": 0.75, "top5": 1.0})) == {"accuracy": 0.25}
