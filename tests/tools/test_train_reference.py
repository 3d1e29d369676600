from __future__ import annotations

from typing import Any

from edgekit.evaluation.evaluate import FIGURES
from edgekit.recipe.schema import load_recipe
from tools.train_reference.__main__ import CASES, markdown_from_results

RESULT: dict[str, Any] = {
    "model": "lenet",
    "data": "digits",
    "figure": "accuracy",
    "at_least": 0.98,
    "may_lose": 0.3,
    "fp32": 0.9889,
    "int8": 0.9861,
    "lost": 0.28,
    "seconds": 31.4,
    "examples": 360,
}


def test_every_case_has_a_recipe_that_says_how_it_is_trained() -> None:
    for case in CASES:
        recipe = load_recipe(case.model)
        assert recipe.train.data
        assert case.figure in FIGURES


def test_a_row_tells_what_was_reached() -> None:
    row = markdown_from_results([RESULT]).splitlines()[-1]
    assert row == "| `lenet` | digits, 360 | 31 s | accuracy | 98.89 % | 98.61 % | 0.28 points |"


def test_a_row_tells_what_was_missed() -> None:
    missed = RESULT | {"fp32": 0.97, "lost": 0.5, "seconds": 700.0}
    row = markdown_from_results([missed]).splitlines()[-1]
    assert "97.00 % (MISSED: ≥ 98 %)" in row
    assert "0.50 points (MISSED: ≤ 0.3)" in row
    assert "700 s (MISSED: ≤ 600 s)" in row
