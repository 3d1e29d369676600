"""``data.yaml``: anchors and aliases, and names in another form."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekit.data.formats.yolo_yaml import names_from_value, settings_from_yaml
from edgekit.errors import DataError

# The values are those of PyYAML's safe_load, with all scalars as texts.
ALIASES = [
    ("all: &all [cat, dog]\nnames: *all\n", {"all": ["cat", "dog"], "names": ["cat", "dog"]}),
    ("root: &root .\npath: *root  # here\n", {"root": ".", "path": "."}),
    ("val: &v valid/images\ntest: *v\n", {"val": "valid/images", "test": "valid/images"}),
    ("names: &n\n  0: cat\n  1: dog\nold: *n\n", {"names": {0: "cat", 1: "dog"}, "old": {0: "cat", 1: "dog"}}),
    ("a: &c cat\nnames: [*c, dog]\n", {"a": "cat", "names": ["cat", "dog"]}),
    ("names:\n  - &c cat\n  - dog\n  - *c\n", {"names": ["cat", "dog", "cat"]}),
    ("names: {0: &c cat, 1: *c}\n", {"names": {0: "cat", 1: "cat"}}),
    ("names: &n\n- cat\nold: *n\n", {"names": ["cat"], "old": ["cat"]}),
    ("a: !!str &x 'c # d'\nb: *x\n", {"a": "c # d", "b": "c # d"}),
    ("names: ['*c', \"&d\", R&D]\n", {"names": ["*c", "&d", "R&D"]}),
]

MERGES = [
    ("base: &b\n  path: /d\n  names: [cat]\n<<: *b\ntrain: x\n", {"path": "/d", "names": ["cat"], "train": "x"}),
    ("b: &b\n  path: /d\n  names:\n    0: cat\npath: /e\n<<: *b\n", {"path": "/e", "names": {0: "cat"}}),
    ("a: &a\n  path: c\nb: &b\n  path: d\n  train: t\n<<: [*a, *b]\n", {"path": "c", "train": "t"}),
    ("a: &a\n  path: c\nb: &b\n  <<: *a\n  train: t\n<<: *b  # both\n", {"path": "c", "train": "t"}),
    (
        "n: &n\n  0: cat\n  1: cow\nnames:\n  <<: *n\n  1: dog\n",
        {"n": {0: "cat", 1: "cow"}, "names": {0: "cat", 1: "dog"}},
    ),
]


@pytest.mark.parametrize(("text", "settings"), MERGES)
def test_a_merge_key_stands_for_the_entries_of_a_map(tmp_path: Path, text: str, settings: dict[str, object]) -> None:
    """As yaml.org/type/merge defines it: an entry of the map itself, then the first map of several, has precedence."""
    (tmp_path / "data.yaml").write_text(text)
    assert settings_from_yaml(tmp_path / "data.yaml") == settings


@pytest.mark.parametrize("text", ["names: [cat]\n<<: *none\n", "n: &n 3\n<<: *n\n", "names:\n  0: cat\n  <<: *none\n"])
def test_error_on_a_merge_key_without_a_map(tmp_path: Path, text: str) -> None:
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(DataError, match="line [23]: <<: expected the anchor of a map above, got"):
        settings_from_yaml(tmp_path / "data.yaml")


def test_maps_of_any_depth_are_read(tmp_path: Path) -> None:
    lines = [f"{' ' * depth}a: &a{depth}" for depth in range(400)]
    (tmp_path / "data.yaml").write_text("\n".join([*lines, "train: t"]))
    assert settings_from_yaml(tmp_path / "data.yaml") == {"train": "t"}


def test_entries_of_other_forms_are_ignored(tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text("augment: {lr: [0.1, 0.2]}\nsizes: [[1, 2], [3]]\nnames: [cat]\n")
    assert settings_from_yaml(tmp_path / "data.yaml") == {"names": ["cat"]}


@pytest.mark.parametrize(("text", "settings"), ALIASES)
def test_an_alias_is_the_value_of_its_anchor(tmp_path: Path, text: str, settings: dict[str, object]) -> None:
    (tmp_path / "data.yaml").write_text(text)
    assert settings_from_yaml(tmp_path / "data.yaml") == settings


def test_an_alias_of_nothing_is_shown(tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text("names: *none\n")
    with pytest.raises(DataError, match=r"names: expected a list, got '\*none'"):
        names_from_value(settings_from_yaml(tmp_path / "data.yaml")["names"], tmp_path / "data.yaml")


def test_names_in_one_text_are_shown(tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text("names: cat, dog\n")
    with pytest.raises(DataError, match="names: expected a list, got 'cat, dog'"):
        names_from_value(settings_from_yaml(tmp_path / "data.yaml")["names"], tmp_path / "data.yaml")


@pytest.mark.parametrize("null", ["null", "~", "Null", "NULL  # none", "&n null"])
def test_null_is_no_value(tmp_path: Path, null: str) -> None:
    file = tmp_path / "data.yaml"
    file.write_text(f"path: {null}\ntest: {null}\nkpt_shape: {null}\nval: 'null'\nnames: [cat, null]\n")
    assert settings_from_yaml(file) == {"val": "null", "names": ["cat", "null"]}
