"""Commands as a user types them, one after the other, on a small detector."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import edgekit
from edgekit.cli.main import main
from edgekit.engine.bundle.manifest import read_manifest
from edgekit.measure import compare as side_by_side

BUILD = ["build", "yolov3-tiny", "--int8", "--shape", "96x96", "--calib-images", "2"]


def size_of(picture: Path) -> tuple[int, int]:
    with Image.open(picture) as image:
        return image.size


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with an engine ``t`` in it and a cache of its own; measuring is kept short."""
    folder = tmp_path_factory.mktemp("workplace")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEKIT_CACHE", str(folder / "cache"))
        patch.setattr(side_by_side, "MEASURE_S", 0.1)
        assert main([*BUILD, "-o", str(folder / "t")]) == 0
        yield folder


@pytest.fixture(scope="module")
def engine(workplace: Path) -> Path:
    return workplace / "t"


@pytest.fixture(scope="module")
def pictures(workplace: Path) -> Path:
    """Images of every supported kind, and a broken one."""
    folder = workplace / "pictures"
    folder.mkdir()
    random = np.random.default_rng(0)
    photo = Image.fromarray(random.integers(0, 256, (60, 80, 3), dtype=np.uint8))
    turned = Image.Exif()
    turned[0x0112] = 6
    photo.save(folder / "1.jpg")
    photo.convert("L").save(folder / "2-grey.png")
    photo.convert("CMYK").save(folder / "3-cmyk.jpg")
    photo.convert("RGBA").save(folder / "4-rgba.png")
    Image.fromarray(random.integers(0, 65536, (60, 80), dtype=np.uint16)).save(folder / "5-16bit.png")
    photo.save(folder / "6-turned.jpg", exif=turned)
    photo.crop((0, 0, 1, 1)).save(folder / "7-one-pixel.png")
    Image.fromarray(np.full((4000, 5000, 3), 90, np.uint8)).save(folder / "8-20-megapixels.jpg")
    (folder / "9-broken.jpg").write_bytes((folder / "1.jpg").read_bytes()[:400])
    return folder


