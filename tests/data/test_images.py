import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from edgekit.data.images import image_size, image_suffixes, images_in, read_image
from edgekit.errors import DataError

rng = np.random.default_rng(0)


def noise(*shape, dtype=np.uint8):
    return rng.integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


def test_png_comes_back_as_it_was_written(tmp_path):
    image = noise(5, 7, 3)
    cv2.imwrite(str(tmp_path / "a.png"), image[:, :, ::-1])
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), image)
    np.testing.assert_array_equal(read_image(str(tmp_path / "a.png")), image)


def test_jpeg_decodes_as_opencv_decodes_it(tmp_path):
    smooth = cv2.resize(noise(6, 8, 3), (160, 120), interpolation=cv2.INTER_CUBIC)
    cv2.imwrite(str(tmp_path / "a.jpg"), smooth)
    expected = cv2.imread(str(tmp_path / "a.jpg"))[:, :, ::-1].astype(int)
    assert np.abs(read_image(tmp_path / "a.jpg") - expected).max() <= 3


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "YCbCr", "HSV", "CMYK", "LAB"])
def test_modes_without_transparency_become_rgb_as_pillow_makes_them(mode):
    image = Image.fromarray(noise(4, 6, 3)).convert(mode)
    got = read_image(image)
    assert got.dtype == np.uint8 and got.shape == (4, 6, 3)
    np.testing.assert_array_equal(got, np.asarray(image.convert("RGB")))


def test_cmyk_jpeg_is_read(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "red.jpg")
    red, green, blue = read_image(tmp_path / "red.jpg")[4, 4]
    assert red > 240 and green < 15 and blue < 15


@pytest.mark.parametrize(
    ("mode", "color", "expected"),
    [
        ("RGBA", (255, 0, 0, 255), (255, 0, 0)),
        ("RGBA", (255, 0, 0, 0), (255, 255, 255)),
        ("RGBA", (0, 0, 0, 128), (127, 127, 127)),
        ("LA", (0, 0), (255, 255, 255)),
        ("PA", (3, 0), (255, 255, 255)),
    ],
)
def test_transparent_pixels_are_laid_on_white(mode, color, expected):
    assert tuple(read_image(Image.new(mode, (2, 2), color))[0, 0]) == expected


def test_transparent_color_of_a_palette_is_white(tmp_path):
    image = Image.new("P", (2, 1), 0)
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "a.png", transparency=0)
    assert read_image(tmp_path / "a.png").tolist() == [[[255, 255, 255], [40, 50, 60]]]


@pytest.mark.parametrize("channels", [1, 3])
def test_16_bit_samples_lose_their_lower_byte(tmp_path, channels):
    samples = noise(5, 4, channels, dtype=np.uint16)
    cv2.imwrite(str(tmp_path / "a.png"), samples[:, :, ::-1])
    expected = np.broadcast_to(samples >> 8, (5, 4, 3))
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), expected)


