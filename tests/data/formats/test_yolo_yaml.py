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
