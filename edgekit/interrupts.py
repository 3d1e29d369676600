"""Lets Ctrl-C end a run of ONNX Runtime, which may take minutes.

Python calls its signal handlers between two instructions of the main thread, and while a library runs there is none.
What the system calls at once writes a byte (`signal.set_wakeup_fd`): a thread waits for it, and tells ONNX Runtime to
stop at its next operator. Then the run returns, and Python raises KeyboardInterrupt.
"""

from __future__ import annotations

import functools
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from edgekit.telemetry import import_onnxruntime

__all__ = ["run_options", "runs_end_on_interrupt"]

_interrupted = threading.Event()


@functools.cache
def run_options() -> Any:
    """Returns the options of all runs of ONNX Runtime in this process.

    Raises:
        ImportError: ONNX Runtime is not installed.
    """
    options = import_onnxruntime().RunOptions()
    options.terminate = _interrupted.is_set()
    return options


@contextmanager
def runs_end_on_interrupt() -> Iterator[None]:
    """Ends runs of ONNX Runtime on Ctrl-C, while the context is entered.

    Only the main thread can do that, and not if the program has a use of its own for the bytes of signals, as asyncio
    has. The handler of Ctrl-C has to raise an exception: a run that was stopped has no outputs.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = socket.socketpair()
    with reader, writer:
        writer.setblocking(False)
        before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        if before != -1:
            signal.set_wakeup_fd(before)
            yield
            return
        watcher = threading.Thread(target=_watch, args=(reader,), name="interrupts", daemon=True)
        try:
            watcher.start()
            yield
        finally:
            signal.set_wakeup_fd(-1)
            writer.close()
            if watcher.is_alive():
                watcher.join()
            _set(terminate=False)


def _watch(reader: socket.socket) -> None:
    while numbers := reader.recv(64):
        if signal.SIGINT in numbers:
            _set(terminate=True)


def _set(*, terminate: bool) -> None:
    if terminate:
        _interrupted.set()
    else:
        _interrupted.clear()
    if run_options.cache_info().currsize:
        run_options().terminate = terminate
