from __future__ import annotations

import json
import re
from typing import get_args

import pytest

from edgekit.cli.main import main
from edgekit.cli.models import TASKS
from edgekit.recipe.schema import Task, load_recipe, recipe_names


def test_names_are_one_per_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--names"]) == 0
    assert capsys.readouterr().out.splitlines() == recipe_names()


def test_json_has_the_values_of_the_recipes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert list(rows) == recipe_names()
    tiny = load_recipe("yolov3-tiny")
    assert rows["yolov3-tiny"]["parameters"] == tiny.model.parameters == 8_852_366
    assert rows["yolov3-tiny"]["inputs"][0]["shape"] == [1, 3, 416, 416]
    assert rows["yolov3-tiny"]["weights"]["coco"]["url"] == tiny.weights["coco"].url


def test_the_table_has_one_row_per_model_and_fits_80_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["models"]) == 0
    out = capsys.readouterr().out
    by_task = [name for task in TASKS for name in recipe_names() if load_recipe(name).task == task]
    assert [line.split()[0] for line in out.splitlines() if re.match(r"  [a-z]", line)] == by_task
    assert "61.9M  32.9G  1x3x416x416" in out
    assert max(map(len, out.splitlines())) <= 80
    assert "…" not in out


def test_models_are_grouped_by_task(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    parts = capsys.readouterr().out.split("\n\n")
    for name in recipe_names():
        (part,) = [part for part in parts if f"\n  {name} " in part]
        assert part.startswith(TASKS[load_recipe(name).task])


def test_every_task_has_a_section_in_the_table() -> None:
    assert set(TASKS) == set(get_args(Task))


def test_a_wide_table_has_the_titles(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    assert main(["models"]) == 0
    out = capsys.readouterr().out
    assert load_recipe("yolov3-tiny").title in out
    assert max(map(len, out.splitlines())) <= 120


def test_error_on_names_and_json_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--names", "--json"]) == 2
    assert "exclude each other" in capsys.readouterr().err
