import gzip
import os
import resource
import struct
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.data.examples import Choice, data_set
from edgekit.data.formats.idx import FASHION_MNIST_NAMES, IdxFile, idx_from_path
from edgekit.errors import DataError

random = np.random.default_rng(0)


def content(array, kind=0x08):
    return bytes([0, 0, kind, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write(path, array, packed=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content(array)) if packed else content(array))
    return path


def mnist(folder, names="{}-{}-idx{}-ubyte", packed=False, count=12):
    made = {}
    for split, size in (("train", count), ("t10k", 7)):
        images, classes = random.integers(0, 256, (size, 5, 4), np.uint8), np.arange(size, dtype=np.uint8) % 10
        end = ".gz" if packed else ""
        write(folder / (names.format(split, "images", 3) + end), images, packed)
        write(folder / (names.format(split, "labels", 1) + end), classes, packed)
        made["test" if split == "t10k" else split] = images, classes
    return made


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("names", ["{}-{}-idx{}-ubyte", "{}-{}.idx{}-ubyte", "emnist-letters-{}-{}-idx{}-ubyte"])
def test_images_and_classes_come_back(tmp_path, names, packed):
    made = mnist(tmp_path, names.replace("t10k", "test"), packed)
    for split in ("train", "test"):
        found = idx_from_path(tmp_path, Choice(split))
        images, classes = made[split]
        assert len(found) == len(images) and found.labels == tuple("0123456789")
        for i in (len(found) - 1, 0, 3):
            np.testing.assert_array_equal(found[i].input, images[i])
            assert found[i].target == classes[i] and isinstance(found[i].target, int)


def test_a_file_of_images_finds_its_classes_and_its_other_split(tmp_path):
    made = mnist(tmp_path)
    train = tmp_path / "train-images-idx3-ubyte"
    for split in ("train", "test"):
        np.testing.assert_array_equal(idx_from_path(train, Choice(split))[2].input, made[split][0][2])


def test_a_test_without_the_last_classes_has_the_labels_of_the_training(tmp_path):
    mnist(tmp_path)
    found = idx_from_path(tmp_path, Choice("test"))
    assert len(found.labels) == 10
    assert found.notes == ["no images in this split: '7', '8', '9'"]


def test_fashion_mnist_has_names(tmp_path):
    mnist(tmp_path / "FashionMNIST" / "raw")
    assert idx_from_path(tmp_path / "FashionMNIST" / "raw", Choice()).labels == FASHION_MNIST_NAMES


def test_names_beside_the_files_count_and_a_class_beyond_them_is_an_error(tmp_path):
    mnist(tmp_path)
    (tmp_path / "labels.txt").write_text("\n".join("abcdefghij"))
    assert idx_from_path(tmp_path, Choice()).labels == tuple("abcdefghij")
    (tmp_path / "labels.txt").write_text("a\nb\nc\n")
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte: label 3: expected a class from 0 to 2, got 3"):
        idx_from_path(tmp_path, Choice())


def test_an_index_beyond_the_end_is_one(tmp_path):
    mnist(tmp_path)
    found = idx_from_path(tmp_path, Choice())
    with pytest.raises(IndexError):
        found[7]


def test_elements_are_read_and_not_kept(tmp_path):
    """A set of 40 MB, plain or gzipped, takes hardly any memory."""
    import tracemalloc

    images = np.zeros((10_000, 64, 64), np.uint8)
    for packed in (False, True):
        path = write(tmp_path / f"big-images-idx3-ubyte{packed}", images, packed)
        tracemalloc.start()
        file = IdxFile(path)
        for i in range(0, 10_000, 500):
            file[i]
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 8 << 20


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "expected an IDX header"),
        (b"\0\0", "expected an IDX header"),
        (b"\0\1\x08\3" + bytes(12), "expected an IDX header"),
        (b"\0\0\x07\3" + bytes(12), r"got 00 00 07 03"),
        (b"\0\0\x08\0", "expected an IDX header"),
        (b"\0\0\x0d\3" + bytes(12), r"expected unsigned bytes, got 32-bit floats \(0x0d\)"),
        (b"\0\0\x08\3" + bytes(7), "expected 3 sizes in the IDX header, got a truncated file"),
        (b"\0\0\x08\3" + struct.pack(">3I", 2, 3, 4) + bytes(23), r"expected 24 bytes .*got 23"),
        (b"\0\0\x08\3" + struct.pack(">3I", 2, 3, 4) + bytes(25), r"expected 24 bytes .*got 25"),
        (b"\0\0\x08\3" + struct.pack(">3I", 2**32 - 1, 2**32 - 1, 2**32 - 1), r"expected 79,228,162,"),
        (b"<!DOCTYPE html><html><body>Not found</body></html>", "got a web page"),
        (b"\x1f\x8b", "got a damaged one"),
        (b"\x1f\x8b" + bytes(50), "got a damaged one"),
    ],
)
def test_a_corrupt_header_is_an_error(tmp_path, raw, message):
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(raw)
    with pytest.raises(DataError, match=message):
        IdxFile(path)