def test_16_bit_of_the_other_byte_order_is_the_same_image():
    samples = noise(3, 3, dtype=np.uint16)
    image = Image.frombytes("I;16B", (3, 3), samples.astype(">u2").tobytes())
    np.testing.assert_array_equal(read_image(image)[:, :, 0], samples >> 8)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_as_opencv_applies_it(tmp_path, orientation):
    blocks = np.kron(noise(2, 3, 3), np.ones((16, 16, 1), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(blocks).save(tmp_path / "a.jpg", exif=exif, quality=95, subsampling=0)
    expected = cv2.imread(str(tmp_path / "a.jpg"))[:, :, ::-1].astype(int)
    got = read_image(tmp_path / "a.jpg")
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= 3


@pytest.mark.parametrize(
    "exif", [b"", b"Exif\0\0", b"Exif\0\0MM\0\x2a\xff\xff\xff\xff", b"Exif\0\0II\x2a\0\x08\0\0\0\xff\xff"]
)
def test_image_with_damaged_exif_is_shown_as_it_is_stored(tmp_path, exif):
    Image.new("RGB", (8, 4), "red").save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg").shape == (4, 8, 3)


def test_first_frame_of_an_animation_is_taken(tmp_path):
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert tuple(read_image(tmp_path / "a.gif")[0, 0]) == (255, 0, 0)


def test_one_pixel_and_twenty_megapixels_are_read(tmp_path):
    for size in ((1, 1), (5472, 3648)):
        Image.new("RGB", size, (1, 2, 3)).save(tmp_path / "a.jpg")
        assert read_image(tmp_path / "a.jpg").shape == (size[1], size[0], 3)


def test_array_is_handed_through_and_pillow_image_stays_as_it_was():
    array = noise(3, 4, 3)
    assert read_image(array) is array
    image = Image.fromarray(array).convert("RGBA")
    read_image(image)
    assert image.mode == "RGBA" and image.getpixel((0, 0))[:3] == tuple(array[0, 0])


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((3, 4, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_error_on_an_array_that_is_no_rgb_image(array):
    with pytest.raises(DataError, match=r"expected an RGB array, uint8 \(H, W, 3\), got"):
        read_image(array)


def test_error_on_an_image_without_pixels():
    with pytest.raises(DataError, match="at least one pixel, got 0 x 4"):
        read_image(Image.new("RGB", (0, 4)))


def test_error_names_a_truncated_file_and_the_reason(tmp_path):
    Image.fromarray(noise(64, 64, 3)).save(tmp_path / "cut.jpg")
    whole = (tmp_path / "cut.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"cut\.jpg: broken image: .*truncated"):
        read_image(tmp_path / "cut.jpg")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p.write_text("hello"), "cannot read"),
        (lambda p: p.write_bytes(b""), "an empty file"),
        (lambda p: p.mkdir(), "a folder"),
        (lambda p: None, "no such file"),
    ],
)
def test_error_on_a_file_that_is_no_image(tmp_path, make, message):
    make(tmp_path / "a.png")
    with pytest.raises(DataError, match=rf"a\.png: expected an image, got .*{message}"):
        read_image(tmp_path / "a.png")


def png_that_claims(width, height):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(10_000, 10_000), (100_000, 100_000)])
@pytest.mark.filterwarnings("default::PIL.Image.DecompressionBombWarning")
def test_decompression_bomb_is_an_error_of_ours_and_no_warning(tmp_path, size, recwarn):
    (tmp_path / "bomb.png").write_bytes(png_that_claims(*size))
    with pytest.raises(DataError, match=r"bomb\.png: expected at most 89,478,485 pixels, got more"):
        read_image(tmp_path / "bomb.png")
    assert not recwarn.list


def test_images_of_a_folder_are_sorted_and_nothing_else_is_listed(tmp_path):
    for name in ("b.JPG", "a.png", "c.webp", "notes.txt", "._a.png"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "deeper.png").mkdir()
    assert [path.name for path in images_in(tmp_path)] == ["a.png", "b.JPG", "c.webp"]


def test_error_on_a_folder_without_images_names_what_was_looked_for(tmp_path):
    with pytest.raises(DataError, match=r"expected images \(\.jpg, .* Pillow reads\), got none"):
        images_in(tmp_path)
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "a.png").write_bytes(b"")
    with pytest.raises(DataError) as caught:
        images_in(tmp_path)
    assert str(tmp_path / "train") in caught.value.hint
    (tmp_path / "train" / "cat" / "1").mkdir(parents=True)
    (tmp_path / "train" / "a.png").rename(tmp_path / "train" / "cat" / "1" / "a.png")
    with pytest.raises(DataError) as caught:
        images_in(tmp_path)
    assert str(tmp_path / "train" / "cat" / "1") in caught.value.hint
    with pytest.raises(DataError, match="got no such folder"):
        images_in(tmp_path / "nowhere")


