from pathlib import Path

import pytest

from edgekit.cli.main import main
from edgekit.data.missing import hint_on_missing


def test_a_similar_name_beside_is_suggested(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").touch()
    (tmp_path / ".hidden.jpg").touch()
    assert hint_on_missing(tmp_path / "holliday.jpg") == f"did you mean {tmp_path / 'holiday.jpg'}?"
    assert hint_on_missing(tmp_path / "none" / "holliday.jpg") == ""
    assert hint_on_missing("bad\0name") == ""


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("PHOTO.jpg", "a picture"),
        ("photo.jpg", "a picture"),
        ("INPUT.npy", "a file with the model's input"),
        ("inputs.npz", "a file with the model's inputs"),
        ("TEXTS.txt", "a file of texts"),
    ],
)
def test_a_placeholder_is_said_to_be_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, what: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert hint_on_missing(name) == f"{name} stands for {what} of yours: write its path instead"


def test_commands_say_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "engine").mkdir()
    assert main(["run", "engine", "PHOTO.jpg"]) != 0
    assert "PHOTO.jpg stands for a picture of yours: write its path instead" in capsys.readouterr().err
    assert main(["profile", "engine", "--image", "photo.jpg"]) == 2
    assert "photo.jpg stands for a picture of yours" in capsys.readouterr().err


def test_a_link_says_where_it_leads(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").symlink_to("nowhere.jpg")
    assert hint_on_missing(tmp_path / "photo.jpg") == "it is a link to nowhere.jpg, which does not exist"
