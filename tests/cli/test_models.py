from __future__ import annotations

import json
import re
from pathlib import Path
from typing import get_args

import pytest

import edgekit.models
from edgekit.cli.main import main
from edgekit.models import COURSE
from edgekit.recipe.schema import TASK_TITLES, Task, load_recipe, recipe_names


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
    by_task = [name for task in TASK_TITLES for name in recipe_names() if load_recipe(name).task == task]
    assert [line.split()[0] for line in out.splitlines() if re.match(r"  [a-z]", line)] == by_task
    assert "61.9M  32.9G  1x3x416x416" in out
    assert max(map(len, out.splitlines())) <= 80
    assert "…" not in out


def test_models_are_grouped_by_task(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    parts = capsys.readouterr().out.split("\n\n")
    for name in recipe_names():
        (part,) = [part for part in parts if f"\n  {name} " in part]
        assert part.startswith(TASK_TITLES[load_recipe(name).task])


def test_every_task_has_a_section_in_the_table() -> None:
    assert set(TASK_TITLES) == set(get_args(Task))


def test_a_wide_table_has_the_titles(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    assert main(["models"]) == 0
    out = capsys.readouterr().out
    assert load_recipe("yolov3-tiny").title in out
    assert max(map(len, out.splitlines())) <= 120


def test_error_on_names_and_json_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--names", "--json"]) == 2
    assert "exclude each other" in capsys.readouterr().err


def test_the_course_lists_every_model_with_its_file(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["models", "--course"]) == 0
    lines = capsys.readouterr().out.splitlines()
    files = [word for line in lines for word in line.split() if word.endswith(".py")]
    assert files == [f"edgekit/models/{module}.py" for module in COURSE]
    assert {name for name in recipe_names() for line in lines if name in line.split()} == set(recipe_names())


def test_names_and_json_follow_the_course(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--course", "--names"]) == 0
    names = capsys.readouterr().out.splitlines()
    assert sorted(names) == recipe_names()
    assert names.index("linear-regression") < names.index("lenet") < names.index("yolov3") < names.index("minilm")
    assert main(["models", "--course", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == names
    assert rows[0]["file"] == "edgekit/models/linear.py"


def test_the_course_is_in_the_order_of_the_packages_text() -> None:
    doc = edgekit.models.__doc__ or ""
    assert [word for word in re.findall(r"`(\w+)`", doc) if word in COURSE] == list(COURSE)
    folder = Path(edgekit.models.__file__).parent
    assert [module for module in COURSE if not (folder / f"{module}.py").is_file()] == []
