from pathlib import Path

import pytest

from edgekit.data.files import Finder, child, files_below, files_in, folders_in, is_hidden


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("")
    return path


def test_files_of_operating_systems_are_hidden(tmp_path):
    for name in ("._a.xml", ".DS_Store", "Thumbs.db", "desktop.ini", "a.xml", "B.XML", "a.txt"):
        touch(tmp_path / name)
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "folder.xml").mkdir()
    assert [file.name for file in files_in(tmp_path, ".xml")] == ["B.XML", "a.xml"]
    assert [folder.name for folder in folders_in(tmp_path)] == ["folder.xml"]
    assert is_hidden("._x") and not is_hidden("x._")
    assert child(tmp_path, "c.xml", "b.xml") == tmp_path / "B.XML" and child(tmp_path / "none", "a") is None


def test_links_to_nothing_are_files(tmp_path):
    (tmp_path / "a.png").symlink_to("nowhere.png")
    (tmp_path / "b.png").symlink_to("b.png")
    assert [file.name for file in files_in(tmp_path, ".png", dead_links=True)] == ["a.png", "b.png"]
    assert files_in(tmp_path, ".png") == []


def test_links_to_folders_are_followed_but_not_in_circles(tmp_path):
    file = touch(tmp_path / "elsewhere" / "deep" / "a.png")
    root = tmp_path / "set"
    root.mkdir()
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "again").symlink_to(tmp_path / "elsewhere")
    (root / "b.png").symlink_to(file)
    assert list(files_below(root, ".png")) == [root / "b.png", root / "linked" / "deep" / "a.png"]


@pytest.mark.parametrize(
    "text",
    [
        "images/1 a.png",
        "./images/1 a.png",
        "data/images/1 a.png",
        "images\\1 a.png",
        "C:\\Users\\me\\set\\images\\1 a.png",
        "/home/other/set/images/1 a.png",
        "../../images/1 a.png",
        "images/1%20a.png",
        "  images/1 a.png\t",
    ],
)
def test_paths_of_other_folders_and_machines_are_found(tmp_path, text):
    file = touch(tmp_path / "images" / "1 a.png")
    assert Finder([tmp_path / "nothing", tmp_path]).find(text) == file
    assert Finder([tmp_path]).find(str(file)) == file


def test_a_whole_path_comes_before_its_last_parts_which_are_counted(tmp_path):
    whole, last = touch(tmp_path / "far" / "a" / "1.png"), touch(tmp_path / "near" / "1.png")
    finder = Finder([tmp_path / "near", tmp_path / "far"], nearest=1)
    assert finder.find("a/1.png") == whole and finder.moved == 0
    assert Finder([tmp_path / "near"]).find("a/1.png") == last
    finder = Finder([tmp_path / "near"])
    assert finder.find("b/1.png") == last and finder.find("b/2.png") is None and finder.moved == 1
    assert Finder([tmp_path / "far" / "x", tmp_path / "far" / "a"], nearest=1).find("b/1.png") is None
