from __future__ import annotations

from pathlib import Path

import pytest

from edgekit.device.jetson import JetPackStack, Jetson, jetpack_stack, jetson

RECORDED = Path(__file__).parent / "recorded"


def test_orin_nano_is_recognized() -> None:
    assert jetson(RECORDED / "jetson-orin-nano") == Jetson(
        board="NVIDIA Jetson Orin Nano Developer Kit", l4t="36.4.3", jetpack="6.2", power_mode="MAXN_SUPER"
    )


@pytest.mark.parametrize("machine", ["amd-epyc", "raspberry-pi-5"])
def test_other_machines_are_no_jetson(machine: str) -> None:
    assert jetson(RECORDED / machine) is None


def test_a_jetson_whose_release_is_newer_than_the_table_has_no_jetpack(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/nv_tegra_release").write_text("# R99 (release), REVISION: 1, GCID: 1, BOARD: generic\n")
    assert jetson(tmp_path) == Jetson(board="Jetson", l4t="99.1.0", jetpack="", power_mode="")


def test_a_power_mode_without_a_name_is_its_number(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/nv_tegra_release").write_text("# R35 (release), REVISION: 4.1, GCID: 1\n")
    (tmp_path / "var/lib/nvpmodel").mkdir(parents=True)
    (tmp_path / "var/lib/nvpmodel/status").write_text("pmode:0008\n")
    found = jetson(tmp_path)
    assert found and (found.jetpack, found.power_mode) == ("5.1.2", "8")


@pytest.mark.parametrize(
    ("jetpack", "tensorrt"), [("6.1", "10.3"), ("6.2.1", "10.3"), ("7.1", "10.13"), ("7.2.2", "10.16")]
)
def test_patch_releases_of_a_jetpack_have_the_same_versions(jetpack: str, tensorrt: str) -> None:
    stack = jetpack_stack(jetpack)
    assert isinstance(stack, JetPackStack) and stack.tensorrt == tensorrt


@pytest.mark.parametrize("jetpack", ["", "5.1.3", "6.0", "9.9"])
def test_an_unknown_jetpack_has_no_versions(jetpack: str) -> None:
    assert jetpack_stack(jetpack) is None
