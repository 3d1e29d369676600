import numpy as np
import pytest
from PIL import Image

from edgekit.data.image_notes import image_notes, note_on_image
from edgekit.data.images import read_image
from edgekit.errors import EdgeKitWarning


@pytest.mark.parametrize(
    ("suffix", "expected"),
    [("gif", "frames: the first"), ("webp", "frames: the first"), ("png", "frames: the first"), ("tif", "pages")],
)
def test_further_frames_are_noted_once_for_all_files(tmp_path, suffix, expected):
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    for name in ("a", "b"):
        frames[0].save(tmp_path / f"{name}.{suffix}", save_all=True, append_images=frames[1:])
    notes: list[str] = []
    with image_notes(notes.append):
        for name in ("a", "b"):
            red, green, blue = read_image(tmp_path / f"{name}.{suffix}")[0, 0].tolist()
            assert red > 240 and green < 10 and blue < 10
    (note,) = notes
    assert expected in note and f"a.{suffix}" in note


def test_a_file_of_one_frame_has_no_note(tmp_path):
    notes: list[str] = []
    with image_notes(notes.append):
        for suffix in ("gif", "webp", "png", "tif", "jpg"):
            Image.new("RGB", (4, 4), "red").save(tmp_path / f"a.{suffix}")
            read_image(tmp_path / f"a.{suffix}")
    assert notes == []


def test_a_damaged_second_frame_does_not_hinder_the_first(tmp_path):
    frames = [Image.effect_noise((32, 32), 90 + i) for i in range(2)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    whole = read_image(tmp_path / "a.gif")
    content = (tmp_path / "a.gif").read_bytes()
    (tmp_path / "b.gif").write_bytes(content[: len(content) * 3 // 4])
    np.testing.assert_array_equal(read_image(tmp_path / "b.gif"), whole)


def test_notes_are_warnings_once_in_a_process_and_once_in_a_block():
    with image_notes():
        with pytest.warns(EdgeKitWarning, match="first") as caught:
            note_on_image("kind", "first")
            note_on_image("kind", "second")
        assert len(caught) == 1
        inner: list[str] = []
        with image_notes(inner.append):
            note_on_image("kind", "third")
        assert inner == ["third"]
