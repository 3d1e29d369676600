"""The compiled kernels that are shipped: made from this source, and chosen by GPU and driver."""

from __future__ import annotations

import functools
import json
import lzma
import re
import struct
from pathlib import Path

import msgspec
import pytest

import edgekit
from edgekit.device.cuda.driver import DeviceProperties
from edgekit.errors import BackendUnavailable
from edgekit.kernels import compiled
from edgekit.kernels.sdpa import variants
from tools import triton_to_ptx

KERNELS = Path(edgekit.__file__).parent / "kernels"
NAMES = ["nms", "preprocess", "decode"]
TRITON = [KERNELS / "sdpa" / name for name in ("triton_kernels.py", "variants.py")]
EM_CUDA = 190  # ELF machine number


def device(capability: tuple[int, int], driver: str) -> DeviceProperties:
    return DeviceProperties(
        name="Test GPU",
        compute_capability=capability,
        memory_bytes=1,
        free_bytes=1,
        integrated=False,
        driver_version=driver,
    )


@functools.cache
def images(name: str) -> list[tuple[compiled.Binary, bytes]]:
    """Each module of each file."""
    found = []
    for binary in compiled.read_index(name).binaries:
        rest = compiled.image(name, binary)
        for size in binary.parts.values() or [len(rest)]:
            found.append((binary, rest[:size]))
            rest = rest[size:]
        assert not rest
    return found


@pytest.mark.parametrize("name", NAMES)
def test_the_binaries_were_made_from_this_source(name: str) -> None:
    index = compiled.read_index(name)
    assert index.source_sha256 == compiled.source_hash(KERNELS / compiled.FOLDERS[name] / f"{name}.cu"), (
        "run python -m tools.build_kernels"
    )
    assert index.flags == compiled.FLAGS
    listed = {binary.file for binary in index.binaries} | {compiled.INDEX}
    assert listed == {path.name for path in (KERNELS / compiled.FOLDERS[name] / "compiled").iterdir()}


def test_the_binaries_of_attention_were_made_from_this_source() -> None:
    index = compiled.read_index("attention")
    sources = [*TRITON, Path(triton_to_ptx.__file__)]
    assert index.source_sha256 == compiled.source_hash(*sources, flags=index.flags), "run python -m tools.build_kernels"
    assert index.flags == triton_to_ptx.FLAGS
    listed = {binary.file for binary in index.binaries} | {compiled.INDEX}
    assert listed == {path.name for path in (KERNELS / "sdpa" / "compiled").iterdir()}


def test_every_source_has_binaries() -> None:
    assert sorted(path.stem for path in KERNELS.rglob("*.cu")) == sorted(NAMES)


def test_all_binaries_together_are_small() -> None:
    assert sum(path.stat().st_size for path in KERNELS.glob("*/compiled/*")) < 8 << 20


@pytest.mark.parametrize("name", [*NAMES, "attention"])
def test_each_binary_is_for_the_architecture_and_toolkit_that_its_entry_says(name: str) -> None:
    for binary, image in images(name):
        if binary.is_ptx:
            text = image.decode()
            assert text.endswith("\0")  # cuModuleLoadData takes a C string
            # CUDA's release notes: the driver of CUDA 12.5 takes PTX 8.5, JetPack 6 has that of 12.6. Triton is told
            # to write PTX 8.0, of CUDA 12.0.
            version, driver = ("8.0", "12.0") if name == "attention" else ("8.5", "12.5")
            assert f".version {version}\n" in text and f".target sm_{binary.architecture}\n" in text
            assert binary.minimum_driver == driver
            continue
        assert image[:4] == b"\x7fELF"
        machine, flags = struct.unpack_from("<H", image, 18)[0], struct.unpack_from("<I", image, 48)[0]
        # The architecture is in the lowest byte of the ELF flags up to CUDA 12, in the second byte from CUDA 13 on.
        made_by_13 = binary.architecture in (110, 120, 121)
        assert machine == EM_CUDA
        assert (flags >> 8 & 0xFF if made_by_13 else flags & 0xFF) == binary.architecture
        assert binary.minimum_driver == ("13.0" if made_by_13 else "12.0")


@pytest.mark.parametrize(
    ("capability", "driver", "file"),
    [
        ((8, 7), "12.6", "sm_87.cubin.xz"),  # Orin, JetPack 6
        ((7, 5), "12.2", "sm_75.cubin.xz"),
        ((11, 0), "13.0", "sm_110.cubin.xz"),  # Thor, JetPack 7
        ((12, 0), "13.1", "sm_120.cubin.xz"),
        ((12, 0), "12.8", "compute_80.ptx.xz"),  # what CUDA 13 compiled does not load on a CUDA 12 driver
        ((10, 3), "13.0", "compute_80.ptx.xz"),
    ],
)
def test_the_binary_of_a_gpu(capability: tuple[int, int], driver: str, file: str) -> None:
    assert compiled.choose("nms", device(capability, driver)).file == file


@pytest.mark.parametrize(
    ("capability", "driver", "message"),
    [
        ((7, 2), "12.6", r"expected a GPU of compute capability 7.5 or later .* got 7.2 \(Test GPU\)"),
        ((8, 7), "11.4", "needs a driver of CUDA 12.0 or later on Test GPU, got CUDA 11.4"),
        ((10, 0), "12.4", "needs a driver of CUDA 12.5 or later"),
    ],
)
def test_a_gpu_without_a_binary_is_refused(capability: tuple[int, int], driver: str, message: str) -> None:
    with pytest.raises(BackendUnavailable, match=message):
        compiled.choose("nms", device(capability, driver))


