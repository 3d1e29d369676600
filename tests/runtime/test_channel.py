from __future__ import annotations

import threading
import time

import pytest

from edgekit.runtime.channel import Channel, Ended


def test_items_come_in_order_and_then_the_end() -> None:
    channel: Channel[int] = Channel(2)
    writer = threading.Thread(target=lambda: ([channel.put(i) for i in range(50)], channel.end()))
    writer.start()
    assert [channel.get() for _ in range(50)] == list(range(50))
    with pytest.raises(Ended):
        channel.get()
    writer.join()
    assert channel.dropped == 0


def test_a_full_channel_holds_up_its_writer() -> None:
    channel: Channel[int] = Channel(2)
    written: list[int] = []

    def write() -> None:
        for i in range(5):
            channel.put(i)
            written.append(i)

    writer = threading.Thread(target=write)
    writer.start()
    time.sleep(0.05)
    assert written == [0, 1]
    assert [channel.get() for _ in range(5)] == list(range(5))
    writer.join()


def test_the_newest_item_replaces_the_oldest() -> None:
    channel: Channel[int] = Channel(1, newest=True)
    for i in range(5):
        assert channel.put(i)
    assert channel.get() == 4 and channel.dropped == 4


def test_an_error_comes_after_the_items_before_it() -> None:
    channel: Channel[int] = Channel(2)
    channel.put(1)
    channel.end(ValueError("broken"))
    assert channel.get() == 1
    for _ in range(2):
        with pytest.raises(ValueError, match="broken"):
            channel.get()


def test_cancelling_wakes_both_sides() -> None:
    channel: Channel[int] = Channel(1)
    channel.put(0)
    put: list[bool] = []
    writer = threading.Thread(target=lambda: put.append(channel.put(1)))
    writer.start()
    channel.cancel()
    writer.join(5)
    assert put == [False]
    with pytest.raises(Ended):
        channel.get()


def test_what_waits_can_be_had_without_waiting() -> None:
    channel: Channel[int] = Channel(2)
    assert channel.get_nowait() is None
    channel.put(3)
    assert channel.get_nowait() == 3
