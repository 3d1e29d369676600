"""A written recipe is read back as it was."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from edgekit.recipe.heads import YoloV8
from edgekit.recipe.schema import (
    Input,
    Labels,
    Model,
    Postprocess,
    Preprocess,
    Recipe,
    load_recipe,
    recipe_from_file,
    recipe_names,
)
from edgekit.recipe.write import recipe_toml


@pytest.mark.parametrize("name", recipe_names())
def test_shipped_recipes_are_read_back(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    (tmp_path / "r.toml").write_text(recipe_toml(recipe), encoding="utf-8")
    assert recipe_from_file(tmp_path / "r.toml") == recipe


def test_a_recipe_of_an_onnx_file_has_only_what_differs_from_the_defaults(tmp_path: Path) -> None:
    recipe = Recipe(
        name="gate",
        title="A detector",
        task="detect",
        model=Model(onnx="net.onnx"),
        inputs=(Input(name="x", shape=(1, 3, 64, 96)),),
        outputs=("y",),
        preprocess=Preprocess(pad=114),
        postprocess=Postprocess(head=YoloV8(output="y")),
        labels=Labels(names=('a \\ "b"', "ü")),
    )
    text = recipe_toml(recipe)
    (tmp_path / "r.toml").write_text(text, encoding="utf-8")
    read = recipe_from_file(tmp_path / "r.toml")
    assert read == msgspec.structs.replace(recipe, model=Model(onnx=str(tmp_path / "net.onnx")))
    assert "shape = [1, 3, 64, 96]\n" in text
    assert "[weights]" not in text and "multi_label" not in text