def test_a_gzip_file_that_is_cut_off_is_an_error(tmp_path):
    whole = gzip.compress(content(random.integers(0, 256, (50, 8, 8), np.uint8)))
    path = tmp_path / "x.gz"
    for end in (1, 9, 12, len(whole) // 2, len(whole) - 9, len(whole) - 1):
        path.write_bytes(whole[:end])
        with pytest.raises(DataError, match=r"x\.gz: expected"):
            IdxFile(path)


def test_a_gzip_file_with_another_checksum_is_an_error(tmp_path):
    whole = bytearray(gzip.compress(content(np.zeros((50, 8, 8), np.uint8))))
    whole[-6] ^= 1
    (tmp_path / "x.gz").write_bytes(whole)
    with pytest.raises(DataError, match="damaged"):
        IdxFile(tmp_path / "x.gz")


def test_a_gzip_file_stops_where_its_header_says(tmp_path):
    """Otherwise a small file could fill the disk."""
    path = tmp_path / "bomb.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(content(np.zeros((1, 2, 2), np.uint8)))
        for _ in range(64):
            file.write(bytes(1 << 20))
    with pytest.raises(DataError, match="expected 20 bytes, as its header .* says, got more"):
        IdxFile(path)


def test_labels_that_are_missing_or_too_few_are_an_error(tmp_path):
    mnist(tmp_path)
    write(tmp_path / "t10k-labels-idx1-ubyte", np.zeros(3, np.uint8))
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte: expected 7 labels, .* got 3"):
        idx_from_path(tmp_path, Choice())
    write(tmp_path / "t10k-labels-idx1-ubyte", np.zeros((7, 1), np.uint8))
    with pytest.raises(DataError, match=r"expected the shape \(labels,\)"):
        idx_from_path(tmp_path, Choice())
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match="expected the labels in t10k-labels-idx1-ubyte next to it"):
        idx_from_path(tmp_path, Choice())


def test_images_without_pixels_are_an_error(tmp_path):
    mnist(tmp_path)
    for shape in ((0, 5, 4), (7, 0, 4), (7, 20)):
        write(tmp_path / "t10k-images-idx3-ubyte", np.zeros(shape, np.uint8))
        with pytest.raises(DataError, match=r"expected the shape \(images, height, width\)"):
            idx_from_path(tmp_path, Choice())


def test_a_folder_without_the_split_is_an_error(tmp_path):
    mnist(tmp_path)
    for file in tmp_path.glob("t10k*"):
        file.unlink()
    with pytest.raises(DataError, match="got train-images-idx3-ubyte"):
        idx_from_path(tmp_path, Choice("test"))


def test_a_file_that_has_become_shorter_is_an_error(tmp_path):
    mnist(tmp_path)
    found = idx_from_path(tmp_path, Choice())
    os.truncate(tmp_path / "t10k-images-idx3-ubyte", 40)
    with pytest.raises(DataError, match="element 6: expected 20 bytes"):
        found[6]


@pytest.mark.skipif(sys.platform == "win32" or os.getuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read_is_an_error(tmp_path):
    mnist(tmp_path)
    (tmp_path / "t10k-images-idx3-ubyte").chmod(0)
    with pytest.raises(DataError, match="Permission denied"):
        data_set(str(tmp_path))


@given(st.binary(max_size=64) | st.binary(max_size=40).map(lambda tail: b"\0\0\x08\3" + tail), st.booleans())
def test_any_bytes_are_a_set_or_a_data_error(tmp_path_factory, raw, packed):
    folder = tmp_path_factory.mktemp("idx")
    for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"):
        (folder / name).write_bytes(gzip.compress(raw) if packed else raw)
    try:
        found = data_set(f"idx:{folder}", split="train")
        for i in range(len(found)):
            assert found[i].target in range(len(found.labels))
    except DataError as e:
        assert e.message


def test_the_names_of_files_may_be_in_any_case(tmp_path):
    for name, array in (
        ("Train-Images-IDX3-ubyte", np.zeros((4, 2, 2))),
        ("TRAIN-LABELS.idx1-ubyte", np.arange(4) % 2),
    ):
        sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
        (tmp_path / name).write_bytes(bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes())
    found = data_set(str(tmp_path), split="train")
    assert [found[i].target for i in range(4)] == [0, 1, 0, 1]


def test_a_temporary_file_without_room_is_no_damaged_file(tmp_path):
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(content(random.integers(0, 256, (50, 28, 28), np.uint8))))
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8 << 10, limit[1]))
    try:
        with pytest.raises(DataError, match="cannot be unpacked to a temporary file: File too large") as error:
            IdxFile(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert "set TMPDIR" in error.value.hint