def test_the_command_in_the_manifest_builds_the_same_in_the_same_place(
    engine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (engine / "graph.onnx").read_bytes()
    command = read_manifest(engine).rebuild.split()
    assert command[0] == "edgekit"
    assert main(command[1:]) == 0
    captured = capsys.readouterr()
    for stage in ("exporting to ONNX", "calibration found in the cache", "quantizing", "measuring INT8"):
        assert f"{stage} ...\n" in captured.err
    assert "calibrating" not in captured.err
    assert "note: the weights are random" in captured.err
    assert "calibrated on the shipped set 'sample' of 2 images" in captured.err
    assert all(word in captured.out for word in ("FP32", "INT8", "signal to noise", "dB"))
    assert f"edgekit run {engine} PHOTO.jpg" in captured.out
    assert (engine / "graph.onnx").read_bytes() == before
    assert [path.name for path in engine.parent.iterdir() if path.name.startswith(".")] == []


def test_standard_output_is_json_only(engine: Path, pictures: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Captures file descriptors, to see what libraries print outside of Python too."""
    assert main(["run", str(engine), str(pictures / "1.jpg"), "--json", "--score-threshold", "0.001"]) == 0
    captured = capfd.readouterr()
    results = json.loads(captured.out)
    assert results
    assert {"image_id", "category_id", "bbox", "score"} <= set(results[0])
    assert "the weights are random" in captured.err


def test_every_kind_of_image_runs_and_a_broken_one_is_skipped(
    engine: Path, pictures: Path, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = workplace / "saved"
    assert main(["run", str(engine), str(pictures), "--save", str(saved)]) == 0
    captured = capsys.readouterr()
    good = sorted(path.name for path in pictures.iterdir() if "broken" not in path.name)
    assert all(f"{name}: " in captured.out for name in good)
    assert sorted(path.name for path in saved.iterdir()) == good
    assert "skipped: " in captured.err and "9-broken.jpg: broken image" in captured.err
    # EXIF's orientation 6 turns by a quarter.
    assert [size_of(saved / name) for name in ("1.jpg", "6-turned.jpg")] == [(80, 60), (60, 80)]


def test_every_kind_of_image_calibrates_and_a_broken_one_is_counted(
    pictures: Path, tmp_path: Path, write_classifier: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    model, place = write_classifier(tmp_path / "m.onnx"), tmp_path / "mixed"
    assert main(["build", str(model), "--calib", str(pictures), "-o", str(place)]) == 0
    captured = capsys.readouterr()
    assert "skipped 1 of 9 calibration inputs: 9-broken.jpg: broken image" in captured.err
    calibration = read_manifest(place).calibration
    assert calibration is not None
    assert (calibration.images, calibration.skipped) == (8, 1)
    facts = json.loads((place / "report.json").read_text())["facts"]
    assert (facts["calibration_images"], facts["calibration_skipped"]) == (8, 1)
    assert "inputs skipped" in captured.out
    assert json.loads((place / "calibration.json").read_text())["skipped"][0].startswith("9-broken.jpg")


def test_the_report_of_a_build_has_accuracy_beside_speed(engine: Path) -> None:
    report = json.loads((engine / "report.json").read_text())
    heads = [head.output for head in read_manifest(engine).postprocess.head.heads]  # type: ignore[union-attr]
    parts = {(each["output"], each["part"]) for each in report["accuracy"]["noise"]}
    assert parts == {(head, part) for head in heads for part in ("boxes", "scores")}
    agreement = report["accuracy"]["agreement"]
    assert agreement["kind"] == "detections" and 0 < agreement["inputs"] <= 8
    page = (engine / "report.html").read_text()
    assert page.count('src="data:image/jpeg;base64,') == 2 * min(4, agreement["inputs"]), "FP32 beside INT8"


def test_a_profile_is_written_as_html_and_json(engine: Path, workplace: Path) -> None:
    page, numbers = workplace / "r.html", workplace / "r.json"
    assert main(["profile", str(engine), "--runs", "20", "--html", str(page), "--json-file", str(numbers)]) == 0
    report = json.loads(numbers.read_text())
    assert set(report["stages"]) == {"preprocess", "inference", "postprocess"}
    assert report["layers"] == read_manifest(engine).layers
    assert "<html" in page.read_text()


def test_python_and_the_command_line_give_the_same_result(
    engine: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = pictures / "1.jpg"
    main(["run", str(engine), str(picture), "--json", "--score-threshold", "0.001"])
    results = json.loads(capsys.readouterr().out)
    with edgekit.load(engine) as session:
        found = session.detect(picture, score_threshold=0.001)
    assert [entry["score"] for entry in results] == pytest.approx(found.scores.tolist(), abs=1e-5)
    corners = [[x, y, x + w, y + h] for x, y, w, h in (entry["bbox"] for entry in results)]
    np.testing.assert_allclose(corners, found.boxes, atol=0.01)


def test_a_users_module_is_built_from_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "nets.py").write_text(
        "from torch import nn\n\ndef small(width=16):\n    return nn.Sequential(\n"
        "        nn.Conv2d(3, width, 3), nn.ReLU(), nn.Conv2d(width, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3),\n"
        "        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 4))\n"
    )
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    line = ["build", "mine.nets:small", "--input", "1x3x32x32", "--no-profile"]
    assert main(line) == 0
    assert "engines/small-int8-cpu" in capsys.readouterr().out
    assert read_manifest(tmp_path / "engines" / "small-int8-cpu").layers["int8"] >= 1
    Image.new("RGB", (50, 40), "red").save(tmp_path / "red.png")
    assert main(["run", "engines/small-int8-cpu", "red.png", "--json"]) == 0
    (answer,) = json.loads(capsys.readouterr().out).values()
    assert answer["shape"] == [1, 4]


@pytest.mark.data
@pytest.mark.skipif("EDGEKIT_TEST_DATA" not in os.environ, reason="EDGEKIT_TEST_DATA is not set")
def test_the_trained_detector_finds_the_dog_in_int8(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    data = Path(os.environ["EDGEKIT_TEST_DATA"])
    weights = data / "yolov3-tiny" / "yolov3-tiny.weights"
    place, drawn = str(tmp_path / "t"), tmp_path / "dog.png"
    line = ["build", "yolov3-tiny", "--int8", "--weights", str(weights), "--calib", str(data / "photos"), "-o", place]
    assert main([*line, "--no-profile"]) == 0
    capsys.readouterr()
    assert main(["run", place, str(data / "photos" / "dog.jpg"), "--save", str(drawn), "--json"]) == 0
    captured = capsys.readouterr()
    found = {entry["label"]: entry["bbox"] for entry in json.loads(captured.out)}
    assert "random" not in captured.err
    x, y, width, height = found["dog"]
    # The dog of Darknet's own example sits at the left, its head in the middle of the picture.
    assert 100 < x < 180 and 180 < y < 260 and 130 < width < 260 and 250 < height < 360
    assert {"car", "truck", "bicycle"} & set(found)
    assert size_of(drawn) == size_of(data / "photos" / "dog.jpg")
