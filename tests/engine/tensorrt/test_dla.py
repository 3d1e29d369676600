from __future__ import annotations

import pytest

from edgekit.device.jetson import Jetson
from edgekit.engine.tensorrt.dla import dla_row, require_dla
from edgekit.errors import UsageError
from edgekit.specs import Precision

ORIN = Jetson(board="NVIDIA Jetson AGX Orin Developer Kit", l4t="", jetpack="", power_mode="")


def board(jetpack="", name=ORIN.board):
    return Jetson(board=name, l4t="", jetpack=jetpack, power_mode="")


@pytest.mark.parametrize(
    ("version", "precision", "jetson"),
    [
        ("10.3.0", Precision.FP16, board("6.2")),
        ("10.7.0.23", Precision.FP16, board()),
        ("11.4.1", Precision.FP16, board("7.2.2")),
        ("11.4.1", Precision.INT8, board("7.2.2")),
        ("11.5.0", Precision.INT8, board()),
        ("12.0.0", Precision.INT8, board("7.3")),
        ("11.4.1", Precision.INT8, None),
    ],
)
def test_versions_with_a_dla(version, precision, jetson):
    require_dla(version, precision, jetson, 0)


@pytest.mark.parametrize(
    ("version", "precision", "jetson", "message"),
    [
        ("10.3.0", Precision.INT8, board("6.2"), r"expected TensorRT from 11\.4\.1 for INT8, got 10\.3\.0: .*implicit"),
        ("10.8.0", Precision.FP16, board(), r"expected TensorRT up to 10\.7 or from 11\.4\.1 for FP16, got 10\.8\.0"),
        ("10.16.1", Precision.INT8, board("7.2"), "no DLA"),
        ("11.3.0", Precision.FP16, board(), "no DLA"),
        ("11.4.0", Precision.FP16, board(), "Windows"),
        ("11.4.1", Precision.INT8, board("7.2.1"), r"JetPack 7\.2\.2 or newer, got .*AGX Orin.* with JetPack 7\.2\.1"),
        ("11.4.1", Precision.INT8, board("7.2.2", "NVIDIA Jetson AGX Thor"), "got NVIDIA Jetson AGX Thor"),
        ("11.4.1", Precision.FP32, board(), r"engine\['dla'\] goes with precision='fp16' or precision='int8'"),
        ("11.4.1", Precision.BF16, board(), "does not compute in bf16"),
    ],
)
def test_others_are_refused_with_the_versions_that_have_one(version, precision, jetson, message):
    with pytest.raises(UsageError, match=message):
        require_dla(version, precision, jetson, 0)


def test_the_row_of_a_version():
    assert [dla_row(v).versions for v in ("8.6.1", "10.7.9", "10.8", "11.3.1", "11.4.0", "11.4.1")] == [
        "up to 10.7",
        "up to 10.7",
        "10.8 to 11.3",
        "10.8 to 11.3",
        "11.4.0",
        "from 11.4.1",
    ]
