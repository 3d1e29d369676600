from __future__ import annotations

import pytest

from edgekit.arguments import on_command_line
from edgekit.errors import UsageError
from edgekit.measure.boards import Board, board_from_name, boards, names_of_boards, peaks_from_board

KNOWN = boards()
NAMES = (
    "orin-nano orin-nano-super orin-nx-8gb orin-nx-16gb agx-orin-32gb agx-orin-64gb agx-thor rtx-3060 rtx-3070 "
    "rtx-3080 rtx-3090 rtx-4060 rtx-4070 rtx-4080 rtx-4090 rtx-5060 rtx-5070 rtx-5080 rtx-5090 l4 a100 h100 h200"
).split()
ADDRESSES = (
    "https://www.nvidia.com/",
    "https://developer.nvidia.com/",
    "https://images.nvidia.com/",
    "https://github.com/NVIDIA/",
)
EACH = pytest.mark.parametrize("board", KNOWN.boards.values(), ids=list(KNOWN.boards))


def test_the_boards_that_people_ask_for_are_there() -> None:
    assert set(NAMES) <= set(KNOWN.boards)


@EACH
def test_published_rates_are_what_multiprocessors_and_clock_give(board: Board) -> None:
    per_clock = KNOWN.architectures[board.architecture].macs_per_clock
    assert set(board.rates) <= set(per_clock)
    for precision, rate in board.rates.items():
        if rate.dense is None:
            continue
        expected = 2 * board.multiprocessors * board.clock_mhz * 1e6 * per_clock[precision] / 1e12
        # Hopper's FP32 rate is stated at a higher clock than its tensor rates.
        tolerance = 0.1 if (board.architecture, precision) == ("hopper", "float32") else 0.026
        assert rate.dense == pytest.approx(expected, rel=tolerance), precision


@EACH
def test_sparse_rates_are_twice_the_dense_ones(board: Board) -> None:
    for precision, rate in board.rates.items():
        if rate.sparse is not None:
            # Data sheets round both: 67 sparse and 33 dense.
            assert rate.sparse == pytest.approx(2 * (rate.dense or 0), rel=0.02), precision


@pytest.mark.parametrize("name", KNOWN.architectures)
def test_each_halving_of_the_precision_doubles_the_tensor_rate(name: str) -> None:
    per_clock = KNOWN.architectures[name].macs_per_clock
    if name == "maxwell":  # no tensor cores: FP16 by pairs
        assert per_clock["float16"] == 2 * per_clock["float32"]
        return
    for narrow, wide in (("int8", "float16"), ("float8", "float16"), ("float4", "float8")):
        if narrow in per_clock:
            assert per_clock[narrow] == 2 * per_clock[wide], (narrow, wide)


@EACH
def test_every_figure_has_a_source_with_an_address(board: Board) -> None:
    keys = [board.bandwidth.source, board.power_modes.source, KNOWN.architectures[board.architecture].source]
    keys += [rate.source for rate in board.rates.values() if rate.dense is not None]
    for key in keys:
        assert KNOWN.sources[key].title.startswith("NVIDIA, ")
        assert KNOWN.sources[key].url.startswith(ADDRESSES)
    assert all(rate.source or rate.dense is rate.sparse is None for rate in board.rates.values())


def test_no_source_is_unused() -> None:
    used = {architecture.source for architecture in KNOWN.architectures.values()}
    for board in KNOWN.boards.values():
        used |= {board.bandwidth.source, board.power_modes.source, *(rate.source for rate in board.rates.values())}
    assert set(KNOWN.sources) == used - {""}


def test_peaks_count_multiply_accumulates_and_fp32_as_tf32() -> None:
    peaks = peaks_from_board(board_from_name("a100"))
    assert peaks.kind == "published"
    assert peaks.macs_per_s == pytest.approx({"int8": 312e12, "float16": 156e12, "float32": 78e12}, rel=1e-3)
    assert (peaks.bytes_per_s, peaks.cache_bytes) == (2039e9, 40 * 2**20)
    # Without TF32, FP32 has the rate of the CUDA cores.
    assert peaks_from_board(board_from_name("agx-xavier")).macs_per_s["float32"] == pytest.approx(0.7e12, rel=0.01)


def test_error_on_an_unknown_board_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="unknown board 'orin-nono'") as caught:
        board_from_name("orin-nono")
    assert "orin-nano" in caught.value.hint


def test_the_names_are_listed_in_python_and_by_a_command() -> None:
    names = names_of_boards().removeprefix("the names: ").split(", ")
    assert names == sorted(boards().boards)
    with on_command_line():
        assert names_of_boards() == "`edgekit estimate --boards` lists the names"
