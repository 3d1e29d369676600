from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFont, features

from edgekit.errors import EdgeKitWarning
from edgekit.runtime import fonts
from edgekit.runtime.detections import Detections
from edgekit.runtime.draw import draw
from edgekit.runtime.fonts import label_font

needs_freetype = pytest.mark.skipif(not features.check("freetype2"), reason="Pillow was built without FreeType")


@pytest.fixture
def no_fonts(monkeypatch):
    """A machine without fonts."""
    fonts._file_with.cache_clear()
    monkeypatch.setattr(fonts, "_font_files", lambda: ())
    yield
    fonts._file_with.cache_clear()


def detections(label):
    boxes, scores = np.float32([[10, 60, 150, 150]]), np.float32([0.9])
    return Detections(boxes, scores, np.array([1]), ("cat", label))


def has(font, letter):
    """Whether a font draws a letter otherwise than a character that no font has."""
    return bytes(font.getmask(letter)) != bytes(font.getmask("\U0010ffff"))


@needs_freetype
def test_every_letter_of_a_label_is_drawn_or_there_is_no_font():
    for text in ("cat é", "собака", "安全帽", "ทดสอบ", "mixed собака cat"):
        font = label_font(text, 20)
        if font is not None:
            assert all(has(font, letter) for letter in text if letter != " " and letter.isalpha()), text


@needs_freetype
def test_a_font_of_the_system_is_used_if_pillows_has_no_cyrillic(tmp_path, monkeypatch):
    candidates = [file for file in fonts._font_files() if "DejaVuSans.ttf" in file.name]
    if not candidates:
        pytest.skip("DejaVu Sans is not installed")
    fonts._file_with.cache_clear()
    (tmp_path / "damaged.ttf").write_bytes(b"no font")
    monkeypatch.setattr(fonts, "_font_files", lambda: (tmp_path / "damaged.ttf", candidates[0]))
    assert not has(ImageFont.load_default(20), "с")
    font = label_font("собака", 20)
    assert font is not None and font.getname()[0] == "DejaVu Sans" and has(font, "с")
    fonts._file_with.cache_clear()


@needs_freetype
def test_a_label_without_a_font_is_drawn_as_its_number_and_noted(no_fonts):
    image, notes = Image.new("RGB", (200, 160)), []
    drawn = draw(image, detections("安全帽"), note=notes.append)
    (note,) = notes
    assert "'安全帽' is #1" in note and "install a font" in note
    same = draw(image, detections("#1"), note=notes.append)
    assert np.array_equal(np.asarray(drawn), np.asarray(same)) and len(notes) == 1
    with pytest.warns(EdgeKitWarning, match="no font here has the letters"):
        draw(image, detections("安全帽"))


@needs_freetype
def test_a_label_is_drawn_on_one_line_and_latin_labels_need_no_search(no_fonts):
    image = Image.new("RGB", (200, 160))
    one, two = (np.asarray(draw(image, detections(label))) for label in ("a b", "a\n b"))
    assert np.array_equal(one, two)


def test_fonts_are_searched_with_wide_families_first(tmp_path, monkeypatch):
    for name in ("Zed.ttf", "DejaVuSans-Bold.ttf", "DejaVuSans.ttf", "NotoSansCJK-Regular.ttc", "._x.ttf", "a.txt"):
        (tmp_path / name).write_bytes(b"")
    monkeypatch.setattr(fonts, "_font_folders", lambda: [tmp_path, Path("/nowhere")])
    monkeypatch.setattr(fonts, "_packaged", lambda: iter(()))
    fonts._font_files.cache_clear()
    names = [file.name for file in fonts._font_files()]
    fonts._font_files.cache_clear()
    assert names == ["NotoSansCJK-Regular.ttc", "DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "Zed.ttf"]
