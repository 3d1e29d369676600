"""``edgekit run`` on several pictures, videos and streams."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgekit.cli.main import main
from edgekit.data.video.files import video_file

CAPTURE = pytest.CaptureFixture[str]
# Zeros decode to boxes that all score 0.25.
LOW = ["--score-threshold", "0.2"]


def lines(out: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in out.splitlines()]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "inner").mkdir(parents=True)
    for name in ("a.png", "b.jpg", "inner/a.png"):
        Image.new("RGB", (40, 30), "gray").save(folder / name)
    return folder


def test_a_line_for_each_picture_of_several(detector: Path, photos: Path, capsys: CAPTURE) -> None:
    assert main(["run", str(detector), str(photos / "a.png"), str(photos / "b.jpg"), "--jsonl", *LOW]) == 0
    first, second = lines(capsys.readouterr().out)
    assert (first["source"], first["frame"], first["time"]) == (str(photos / "a.png"), 0, None)
    assert (second["frame"], second["width"], second["height"]) == (1, 40, 30)
    entry = first["results"][0]  # type: ignore[index]
    assert {"image_id", "category_id", "bbox", "score", "label", "file_name"} == entry.keys()


def test_json_of_several_pictures_is_one_list_of_coco_s_results(
    detector: Path, photos: Path, tmp_path: Path, capsys: CAPTURE
) -> None:
    files = tmp_path / "r.json", tmp_path / "r.jsonl"
    assert main(["run", str(detector), str(photos), "--recursive", "--json", "--json-file", str(files[0]), *LOW]) == 0
    out = capsys.readouterr().out
    entries = json.loads(out)
    assert {"image_id", "category_id", "bbox", "score"} <= entries[0].keys()
    assert [entry["image_id"] for entry in entries] == sorted(entry["image_id"] for entry in entries)
    assert {entry["image_id"] for entry in entries} == {1, 2, 3}
    assert json.loads(files[0].read_text()) == entries
    assert main(["run", str(detector), str(photos), "--recursive", "--json-file", str(files[1]), *LOW]) == 0
    assert [entry for line in lines(files[1].read_text()) for entry in line["results"]] == entries  # type: ignore[union-attr,attr-defined]


def test_json_of_a_video_is_one_list_with_an_object_for_each_frame(
    detector: Path, photos: Path, write_video: Callable[..., Path], capsys: CAPTURE
) -> None:
    video = str(write_video(frames=3, rate=10))
    assert main(["run", str(detector), str(photos / "a.png"), video, "--json", *LOW]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(each["source"], each["frame"]) for each in found] == [
        (str(photos / "a.png"), 0),
        *((video, i) for i in range(3)),
    ]
    assert main(["run", str(detector), str(photos / "a.png"), video, "--jsonl", *LOW]) == 0
    assert lines(capsys.readouterr().out) == found


def test_error_on_both_forms_of_json_on_standard_output(detector: Path, photos: Path, capsys: CAPTURE) -> None:
    assert main(["run", str(detector), str(photos), "--json", "--jsonl"]) == 2
    assert "expected --json or --jsonl, got both" in capsys.readouterr().err


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_leaves_one_json_list(detector: Path) -> None:
    pytest.importorskip("av")
    from video_servers import JpegServer

    with JpegServer() as server:
        running = edgekit("run", str(detector), server.address, "--json")
        assert running.stdout is not None
        first = [running.stdout.readline() for _ in range(3)]
        running.send_signal(signal.SIGINT)
        rest, _ = running.communicate(timeout=30)
    assert running.returncode == 130
    assert len(json.loads(b"".join(first) + rest)) >= 2


def test_a_line_for_each_frame_of_a_video(
    detector: Path, write_video: Callable[..., Path], capsys: CAPTURE, tmp_path: Path
) -> None:
    video = write_video(frames=6, rate=10)
    file = tmp_path / "frames.jsonl"
    assert main(["run", str(detector), str(video), "--jsonl", "--json-file", str(file), *LOW]) == 0
    out = capsys.readouterr().out
    found = lines(out)
    assert [(line["frame"], line["time"]) for line in found] == [(i, i / 10) for i in range(6)]
    assert {line["source"] for line in found} == {str(video)}
    assert {"category_id", "bbox", "score", "label"} == found[0]["results"][0].keys()  # type: ignore[index]
    assert file.read_text() == out


def test_the_terminal_has_a_summary_of_a_video(
    detector: Path, write_video: Callable[..., Path], capsys: CAPTURE
) -> None:
    assert main(["run", str(detector), str(write_video(frames=3)), "--multi-label", *LOW]) == 0
    captured = capsys.readouterr()
    assert ": 3 frames: " in captured.out and " cat, " in captured.out
    assert "3 frames" in captured.err  # how long they took


def test_a_video_is_saved_with_boxes_and_sound(
    detector: Path, write_video: Callable[..., Path], tmp_path: Path, capsys: CAPTURE
) -> None:
    av = pytest.importorskip("av")
    video = write_video(frames=10, rate=10, sound=True)
    out = tmp_path / "new" / "out.mp4"
    assert main(["run", str(detector), str(video), "--save", str(out), *LOW]) == 0
    assert f"wrote {out}" in capsys.readouterr().err
    before, after = (list(video_file(path, name="v").frames()) for path in (video, out))
    assert [frame.time_s for frame in after] == pytest.approx([frame.time_s for frame in before])
    assert all((np.abs(a.pixels.astype(int) - b.pixels) > 60).any() for a, b in zip(before, after, strict=True))
    with av.open(str(out)) as container:
        assert len(container.streams.audio) == 1


def test_pictures_and_videos_are_saved_in_one_folder(
    detector: Path, photos: Path, write_video: Callable[..., Path], tmp_path: Path
) -> None:
    write_video("photos/v.mov", frames=3)
    write_video("photos/inner/v.ts", frames=2)
    out = tmp_path / "out"
    assert main(["run", str(detector), str(photos), "--recursive", "--save", str(out), *LOW]) == 0
    found = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    assert found == ["a.png", "b.jpg", "inner/a.png", "inner/v.ts.mp4", "v.mov"]


def test_pictures_of_one_name_get_numbers(detector: Path, photos: Path, tmp_path: Path) -> None:
    words = [str(photos / "a.png"), str(photos / "inner" / "a.png"), "--save", str(tmp_path / "out")]
    assert main(["run", str(detector), *words]) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a-2.png", "a.png"]


def test_a_picture_that_is_given_twice_keeps_its_name(detector: Path, photos: Path, tmp_path: Path) -> None:
    words = [str(photos), str(photos / "*.png"), "--save", str(tmp_path / "out")]
    assert main(["run", str(detector), *words]) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "b.jpg"]


def test_a_video_is_replaced_by_force_only(detector: Path, write_video: Callable[..., Path], capsys: CAPTURE) -> None:
    video = write_video(frames=4)
    content = video.read_bytes()
    for save in (video, video.parent):
        assert main(["run", str(detector), str(video), "--save", str(save)]) == 2
        assert "expected another file than the source" in capsys.readouterr().err
    assert video.read_bytes() == content
    assert main(["run", str(detector), str(video), "--save", str(video), "--force", *LOW]) == 0
    assert video.read_bytes() != content
    assert len(list(video_file(video, name="v").frames())) == 4


def test_one_source_is_never_replaced_by_the_results_of_another(detector: Path, photos: Path, capsys: CAPTURE) -> None:
    words = [str(photos / "inner"), str(photos / "a.png"), "--save", str(photos)]
    assert main(["run", str(detector), *words]) == 2
    assert "expected another file than the source" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "hint"), [("out.jpg", "out.mp4"), ("out.gif", "out.mp4")])
def test_error_on_a_picture_s_name_for_a_video(
    name: str, hint: str, detector: Path, write_video: Callable[..., Path], tmp_path: Path, capsys: CAPTURE
) -> None:
    assert main(["run", str(detector), str(write_video(frames=1)), "--save", str(tmp_path / name)]) == 2
    assert hint in capsys.readouterr().err


def test_text_files_are_yolo_s(detector: Path, photos: Path, tmp_path: Path, capsys: CAPTURE) -> None:
    out = tmp_path / "labels"
    words = ["run", str(detector), str(photos), "--save-txt", str(out), *LOW]
    assert main([*words, "--jsonl"]) == 0
    found = lines(capsys.readouterr().out)
    for line, name in zip(found, ("a.txt", "b.txt"), strict=True):
        rows = [list(map(float, row.split())) for row in (out / name).read_text().splitlines()]
        boxes = []
        for kind, x, y, width, height in rows:
            corner = [(x - width / 2) * 40, (y - height / 2) * 30, width * 40, height * 30]
            boxes.append((kind + 1, *corner))
        entries = [(entry["category_id"], *entry["bbox"]) for entry in line["results"]]  # type: ignore[union-attr]
        np.testing.assert_allclose(boxes, entries, atol=2e-3)
    assert main(words) == 2
    assert "replace them with --force" in capsys.readouterr().err
    assert main([*words, "--force"]) == 0


def test_frames_have_text_files_of_their_own(detector: Path, write_video: Callable[..., Path], tmp_path: Path) -> None:
    words = [str(write_video(frames=2)), "--save-txt", str(tmp_path / "out"), "--track", *LOW]
    assert main(["run", str(detector), *words]) == 0
    files = sorted((tmp_path / "out").iterdir())
    assert [file.name for file in files] == ["video_000000.txt", "video_000001.txt"]
    assert {len(row.split()) for row in files[0].read_text().splitlines()} == {6}


def test_ids_are_those_of_the_ground_truth(detector: Path, photos: Path, tmp_path: Path, capsys: CAPTURE) -> None:
    content = {
        "images": [{"id": 700 + i, "file_name": name} for i, name in enumerate(("b.jpg", "a.png"))],
        "annotations": [],
        "categories": [{"id": 31, "name": "Dog"}, {"id": 7, "name": "cat"}],
    }
    (tmp_path / "truth.json").write_text(json.dumps(content))
    words = ["run", str(detector), str(photos), "--json", "--ids", str(tmp_path / "truth.json"), "--multi-label", *LOW]
    assert main(words) == 0
    entries = json.loads(capsys.readouterr().out)
    assert {(entry["image_id"], entry["file_name"]) for entry in entries} == {(701, "a.png"), (700, "b.jpg")}
    assert {(entry["category_id"], entry["label"]) for entry in entries} == {(7, "cat"), (31, "dog")}
    del content["images"][0]
    (tmp_path / "truth.json").write_text(json.dumps(content))
    assert main(words) == 1
    assert "b.jpg" in capsys.readouterr().err


def test_error_on_ids_of_a_video(
    detector: Path, write_video: Callable[..., Path], tmp_path: Path, capsys: CAPTURE
) -> None:
    (tmp_path / "truth.json").write_text("{}")
    words = [str(write_video(frames=1)), "--json", "--ids", str(tmp_path / "truth.json")]
    assert main(["run", str(detector), *words]) == 2
    assert "expected image files, which have ids, got" in capsys.readouterr().err


def test_a_duration_ends_a_video(detector: Path, write_video: Callable[..., Path], capsys: CAPTURE) -> None:
    assert main(["run", str(detector), str(write_video(frames=20, rate=10)), "--jsonl", "--duration", "0.5"]) == 0
    assert len(lines(capsys.readouterr().out)) == 5


def test_tracks_are_in_the_lines(detector: Path, write_video: Callable[..., Path], capsys: CAPTURE) -> None:
    assert main(["run", str(detector), str(write_video(frames=3)), "--jsonl", "--track", *LOW]) == 0
    first, _, last = lines(capsys.readouterr().out)
    tracks = [{entry["track"] for entry in line["results"]} for line in (first, last)]  # type: ignore[union-attr]
    assert tracks[0] == tracks[1] and min(tracks[0]) == 1


def test_error_on_tracks_without_boxes(
    make_bundle: Callable[..., Path], photos: Path, tmp_path: Path, capsys: CAPTURE
) -> None:
    from edgekit.recipe.schema import Preprocess
    from edgekit.specs import TensorSpec

    kind = {
        "task": "classify",
        "inputs": (TensorSpec("images", "float32", (1, 3, 8, 8)),),
        "outputs": (TensorSpec("logits", "float32", (1, 4)),),
        "preprocess": Preprocess(resize="stretch"),
        "labels": tuple("abcd"),
    }
    engine = str(make_bundle("classifier", kind=kind))
    for words in (["--track"], ["--save-txt", str(tmp_path / "out")]):
        assert main(["run", engine, str(photos), *words]) == 2
        assert "results have boxes, got a classifier" in capsys.readouterr().err


def test_error_on_a_batch_that_the_engine_does_not_take(detector: Path, photos: Path, capsys: CAPTURE) -> None:
    assert main(["run", str(detector), str(photos), "--batch", "2"]) == 2
    assert "--batch 2: expected a batch that the engine takes, which was built for 1" in capsys.readouterr().err


def test_a_broken_video_among_good_files_is_skipped_and_said(detector: Path, photos: Path, capsys: CAPTURE) -> None:
    pytest.importorskip("av")
    (photos / "c.mp4").write_bytes(b"not a video")
    assert main(["run", str(detector), str(photos), "--json"]) == 0
    captured = capsys.readouterr()
    assert len(json.loads(captured.out)) == 2
    assert "skipped" in captured.err and "c.mp4" in captured.err


def test_without_a_display_it_is_said_that_nothing_is_shown(
    detector: Path, picture: Path, monkeypatch: pytest.MonkeyPatch, capsys: CAPTURE
) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    assert main(["run", str(detector), str(picture), "--show"]) == 0
    assert "note: nothing is shown: --show needs" in capsys.readouterr().err


def test_options_of_frames_are_refused_for_arrays(arrays_engine: Path, tmp_path: Path, capsys: CAPTURE) -> None:
    np.save(tmp_path / "x.npy", np.ones((2, 8), np.float32))
    assert main(["run", str(arrays_engine), str(tmp_path / "x.npy"), "--track"]) == 2
    assert "--track: expected an engine that runs on images" in capsys.readouterr().err
    assert main(["run", str(arrays_engine), str(tmp_path / "x.npy"), str(tmp_path / "x.npy")]) == 2
    assert "expected one file of arrays or texts, got 2" in capsys.readouterr().err


def test_several_sources_need_an_end(detector: Path, picture: Path, tmp_path: Path, capsys: CAPTURE) -> None:
    words = ["run", str(detector), "rtsp://127.0.0.1:9/cam", str(picture), "--save", str(tmp_path / "out")]
    assert main(words) == 2
    assert "expected --duration S with several sources" in capsys.readouterr().err


def edgekit(*words: str, **options: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "edgekit", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options
    )  # type: ignore[call-overload]


def test_a_video_comes_from_standard_input(detector: Path, write_video: Callable[..., Path]) -> None:
    video = write_video("video.mkv", frames=4)
    with video.open("rb") as file:
        out, _ = edgekit("run", str(detector), "-", "--jsonl", stdin=file).communicate(timeout=60)
    assert [(line["source"], line["frame"]) for line in lines(out.decode())] == [("-", i) for i in range(4)]


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_finishes_the_video(detector: Path, tmp_path: Path) -> None:
    pytest.importorskip("av")
    from video_servers import JpegServer

    out = tmp_path / "out.mp4"
    with JpegServer() as server:
        running = edgekit("run", str(detector), server.address, "--save", str(out), "--jsonl")
        assert running.stdout is not None
        for _ in range(5):
            assert running.stdout.readline()
        running.send_signal(signal.SIGINT)
        start = time.monotonic()
        _, err = running.communicate(timeout=30)
    assert time.monotonic() - start < 10
    assert running.returncode == 130 and b"interrupted" in err and f"wrote {out}".encode() in err
    assert len(list(video_file(out, name="v").frames())) >= 3
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ""] == ["out.mp4"]


def test_a_stream_is_watched_for_a_duration(detector: Path, capsys: CAPTURE) -> None:
    pytest.importorskip("av")
    from video_servers import JpegServer

    with JpegServer() as server:
        start = time.monotonic()
        assert main(["run", str(detector), server.address, "--jsonl", "--duration", "0.6"]) == 0
        assert 0.5 < time.monotonic() - start < 8
    found = lines(capsys.readouterr().out)
    assert len(found) >= 3 and found[-1]["time"] <= 0.6  # type: ignore[operator]


def test_error_on_ids_without_json(detector: Path, picture: Path, tmp_path: Path, capsys: CAPTURE) -> None:
    ids = tmp_path / "ids.json"
    ids.write_text('{"images": [], "annotations": [], "categories": []}')
    assert main(["run", str(detector), str(picture), "--ids", str(ids)]) == 2
    captured = capsys.readouterr()
    assert "expected results as JSON, which have image ids" in captured.err and not captured.out