def test_the_index_keeps_nothing_that_nobody_reads() -> None:
    raw = msgspec.json.decode((KERNELS / "suppression" / "compiled" / compiled.INDEX).read_bytes())
    assert set(raw) == set(compiled.Index.__struct_fields__)


def test_a_part_of_a_file_is_one_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "_folder", lambda name: tmp_path)
    (tmp_path / "all.cubin.xz").write_bytes(lzma.compress(b"onetwo!"))
    binary = compiled.Binary(
        file="all.cubin.xz", architecture=87, minimum_driver="12.0", parts={"a": 3, "b": 0, "c": 4}
    )
    assert [compiled.image("any", binary, part) for part in ("a", "b", "c", "")] == [b"one", b"", b"two!", b"onetwo!"]


# Attention. Triton's kernels have no shared memory that the compiler knows: it is given at launch.


@functools.cache
def attention_resources() -> dict[int, dict[str, dict[str, int]]]:
    """Registers and local memory of each kernel by architecture, as the shipped binaries have them."""
    found: dict[int, dict[str, dict[str, int]]] = {}
    for binary, image in images("attention"):
        if not binary.is_ptx:
            found.setdefault(binary.architecture, {}).update(cubin_resources(image))
    return found


def test_no_attention_kernel_spills_and_each_takes_the_registers_that_are_recorded() -> None:
    recorded = json.loads((Path(__file__).parent / "recorded" / "attention.json").read_text())
    found = attention_resources()
    assert {f"sm_{architecture}" for architecture in found} == set(recorded)
    for architecture, kernels in found.items():
        assert {name: row["local_bytes"] for name, row in kernels.items()} == dict.fromkeys(kernels, 0)
        registers = {name: row["registers"] for name, row in recorded[f"sm_{architecture}"].items()}
        assert {name: row["registers"] for name, row in kernels.items()} == registers


def test_a_block_of_each_attention_kernel_fits_each_gpu() -> None:
    # CUDA C++ Programming Guide, "Technical Specifications per Compute Capability": shared memory of a block.
    limits = {75: 64, 80: 163, 86: 99, 87: 163, 89: 99, 90: 227, 110: 227, 120: 99, 121: 99}
    resources = attention_resources()
    for binary in compiled.read_index("attention").binaries:
        by_kernel = {
            f"attention_{name}_{type_name}_{head_size}": variant.warps * 32
            for type_name, head_size in variants.parts(capability=binary.architecture)
            for name, variant in variants.variants(type_name, head_size, capability=binary.architecture).items()
        }
        # PTX of compute capability 8.0 runs on all but 7.5.
        smallest = min(limits[each] for each in limits if each >= 80) if binary.is_ptx else limits[binary.architecture]
        assert max(binary.shared_bytes.values()) <= smallest << 10
        assert set(binary.shared_bytes) <= set(by_kernel)
        if not binary.is_ptx:
            kernels = resources[binary.architecture]
            assert set(kernels) == set(by_kernel)
            assert all(row["registers"] * by_kernel[name] <= 65536 for name, row in kernels.items())


@pytest.mark.parametrize(
    ("capability", "driver", "file"),
    [
        ((7, 5), "12.2", "sm_75.cubin.xz"),
        ((8, 7), "12.6", "sm_87.cubin.xz"),
        ((9, 0), "12.2", "sm_90.cubin.xz"),
        ((11, 0), "13.0", "sm_110.cubin.xz"),
        ((12, 0), "12.8", "compute_80.ptx.xz"),
        ((10, 0), "12.8", "compute_80.ptx.xz"),
    ],
)
def test_the_attention_binary_of_a_gpu(capability: tuple[int, int], driver: str, file: str) -> None:
    assert compiled.choose("attention", device(capability, driver)).file == file


def test_nothing_but_tools_and_tests_imports_the_triton_source() -> None:
    importing = [
        path.name
        for path in KERNELS.parent.rglob("*.py")
        if re.search(
            r"^\s*(import triton|from triton|from .*triton_kernels|import .*triton_kernels)", path.read_text(), re.M
        )
    ]
    assert importing == ["triton_kernels.py"]


def cubin_resources(image: bytes) -> dict[str, dict[str, int]]:
    """Reads the registers and the local memory (spills and stack) of each kernel of a cubin, an ELF file.

    The section ``.nv.info`` has attributes: a byte of the format, a byte of the kind, 2 bytes of the size, then words.
    Kind 0x2f is a symbol's number and its registers, kind 0x11 a symbol's number and the bytes of its frame.
    """
    headers, size, count, names = (*struct.unpack_from("<Q", image, 40), *struct.unpack_from("<HHH", image, 58))
    sections = [struct.unpack_from("<IIQQQQ", image, headers + size * number) for number in range(count)]

    def text(table: tuple[int, ...], offset: int) -> str:
        start = table[4] + offset
        return image[start : image.index(b"\0", start)].decode()

    by_name = {text(sections[names], section[0]): section for section in sections}
    symbols, strings, info = by_name[".symtab"], by_name[".strtab"], by_name[".nv.info"]
    found: dict[str, dict[str, int]] = {}
    position, end = info[4], info[4] + info[5]
    while position < end:
        form, kind, words = struct.unpack_from("<BBH", image, position)
        position += 4
        if form == 4:  # the words follow
            if kind in (0x2F, 0x11):
                number, value = struct.unpack_from("<II", image, position)
                name = text(strings, struct.unpack_from("<I", image, symbols[4] + 24 * number)[0])
                found.setdefault(name, {})["registers" if kind == 0x2F else "local_bytes"] = value
            position += words
    return found
