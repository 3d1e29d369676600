"""A bounded queue between two threads of a pipeline."""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, TypeVar

__all__ = ["Channel", "Ended"]

Item = TypeVar("Item")


class Ended(Exception):
    """No item follows."""


class Channel(Generic[Item]):
    """A bounded queue from one thread to another; items keep their order.

    Args:
        capacity: maximum number of items that wait.
        newest: drop the oldest item instead of waiting when the queue is full.

    Attributes:
        dropped: number of items that were dropped.
    """

    def __init__(self, capacity: int, *, newest: bool = False) -> None:
        self.dropped = 0
        self._items: deque[Item] = deque()
        self._capacity = capacity
        self._newest = newest
        self._changed = threading.Condition()
        self._ended = False
        self._cancelled = False
        self._error: BaseException | None = None

    def put(self, item: Item) -> bool:
        """Adds an item; returns False if nobody reads any more, so that the writer can end."""
        with self._changed:
            while len(self._items) == self._capacity and not self._cancelled:
                if self._newest:
                    self._items.popleft()
                    self.dropped += 1
                else:
                    self._changed.wait()
            if self._cancelled:
                return False
            self._items.append(item)
            self._changed.notify_all()
            return True

    def get(self) -> Item:
        """Waits for the next item.

        Raises:
            Ended: the writer has ended, or the channel was cancelled.
            BaseException: the error of the writer, after the items before it.
        """
        with self._changed:
            while not self._items and not self._ended and not self._cancelled:
                self._changed.wait()
            return self._taken()

    def get_nowait(self) -> Item | None:
        """Returns the next item if one waits."""
        with self._changed:
            return self._taken() if self._items else None

    def _taken(self) -> Item:
        if self._cancelled:
            raise Ended
        if self._items:
            item = self._items.popleft()
            self._changed.notify_all()
            return item
        if self._error is not None:
            raise self._error
        raise Ended

    def end(self, error: BaseException | None = None) -> None:
        """Says that no item follows, because of an error or without one; called by the writer."""
        with self._changed:
            self._ended, self._error = True, error
            self._changed.notify_all()

    def cancel(self) -> None:
        """Wakes both threads and lets them end; called by the reader, or by whoever stops the pipeline."""
        with self._changed:
            self._cancelled = True
            self._items.clear()
            self._changed.notify_all()
