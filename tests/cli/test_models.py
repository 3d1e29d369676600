from __future__ import annotations

import json

import pytest

from edgekit.cli.main import main
from edgekit.recipe import load_recipe, recipe_names


def test_names_are_one_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--names"]) == 0
    assert capsys.readouterr().out.splitlines() == recipe_names()


def test_json_says_what_the_recipes_say(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert list(rows) == recipe_names()
    tiny = load_recipe("yolov3-tiny")
    assert rows["yolov3-tiny"]["parameters"] == tiny.model.parameters == 8_852_366
    assert rows["yolov3-tiny"]["inputs"][0]["shape"] == [1, 3, 416, 416]
    assert rows["yolov3-tiny"]["weights"]["coco"]["url"] == tiny.weights["coco"].url


def test_the_table_has_a_row_a_model_and_fits_80_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["models"]) == 0
    out = capsys.readouterr().out
    assert all(f" {name} " in out for name in recipe_names())
    assert "61.9 M" in out
    assert "…" not in out


def test_error_on_names_and_json_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--names", "--json"]) == 2
    assert "exclude each other" in capsys.readouterr().err
