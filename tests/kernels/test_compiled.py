"""The compiled kernels that are shipped: made from this source, and chosen by GPU and driver."""

from __future__ import annotations

import struct
from pathlib import Path

import msgspec
import pytest

import edgekit
from edgekit.device.cuda.driver import DeviceProperties
from edgekit.errors import BackendUnavailable
from edgekit.kernels import compiled

KERNELS = Path(edgekit.__file__).parent / "kernels"
NAMES = ["nms", "preprocess", "decode"]
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


@pytest.mark.parametrize("name", NAMES)
def test_the_binaries_were_made_from_this_source(name: str) -> None:
    index = compiled.read_index(name)
    assert index.source_sha256 == compiled.source_hash(KERNELS / name / f"{name}.cu"), (
        "run python -m tools.build_kernels"
    )
    assert index.flags == compiled.FLAGS
    listed = {binary.file for binary in index.binaries} | {compiled.INDEX}
    assert listed == {path.name for path in (KERNELS / name / "compiled").iterdir()}


def test_every_source_has_binaries() -> None:
    assert sorted(path.stem for path in KERNELS.rglob("*.cu")) == sorted(NAMES)


def test_all_binaries_together_are_small() -> None:
    assert sum(path.stat().st_size for path in KERNELS.glob("*/compiled/*")) < 8 << 20


@pytest.mark.parametrize("name", NAMES)
def test_each_binary_is_for_the_architecture_and_toolkit_that_its_entry_says(name: str) -> None:
    for binary in compiled.read_index(name).binaries:
        image = compiled.image(name, binary)
        if binary.is_ptx:
            text = image.decode()
            assert text.endswith("\0")  # cuModuleLoadData takes a C string
            # CUDA's release notes: the driver of CUDA 12.5 takes PTX 8.5, JetPack 6 has that of 12.6.
            assert ".version 8.5\n" in text and f".target sm_{binary.architecture}\n" in text
            assert binary.minimum_driver == "12.5"
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
    raw = msgspec.json.decode((KERNELS / "nms" / "compiled" / compiled.INDEX).read_bytes())
    assert set(raw) == set(compiled.Index.__struct_fields__)
