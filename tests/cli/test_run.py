from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image

from edgekit.cli.main import main
from edgekit.data.input_statistics import InputStatistics
from edgekit.engine.bundle.manifest import read_manifest
from edgekit.engine.bundle.writing import seal

# Zeros decode to boxes that all score 0.25.
LOW = ["--score-threshold", "0.2"]


def test_json_alone_is_on_standard_output(detector: Path, picture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(detector), str(picture), "--json", *LOW]) == 0
    captured = capsys.readouterr()
    results = json.loads(captured.out)
    assert len(results) > 0
    for entry in results:
        assert {"image_id", "category_id", "bbox", "score"} <= entry.keys()
        x, y, width, height = entry["bbox"]
        assert 0 <= x <= x + width <= 100.01
        assert 0 <= y <= y + height <= 60.01
    assert "random" in captured.err


def test_json_of_nothing_found_is_an_empty_list(
    detector: Path, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(detector), str(picture), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_json_entries_say_which_picture_and_which_label(
    detector: Path, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["run", str(detector), str(picture), "--json", *LOW])
    entry = json.loads(capsys.readouterr().out)[0]
    assert entry["file_name"] == "picture.png"
    assert entry["label"] in ("cat", "dog")
    assert entry["category_id"] == ("cat", "dog").index(entry["label"]) + 1


def test_the_table_has_a_row_an_object(detector: Path, picture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(detector), str(picture), *LOW]) == 0
    out = capsys.readouterr().out
    rows = [line for line in out.splitlines() if line.split()[:1] in (["cat"], ["dog"])]
    assert f"picture.png: {len(rows)} objects" in out
    assert len(rows) > 1


def test_a_box_has_every_class_that_passes_or_its_best_one(
    detector: Path, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = []
    for option in ([], ["--multi-label"], ["--one-label"]):
        assert main(["run", str(detector), str(picture), "--json", *LOW, *option]) == 0
        counts.append(len(json.loads(capsys.readouterr().out)))
    assert 2 * counts[0] == counts[1] == 2 * counts[2] > 0  # two classes, of equal scores


def test_a_picture_is_saved_with_what_was_drawn_on_it(detector: Path, picture: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "boxes.png"
    assert main(["run", str(detector), str(picture), "--save", str(out), *LOW]) == 0
    before, after = (np.asarray(Image.open(path)) for path in (picture, out))
    assert before.shape == after.shape
    assert (before != after).any()


def numbered(folder: Path, names: list[str]) -> Path:
    folder.mkdir()
    for name in names:
        Image.new("RGB", (40, 30), "gray").save(folder / name)
    return folder


def test_a_folder_is_saved_as_a_folder(detector: Path, tmp_path: Path) -> None:
    photos = numbered(tmp_path / "photos", ["a.png", "b.jpg"])
    assert main(["run", str(detector), str(photos), "--save", str(tmp_path / "out"), *LOW]) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "b.jpg"]


def test_pictures_of_one_name_and_two_suffixes_are_both_saved(detector: Path, tmp_path: Path) -> None:
    photos = numbered(tmp_path / "photos", ["a.png", "a.jpg"])
    assert main(["run", str(detector), str(photos), "--save", str(tmp_path / "out"), *LOW]) == 0
    assert len(list((tmp_path / "out").iterdir())) == 2


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        (["000000000139.png", "000000000285.png"], {139, 285}),
        (["COCO_val2014_000000000042.png", "COCO_val2014_000000000073.png"], {42, 73}),
        (["a.png", "b.png"], {1, 2}),
        (["a1.png", "b1.png"], {1, 2}),
    ],
)
def test_image_ids_are_cocos_where_file_names_have_them(
    detector: Path, tmp_path: Path, names: list[str], ids: set[int], capsys: pytest.CaptureFixture[str]
) -> None:
    photos = numbered(tmp_path / "photos", names)
    assert main(["run", str(detector), str(photos), "--json", *LOW]) == 0
    assert {entry["image_id"] for entry in json.loads(capsys.readouterr().out)} == ids


def test_a_broken_picture_among_good_ones_is_skipped_and_said(
    detector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = numbered(tmp_path / "photos", ["a.png"])
    (photos / "b.jpg").write_bytes(b"\xff\xd8\xff\xe0 not a picture")
    assert main(["run", str(detector), str(photos), "--json", *LOW]) == 0
    captured = capsys.readouterr()
    assert {entry["file_name"] for entry in json.loads(captured.out)} == {"a.png"}
    assert "skipped" in captured.err
    assert "b.jpg" in captured.err


def test_error_on_a_folder_of_broken_pictures_alone(
    detector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = numbered(tmp_path / "photos", [])
    (photos / "b.jpg").write_bytes(b"\xff\xd8\xff\xe0 not a picture")
    assert main(["run", str(detector), str(photos), "--json"]) == 1
    assert capsys.readouterr().out == ""


def test_error_on_a_picture_that_is_not_there(
    detector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(detector), str(tmp_path / "nowhere.jpg")]) == 1
    assert "no such file" in capsys.readouterr().err


def test_error_on_an_engine_that_is_none(tmp_path: Path, picture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(tmp_path / "nothing"), str(picture)]) == 2
    assert "hint: edgekit build" in capsys.readouterr().err


