import cv2
import numpy as np
import pytest
from PIL import Image

from edgekit.data.image_notes import image_notes
from edgekit.data.images import read_image
from edgekit.errors import DataError

SMALL = np.arange(200, dtype=np.uint8).reshape(10, 20)


def read_with_notes(image) -> tuple[np.ndarray, list[str]]:
    notes: list[str] = []
    with image_notes(notes.append):
        pixels = read_image(image)
    assert pixels.dtype == np.uint8 and (pixels == pixels[..., :1]).all()
    return pixels[..., 0], notes


def test_32_bit_integers_up_to_255_are_read_as_pillow_reads_them(tmp_path):
    Image.fromarray(SMALL.astype(np.int32)).save(tmp_path / "a.tif")
    pixels, (note,) = read_with_notes(tmp_path / "a.tif")
    np.testing.assert_array_equal(pixels, np.asarray(Image.open(tmp_path / "a.tif").convert("L")))
    assert "32-bit integers up to 199 are read as 8-bit values" in note


def test_32_bit_integers_above_are_read_as_16_bit_values(tmp_path):
    Image.fromarray(SMALL.astype(np.int32) * 257).save(tmp_path / "a.tif")
    pixels, notes = read_with_notes(tmp_path / "a.tif")
    np.testing.assert_array_equal(pixels, SMALL)
    assert notes == []


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("factor", [1, 20])
def test_16_bit_images_that_become_dark_are_read_as_opencv_reads_them_and_noted(tmp_path, suffix, factor):
    Image.fromarray(SMALL.astype(np.uint16) * factor).save(tmp_path / f"a.{suffix}")
    pixels, (note,) = read_with_notes(tmp_path / f"a.{suffix}")
    np.testing.assert_array_equal(pixels, cv2.imread(str(tmp_path / f"a.{suffix}"))[..., 0])
    assert f"its 16-bit values reach {199 * factor} of 65535" in note and "scale the values" in note


def test_16_bit_images_of_the_whole_range_or_all_black_are_not_noted():
    for factor in (257, 0):
        pixels, notes = read_with_notes(Image.fromarray(SMALL.astype(np.uint16) * factor))
        np.testing.assert_array_equal(pixels, SMALL if factor else 0 * SMALL)
        assert notes == []


def test_pgm_of_16_bits_is_no_image_of_32_bits(tmp_path):
    (tmp_path / "a.pgm").write_bytes(b"P5 20 10 65535\n" + SMALL.astype(">u2").tobytes())
    pixels, (note,) = read_with_notes(tmp_path / "a.pgm")
    np.testing.assert_array_equal(pixels, 0 * SMALL)
    assert "of 65535" in note


@pytest.mark.parametrize("scale", [1, 255])
def test_floats_are_read_from_0_to_1_or_from_0_to_255(tmp_path, scale):
    Image.fromarray(SMALL.astype(np.float32) / scale).save(tmp_path / "a.tif")
    pixels, (note,) = read_with_notes(tmp_path / "a.tif")
    np.testing.assert_array_equal(pixels, SMALL)
    assert f"as values from 0 to {255 // scale}" in note


@pytest.mark.parametrize(
    ("values", "got"),
    [
        (np.int32([[-1, 3]]), "values from -1 to 3"),
        (np.int32([[0, 70_000]]), "values from 0 to 70000"),
        (np.float32([[-0.5, 1]]), "values from -0.5 to 1"),
        (np.float32([[0, 300]]), "values from 0 to 300"),
        (np.float32([[0, np.nan]]), "not finite"),
        (np.float32([[0, np.inf]]), "not finite"),
    ],
)
def test_samples_without_an_agreed_range_are_refused(values, got):
    with pytest.raises(DataError, match=got) as caught:
        read_image(Image.fromarray(values))
    assert "scale the values to 0 to 255" in caught.value.hint


def test_a_bug_is_not_called_a_broken_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def with_8_bits(image: object, name: str) -> None:
        raise KeyError("bug")

    monkeypatch.setattr("edgekit.data.images.with_8_bits", with_8_bits)
    with pytest.raises(KeyError, match="bug"):
        read_image(Image.new("I", (2, 2)))