def small_files():
    image = cv2.resize(noise(3, 3, 3), (24, 20))
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind, options in (
        ("JPEG", {"exif": exif}),
        ("PNG", {"exif": exif}),
        ("GIF", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("WEBP", {}),
    ):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, kind, **options)
        yield pytest.param(buffer.getvalue(), id=kind)


@pytest.mark.parametrize("whole", list(small_files()))
def test_damaged_files_end_in_an_image_or_in_an_error_of_ours(tmp_path, whole):
    damage = np.random.default_rng(1)
    read = 0
    for _ in range(400):
        broken = bytearray(whole)
        if damage.random() < 0.3:
            del broken[damage.integers(len(broken)) :]
        for place in damage.integers(0, max(1, len(broken)), damage.integers(1, 5)) if broken else ():
            broken[place] = damage.integers(256)
        (tmp_path / "a").write_bytes(bytes(broken))
        try:
            image = read_image(tmp_path / "a")
        except DataError as e:
            assert str(tmp_path / "a") in e.message
        else:
            read += 1
            assert image.dtype == np.uint8 and image.shape[2] == 3
    assert 0 < read < 400


@pytest.mark.parametrize("name", ["a" * 5000 + ".png", "a\0b.png"])
def test_a_name_that_no_file_can_have_is_no_file(name):
    with pytest.raises(DataError, match="no such file"):
        read_image(name)


def test_every_suffix_that_pillow_decodes_is_an_image(tmp_path):
    named = (
        "jpg jfif jpe JPEG,jp2 JPEG2000,mpo MPO,tga TGA,ico ICO,pcx PCX,qoi QOI,dib DIB,webp WEBP,avif AVIF,apng PNG"
    )
    formats = {suffix: words.split()[-1] for words in named.split(",") for suffix in words.split()[:-1]}
    Image.init()
    formats = {suffix: name for suffix, name in formats.items() if name in Image.SAVE and name in {*Image.OPEN, "MPO"}}
    for suffix, name in formats.items():
        Image.new("RGB", (32, 16)).save(tmp_path / f"a.{suffix.upper()}", format=name)
    assert {path.suffix.lower()[1:] for path in images_in(tmp_path)} == set(formats)
    for path in images_in(tmp_path):
        assert read_image(path).shape[2] == 3
    for suffix in (".pdf", ".eps", ".h5", ".txt", ".json"):
        assert suffix not in image_suffixes()


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_the_size_of_a_file_is_that_of_the_upright_image(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (30, 20)).save(tmp_path / "a.jpg", exif=exif)
    height, width = read_image(tmp_path / "a.jpg").shape[:2]
    assert image_size(tmp_path / "a.jpg") == (width, height)
    with pytest.raises(DataError, match="no such file"):
        image_size(tmp_path / "b.jpg")


# TIFF 6.0, tag 274: where the first row and the first column of the stored image are.
UPRIGHT = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.transpose(1, 0, 2),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored[::-1, ::-1].transpose(1, 0, 2),
    8: lambda stored: np.rot90(stored),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
def test_images_of_every_format_are_turned_once(suffix: str, orientation: int, tmp_path: Path) -> None:
    # Pillow turns TIFF files itself.
    stored = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = tmp_path / f"turned.{suffix}"
    Image.fromarray(stored).save(file, exif=exif, **({"lossless": True} if suffix == "webp" else {}))
    upright = UPRIGHT[orientation](stored)
    np.testing.assert_array_equal(read_image(file), upright)
    np.testing.assert_array_equal(read_image(file, upright=False), stored)
    assert image_size(file) == (upright.shape[1], upright.shape[0])
    with Image.open(file) as opened:
        np.testing.assert_array_equal(read_image(opened), upright)
    with Image.open(file) as loaded:
        loaded.load()
        np.testing.assert_array_equal(read_image(loaded), upright)