def test_error_on_a_name_to_save_that_is_no_image(
    detector: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(detector), str(picture), "--save", str(tmp_path / "boxes.xyz")]) == 2
    assert "boxes.png" in capsys.readouterr().err


def test_error_on_a_place_to_save_that_cannot_be_written(
    detector: Path, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(detector), str(picture), "--save", f"{picture}/boxes.png"]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_arrays_go_in_and_out_of_files(arrays_engine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "x.npy", np.ones((2, 8), np.float32))
    arguments = ["run", str(arrays_engine), str(tmp_path / "x.npy"), "--save", str(tmp_path / "y.npz")]
    assert main(arguments) == 0
    with np.load(tmp_path / "y.npz") as saved:
        assert saved["y"].shape == (2, 4)
    assert "2x4" in capsys.readouterr().out


def test_arrays_by_name_and_a_summary_as_json(
    arrays_engine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "in.npz", x=np.ones((2, 8), np.float32))
    assert main(["run", str(arrays_engine), str(tmp_path / "in.npz"), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary == {"y": {"dtype": "float32", "shape": [2, 4], "min": 0.0, "mean": 0.0, "max": 0.0}}


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: np.save(path, np.ones((2, 9), np.float32)), "(2, 9)"),
        (lambda path: np.save(path, np.ones((2, 8), int)), "int64"),
        (lambda path: path.write_bytes(b"\x93NUMPY\x01"), "expected arrays"),
        (lambda path: path.write_bytes(b""), "expected arrays"),
        (lambda path: np.save(path, np.array([{}], object), allow_pickle=True), "expected arrays"),
        (lambda path: None, "no such file"),
    ],
)
def test_error_on_arrays_that_do_not_fit(
    arrays_engine: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    write: Callable[[Path], object],
    message: str,
) -> None:
    write(tmp_path / "x.npy")
    assert main(["run", str(arrays_engine), str(tmp_path / "x.npy")]) == 1
    assert message in capsys.readouterr().err


def test_error_on_a_picture_for_an_engine_that_takes_arrays(
    arrays_engine: Path, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(arrays_engine), str(picture)]) == 1
    err = capsys.readouterr().err
    assert "expected a .npy or .npz file" in err
    assert "x: float32 (2, 8)" in err


def test_an_image_far_from_the_training_is_noted(
    detector: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = read_manifest(detector)
    statistics = InputStatistics(source="training", count=100, mean=0.1, std=0.01, contrast=0.3)
    seal(detector, msgspec.structs.replace(manifest, input_statistics=statistics, expects="night photos"))
    Image.new("RGB", (100, 60), "white").save(tmp_path / "white.png")
    assert main(["run", str(detector), str(tmp_path / "white.png"), "--json"]) == 0
    captured = capsys.readouterr()
    assert "note: white.png is far from what the model was trained on" in captured.err
    assert "the 100 training inputs is 0.10 ± 0.01; the model expects night photos" in captured.err
    assert json.loads(captured.out) == []
    Image.new("RGB", (100, 60), (26, 26, 26)).save(tmp_path / "dark.png")
    assert main(["run", str(detector), str(tmp_path / "dark.png")]) == 0
    assert "far from" not in capsys.readouterr().err


def test_labels_of_a_file_name_the_classes(
    detector: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my.names").write_text("fox\nowl\n")
    assert main(["run", str(detector), str(picture), "--json", *LOW, "--labels", str(tmp_path / "my.names")]) == 0
    assert {entry["label"] for entry in json.loads(capsys.readouterr().out)} <= {"fox", "owl"}
    (tmp_path / "my.names").write_text("fox\n")
    assert main(["run", str(detector), str(picture), "--labels", str(tmp_path / "my.names")]) == 2
    assert "--labels: expected 2 names" in capsys.readouterr().err


def test_pictures_of_several_frames_are_noted_once_in_a_command(
    detector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = [Image.new("RGB", (100, 60), color) for color in ("red", "blue")]
    for name in ("a.gif", "b.gif"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    for _ in range(2):
        assert main(["run", str(detector), str(tmp_path / "a.gif"), str(tmp_path / "b.gif")]) == 0
        assert capsys.readouterr().err.count("has several frames: the first is used") == 1
    assert main(["run", str(detector), str(tmp_path / "a.gif"), "--quiet"]) == 0
    assert "frames" not in capsys.readouterr().err


def test_labels_without_a_font_are_noted_once(
    detector: Path, picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("edgekit.runtime.fonts._file_with", lambda letters: None)
    (tmp_path / "my.names").write_text("\u5b89\u5168\n\u5e3d\n", encoding="utf-8")
    for name in ("a", "b"):
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.open(picture).save(tmp_path / "photos" / f"{name}.png")
    options = ["--save", str(tmp_path / "out"), "--labels", str(tmp_path / "my.names"), *LOW]
    assert main(["run", str(detector), str(tmp_path / "photos"), *options]) == 0
    assert capsys.readouterr().err.count("no font here has the letters of these labels") == 1
