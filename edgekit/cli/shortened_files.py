"""Files that another program shortens while this one reads them by their mapping: one message, not a killed process."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from edgekit.cli.terminal import echo
from edgekit.errors import EdgeKitError

__all__ = ["shortened_files_are_named"]

# signal.h and siginfo_t of 64-bit Linux.
_SA_SIGINFO = 4
_ADDRESS_OFFSET = 16
_Handler = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)


class _Action(ctypes.Structure):
    """``struct sigaction``."""

    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_uint64 * 16),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


class _Mapped(NamedTuple):
    """The page of a mapped file at an address: the file, and where the page begins in it."""

    path: str
    offset: int


@contextmanager
def shortened_files_are_named() -> Iterator[None]:
    """Ends the process with a message and exit code 1 if a page of a mapped file cannot be read inside the block.

    The page does not exist any more if the file was shortened, as `torch.save` and `onnx.save` do before they write it
    again. The kernel sends SIGBUS then, in whichever thread and library reads the page, so that no exception is
    possible. Without the block, or where no file is mapped, SIGBUS ends the process in silence.
    """
    if sys.platform != "linux" or ctypes.sizeof(ctypes.c_void_p) != 8:
        yield
        return
    libc = ctypes.CDLL(None)
    handler = _Handler(_on_bus_error)
    before = _Action()
    ours = _Action(ctypes.cast(handler, ctypes.c_void_p).value, flags=_SA_SIGINFO)
    libc.sigaction(signal.SIGBUS, ctypes.byref(ours), ctypes.byref(before))
    try:
        yield
    finally:
        libc.sigaction(signal.SIGBUS, ctypes.byref(before), None)


def _on_bus_error(number: int, info: int, context: int) -> None:
    found = _mapped_at(ctypes.c_uint64.from_address(info + _ADDRESS_OFFSET).value)
    if found is None:
        ctypes.CDLL(None).signal(number, 0)  # SIG_DFL; Python's function is for the main thread only
        os.kill(os.getpid(), number)
        return
    try:
        message, hint = _reason(found)
        echo(message, title="error:", title_color="red", err=True)
        echo(hint, title="hint:", title_color="cyan", err=True)
        sys.stderr.flush()
    finally:
        os._exit(EdgeKitError.exit_code)


def _reason(page: _Mapped) -> tuple[str, str]:
    try:
        shortened = os.stat(page.path).st_size <= page.offset
    except OSError:
        shortened = False
    if shortened:
        message = f"{page.path}: expected a file that stays the same while it is read, got one that became shorter"
        return message, "run the command again when the other program has written the whole file"
    # As the kernel says it of a mapping that is written to a full disk, and of a network that is gone.
    message = f"{page.path}: a part of the file can be neither read nor written"
    return message, "make room on the disk that it is on, or check that disk or network"


def _mapped_at(address: int) -> _Mapped | None:
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
        for line in maps:
            # See proc_pid_maps(5): addresses, permissions, offset, device, inode, path.
            parts = line.rstrip("\n").split(maxsplit=5)
            start, end = (int(each, 16) for each in parts[0].split("-"))
            if start <= address < end:
                page = (address - start) & ~4095
                is_file = len(parts) > 5 and parts[5].startswith("/")
                return _Mapped(parts[5], int(parts[2], 16) + page) if is_file else None
    return None
