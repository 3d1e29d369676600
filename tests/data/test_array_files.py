from __future__ import annotations

import io
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from edgekit.data.array_files import Arrays, arrays_from_file
from edgekit.errors import DataError, RunError

TERABYTES = (1 << 20, 1 << 20)


def npy(dtype: str, shape: tuple[int, ...], numbers: bytes = b"") -> bytes:
    """A ``.npy`` file whose header says what it likes."""
    header = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape!r}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + numbers


def npz(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return buffer.getvalue()


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "uint8", "bool", ">f4", "float16"])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3, 4), (2, 0, 4)])
def test_arrays_are_those_that_numpy_reads(dtype: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 2, shape).astype(dtype)
    np.save(tmp_path / "a.npy", array)
    np.savez_compressed(tmp_path / "a.npz", a=array, b=np.asfortranarray(array) if shape else array)
    expected = np.load(tmp_path / "a.npy")
    one, two = arrays_from_file(tmp_path / "a.npy"), arrays_from_file(tmp_path / "a.npz")
    assert isinstance(one, np.ndarray) and isinstance(two, dict)
    for got in (one, *two.values()):
        assert got.dtype == expected.dtype and got.shape == expected.shape
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("version", [(2, 0), (3, 0)])
def test_later_versions_of_the_format_are_read(version: tuple[int, int], tmp_path: Path) -> None:
    with (tmp_path / "a.npy").open("wb") as file:
        np.lib.format.write_array(file, np.arange(3), version)
    np.testing.assert_array_equal(arrays_from_file(tmp_path / "a.npy"), np.arange(3))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (npy("<f4", TERABYTES), "the file is damaged"),
        (npz(a=npy("<f4", TERABYTES)), "the file is damaged"),
        (npy("<f4", (2, 2), bytes(15)), "expected 16 bytes, as the header float32 (2, 2) says, got 15"),
        (npy("|O", (1,), bytes(8)), "Python objects"),
        (npz(a=npy("|O", (1,), bytes(8))), "Python objects"),
        (npy("<f4", (-1,), bytes(8)), "expected arrays of numbers"),
        (npy("<U0", (3,)), "expected arrays of numbers"),
        (b"", "expected arrays as numpy.save"),
        (b"PK\x03\x04 no archive", "expected arrays as numpy.save"),
        (npz(a=b"no array"), "expected arrays as numpy.save"),
        (npz(a=npy("<f4", (2,), bytes(8)))[:-30], "expected arrays as numpy.save"),
    ],
)
def test_damaged_files_are_one_error(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(DataError) as caught:
        arrays_from_file(tmp_path / "a.npz")
    assert message in str(caught.value) and "a.npz" in str(caught.value)


def test_an_encrypted_archive_is_named_as_such(tmp_path: Path) -> None:
    content = bytearray(npz(a=npy("<f4", (2,), bytes(8))))
    for magic, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(magic) + offset] |= 1
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(DataError, match="encrypted"):
        arrays_from_file(tmp_path / "a.npz")


def test_a_changed_number_in_an_archive_is_found(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, a=np.ones(4, np.float32))
    content = bytearray(buffer.getvalue())
    content[content.index(np.float32(1).tobytes())] ^= 1
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(DataError, match="Bad CRC-32"):
        arrays_from_file(tmp_path / "a.npz")


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    """64 MB of zeros in 64 KB, which fit neither the input nor the budget."""
    (tmp_path / "a.npz").write_bytes(npz(a=npy("|u1", (1 << 26,), bytes(1 << 26))))

    def refuse(arrays: Arrays) -> None:
        assert isinstance(arrays, dict)
        raise RunError(f"expected (3,), got {arrays['a'].shape}")

    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="expected at most 1,000 bytes of numbers, got 67,108,864"):
            arrays_from_file(tmp_path / "a.npz", max_bytes=1000)
        with pytest.raises(RunError, match=r"expected \(3,\), got \(67108864,\)"):
            arrays_from_file(tmp_path / "a.npz", refuse)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_zeros_with_the_types_and_shapes_are_checked_first(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", a=np.ones((2, 3), np.float32), b=np.arange(4))
    seen: list[Arrays] = []
    arrays_from_file(tmp_path / "a.npz", seen.append)
    assert isinstance(seen[0], dict)
    assert {name: (array.dtype.name, array.shape) for name, array in seen[0].items()} == {
        "a": ("float32", (2, 3)),
        "b": ("int64", (4,)),
    }


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
@pytest.mark.parametrize("error", [KeyError("bug"), DataError("of another shape"), FileNotFoundError("other.txt")])
def test_an_error_of_the_check_is_not_called_damage(tmp_path: Path, suffix: str, error: Exception) -> None:
    path = tmp_path / f"a{suffix}"
    (np.save if suffix == ".npy" else np.savez)(path, np.zeros(3))

    def check(zeros: object) -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        arrays_from_file(path, check)
    assert caught.value is error
