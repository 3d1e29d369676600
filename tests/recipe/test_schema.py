from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgekit.errors import EdgeKitError, RecipeError, UsageError
from edgekit.recipe.schema import Recipe, load_recipe, recipe_from_file, recipe_names, shipped

VALID = """
name = "pair"
title = "A model of two classes"
task = "detect"
macs = 12
outputs = ["far", "near"]

[model]
factory = "package.module:factory"
arguments = { classes = 2 }
parameters = 34

[[inputs]]
name = "images"
shape = [1, 3, 64, 96]

[preprocess]
resize = "letterbox"
mean = [0.1, 0.2, 0.3]
std = [1, 2, 3]

[postprocess]
score_threshold = 0.5

[postprocess.head]
family = "yolov3"
heads = [
    { output = "far", stride = 32, anchors = [[1, 2], [3, 4]] },
    { output = "near", stride = 16, anchors = [[5, 6], [7, 8]] },
]

[labels]
file = "names.txt"

[weights.first]
url = "https://example.org/a.weights"
sha256 = "0000000000000000000000000000000000000000000000000000000000000000"
size_bytes = 12
license = "CC0-1.0"
source = "nobody"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "names.txt").write_text("cat\ndog\n\n")
    return tmp_path


def read(folder: Path, text: str) -> Recipe:
    (folder / "pair.toml").write_text(text)
    return recipe_from_file(folder / "pair.toml")


def test_a_recipe_is_loaded_with_its_labels(folder: Path) -> None:
    recipe = read(folder, VALID)
    assert recipe.labels.names == ("cat", "dog")
    assert recipe.inputs[0].name == "images"
    assert recipe.preprocess is not None and recipe.preprocess.std == (1.0, 2.0, 3.0)
    assert recipe.postprocess is not None and recipe.postprocess.head.heads[1].anchors == ((5.0, 6.0), (7.0, 8.0))


def test_heads_of_yolov1_have_boxes_instead_of_anchors(folder: Path) -> None:
    start = VALID.index("heads = [")
    heads = VALID[start : VALID.index("]\n\n", start) + 2]
    text = VALID.replace('family = "yolov3"', 'family = "yolov1"')
    recipe = read(folder, text.replace(heads, 'heads = [{ output = "far", stride = 32, boxes = 2 }]\n'))
    assert recipe.postprocess is not None and recipe.postprocess.head.heads[0].boxes == 2
    with pytest.raises(RecipeError, match=r"heads\[0\].boxes: expected a number > 0, since family is 'yolov1', got 0"):
        read(folder, text.replace(heads, 'heads = [{ output = "far", stride = 32 }]\n'))


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("macs = 12", "mac = 12", "mac: unknown field\ndid you mean macs?"),
        ("resize =", "rezise =", "preprocess.rezise: unknown field\ndid you mean resize"),
        ("stride = 16", "strid = 16", "postprocess.head.heads[1].strid: unknown field\ndid you mean stride?"),
        ("[weights.first]", "[weights]", "weights.url: expected a table, got 'https://example.org/a.weights'"),
        ('title = "A model of two classes"', "", "title: expected a value, got none"),
        (
            "parameters = 34",
            'onnx = "net.onnx"',
            "model.factory: expected this or onnx, one of both, got 'package.module:factory'",
        ),
        ("parameters = 34", 'parameters = "many"', "model.parameters: expected an integer, got 'many'"),
        ("parameters = 34", "parameters = 3.5", "model.parameters: expected an integer, got 3.5"),
        ("parameters = 34", "parameters = true", "model.parameters: expected an integer, got True"),
        ("parameters = 34", "parameters = -1", "model.parameters: expected an integer >= 0, got -1"),
        (
            'task = "detect"',
            'task = "detekt"',
            "task: expected one of classify, detect, obb, pose, regress, segment, tensor, translate, got 'detekt'",
        ),
        (
            'task = "detect"',
            'task = ["detect"]',
            "task: expected one of classify, detect, obb, pose, regress, segment, tensor, translate, got ['detect']",
        ),
        ('name = "pair"', 'name = "A pair"', "name: expected lower-case letters, digits"),
        ('"package.module:factory"', '"package"', "model.factory: expected package.module:callable, got 'package'"),
        ("[1, 3, 64, 96]", "[1, 3, -64, 96]", "inputs[0].shape[2]: expected an integer >= 1, got -64"),
        ("[1, 3, 64, 96]", "[]", "inputs[0].shape: expected a list of length >= 1, got []"),
        (
            "[1, 3, 64, 96]",
            "[1, 3, 64]",
            "inputs[0].shape: expected 4 numbers, since there is a [preprocess], got [1, 3, 64]",
        ),
        ("[1, 3, 64, 96]", "[1, 64, 96, 3]", "inputs[0].shape: expected 3 channels"),
        (
            'family = "yolov3"',
            'family = "yolov4"',
            "postprocess.head.family: expected one of yolov1, yolov2, yolov3, yolov5, yolov8, yolox, end2end, detr, "
            "boxes-scores-labels, efficient-nms, batched-rows, got 'yolov4'",
        ),
        (
            'family = "yolov3"',
            'family = "yolov1"',
            "postprocess.head.heads[0].anchors: expected none, since family is 'yolov1', got [(1.0, 2.0), (3.0, 4.0)]",
        ),
        ("[[1, 2], [3, 4]]", "[]", "heads[0].anchors: expected at least one anchor, since family is 'yolov3', got []"),
        (
            "[[1, 2], [3, 4]]",
            "[[1, 2], [3, 4]], boxes = 2",
            "heads[0].boxes: expected none, since family is 'yolov3', got 2",
        ),
        (
            "[1, 3, 64, 96]",
            '[1, 3, 64, 96]\ndtype = "int32"',
            "inputs[0].dtype: expected one of float32, int64, uint8, got",
        ),
        (
            "[1, 3, 64, 96]",
            '[1, 3, 64, 96]\ndtype = "int64"',
            "inputs[0].num_values: expected a number > 0, since dtype is 'int64', got 0",
        ),
        (
            "[1, 3, 64, 96]",
            '[1, 3, 64, 96]\ndtype = "int64"\nnum_values = 2',
            "inputs[0].dtype: expected 'float32' or 'uint8', since there is a [preprocess], got 'int64'",
        ),
        (
            "[1, 3, 64, 96]",
            '[1, 3, 64, 96]\ndtype = "uint8"',
            "preprocess.divisor: expected 1.0, since inputs[0].dtype is 'uint8': the model gets pixels as they are",
        ),
        (
            "[1, 3, 64, 96]",
            '[1, 3, 64, 96]\ndtype = "uint8"\nnum_values = 257',
            "inputs[0].num_values: expected 256 or less, since dtype is 'uint8', got 257",
        ),
        (
            "[1, 3, 64, 96]",
            "[1, 3, 64, 96]\nnum_values = 2",
            "inputs[0].num_values: expected none, since dtype is 'float32', got 2",
        ),
        (
            "[1, 3, 64, 96]",
            '[1, 3, 64, 96]\n[[inputs]]\nname = "images"\nshape = [1]',
            "inputs: expected unique names, got ['images', 'images']",
        ),
        (
            "[1, 3, 64, 96]",
            '[1, 3, 64, 96]\n[[inputs]]\nname = "mask"\nshape = [1]',
            "inputs: expected one image, since there is a [preprocess], got ['images', 'mask']",
        ),
        ("[1, 3, 64, 96]", "[1, 3, 64, 90]", "postprocess.head.heads[0].stride: expected a divisor"),
        (
            'task = "detect"',
            'task = "segment"',
            "task: expected 'detect', since postprocess.head is for it, got 'segment'",
        ),
        ("[1, 2, 3]", "[1, 0, 3]", "preprocess.std[1]: expected a number > 0, got 0.0"),
        ("[1, 2, 3]", "[1, nan, 3]", "preprocess.std[1]: expected a finite number, got nan"),
        ("[1, 2, 3]", "[1, 2]", "preprocess.std: expected 3 numbers, one per channel of 'rgb', got [1.0, 2.0]"),
        ("[0.1, 0.2, 0.3]", "[0.1, inf, 0.3]", "preprocess.mean[1]: expected a finite number, got inf"),
        ('"letterbox"', '"letterbox"\npad = 256', "preprocess.pad: expected an integer <= 255, got 256"),
        ('"letterbox"', '"letterbox"\ndivisor = 0', "preprocess.divisor: expected a number > 0.0, got 0"),
        ("= 0.5", "= 1.5", "postprocess.score_threshold: expected a number <= 1.0, got 1.5"),
        ("= 0.5", "= nan", "postprocess.score_threshold: expected a number >= 0.0, got nan"),
        (
            'output = "near"',
            'output = "neer"',
            "postprocess.head: expected names of outputs, which are far, near, got 'neer'",
        ),
        (
            'output = "near"',
            'output = "far"',
            "postprocess.head: expected an output for each of its fields, got 'far'",
        ),
        (
            "[[5, 6], [7, 8]]",
            "[[5, 6]]",
            "postprocess.head.heads[1].anchors: expected 2 anchors, the same number as heads[0], got 1",
        ),
        (
            "[[5, 6], [7, 8]]",
            "[[5, 6], [7]]",
            "head.heads[1].anchors[1]: expected a list of length 2, got [7]",
        ),
        (
            "[[5, 6], [7, 8]]",
            "[[5, 6], [7, 0]]",
            "head.heads[1].anchors[1]: expected a width and a height > 0",
        ),
        ('["far", "near"]', '["far", "near", "far"]', "outputs: expected unique names"),
        ("classes = 2", "classes = 3", "labels: expected 3 names, since model.arguments.classes = 3, got 2"),
        ('"names.txt"', '"none.txt"', "labels.file: expected a text file with one name per line, got"),
        (
            'file = "names.txt"',
            'file = "names.txt"\nnames = ["a"]',
            "labels.file: expected none, since names is set, got 'names.txt'",
        ),
        ("size_bytes = 12", "size_bytes = -1", "weights.first.size_bytes: expected an integer >= 0, got -1"),
        ('"https://', '"file://', "weights.first.url: expected an http or https address, got 'file://"),
        ('sha256 = "0', 'sha256 = "x', "weights.first.sha256: expected 8 to 64 of the digits 0-9 and a-f, got 'x000"),
        ("macs = 12", "macs = 1" + "0" * 30, "macs: expected an integer <= 9223372036854775807, got 1000"),
        ("macs = 12", "macs = ", "line 5, column 8: not valid TOML: Invalid value"),
        ("[model]", "[model", "not valid TOML"),
        ("macs = 12", "macs = 1" + "0" * 5000, "not valid TOML"),
        ("macs = 12", "macs = " + "[" * 5000, "not valid TOML: nested too deeply"),
    ],
)
def test_error_names_the_file_the_field_and_the_expected_value(folder: Path, old: str, new: str, expected: str) -> None:
    assert VALID.count(old) >= 1
    with pytest.raises(RecipeError) as caught:
        read(folder, VALID.replace(old, new, 1))
    assert str(caught.value).startswith(f"recipe {folder / 'pair.toml'}")
    assert expected in str(caught.value)


@pytest.mark.parametrize("table", ["preprocess", "postprocess"])
def test_error_on_a_detector_without_its_tables(folder: Path, table: str) -> None:
    text = re.sub(rf"\[{table}\].*?\n\n(\[{table}.head\].*?\n\n)?", "", VALID, flags=re.DOTALL)
    with pytest.raises(RecipeError, match=f"{table}: expected a table, since task is 'detect', got None"):
        read(folder, text)


def test_error_on_a_missing_file_a_folder_and_a_binary_file(tmp_path: Path) -> None:
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(RecipeError, match="expected a TOML file, got: "):
            recipe_from_file(path)
    (tmp_path / "a.toml").write_bytes(b'name = "\xff"')
    with pytest.raises(RecipeError, match="expected UTF-8 text, got the byte 0xff at offset 8"):
        load_recipe(tmp_path / "a.toml")


def test_error_on_labels_that_are_not_text(folder: Path) -> None:
    (folder / "names.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(RecipeError, match="labels.file: expected a text file in UTF-8"):
        read(folder, VALID)
    (folder / "names.txt").write_text("\n\n")
    with pytest.raises(RecipeError, match="labels.file: expected at least one name"):
        read(folder, VALID)


def test_error_on_an_unknown_name_suggests_the_nearest_names() -> None:
    with pytest.raises(UsageError, match="unknown recipe 'yolo3'") as caught:
        load_recipe("yolo3")
    assert "yolov3" in caught.value.hint
    with pytest.raises(UsageError):
        load_recipe("../recipes/yolov3")


@pytest.mark.parametrize("name", recipe_names())
def test_every_shipped_recipe_is_valid_and_named_as_its_file(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe == load_recipe(shipped("recipes") / f"{name}.toml")


def test_recipes_are_found_inside_an_installed_package(tmp_path: Path) -> None:
    package = Path(sys.modules["edgekit.recipe.schema"].__file__ or "").parents[1]
    (tmp_path / "edgekit" / "_shipped").mkdir(parents=True)
    (tmp_path / "edgekit" / "recipe").mkdir()
    for name in (
        "recipe/schema.py",
        "recipe/heads.py",
        "recipe/messages.py",
        "recipe/toml_data.py",
        "errors.py",
        "text.py",
    ):
        (tmp_path / "edgekit" / name).write_bytes((package / name).read_bytes())
    for name in ("__init__.py", "recipe/__init__.py"):
        (tmp_path / "edgekit" / name).touch()
    (tmp_path / "edgekit" / "_shipped" / "recipes").symlink_to(shipped("recipes"))
    code = "import edgekit.recipe.schema as r; print(r.__file__, r.load_recipe('yolov3').name, r.shipped('recipes'))"
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env={})
    assert run.returncode == 0, run.stderr
    place = tmp_path / "edgekit"
    assert run.stdout.split() == [str(place / "recipe" / "schema.py"), "yolov3", str(place / "_shipped" / "recipes")]


def test_error_if_the_installation_has_no_recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgekit.recipe.schema.__file__", str(tmp_path / "edgekit" / "recipe" / "schema.py"))
    with pytest.raises(EdgeKitError, match="folder 'recipes'"):
        recipe_names()


def test_reading_recipes_loads_nothing_heavy() -> None:
    code = "import sys, edgekit.recipe.schema as r; r.load_recipe('yolov3'); print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"numpy", "torch", "onnx", "PIL", "onnxruntime"} & set(run.stdout.split())


LINES = VALID.splitlines()
VALUES = st.one_of(
    st.integers().map(str),
    st.floats().map(lambda x: repr(x)),
    st.sampled_from(
        ["true", "[]", "{}", '""', '"x"', "[[1, 2]]", "1979-05-27", "[{}]", "{ a = { b = 1 } }", "[1, 'a']"]
    ),
    st.text(max_size=8),
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, len(LINES) - 1), VALUES, st.booleans())
def test_any_changed_line_gives_a_recipe_or_a_recipe_error(
    folder: Path, number: int, value: str, keep_key: bool
) -> None:
    line = f"{LINES[number].partition('=')[0]}= {value}" if keep_key else value
    text = "\n".join([*LINES[:number], line, *LINES[number + 1 :]])
    (folder / "pair.toml").write_bytes(text.encode(errors="surrogatepass"))
    try:
        recipe_from_file(folder / "pair.toml")
    except RecipeError as e:
        assert str(e).startswith(f"recipe {folder / 'pair.toml'}")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
def test_any_bytes_give_a_recipe_error(folder: Path, content: bytes) -> None:
    (folder / "pair.toml").write_bytes(content)
    with pytest.raises(RecipeError):
        recipe_from_file(folder / "pair.toml")
