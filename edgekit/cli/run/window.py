"""Shows results in a window while they are computed, with Tk, which comes with most Pythons."""

from __future__ import annotations

from typing import Any

from PIL import Image

from edgekit.cli.run.items import Item
from edgekit.data.video.source import Source
from edgekit.errors import BackendUnavailable

__all__ = ["Window", "WindowClosed"]

_SHARE_OF_SCREEN = 0.9


class WindowClosed(Exception):
    """The user has closed the window, or pressed Escape or q in it."""


class Window:
    """A window that shows the latest frame.

    Raises:
        BackendUnavailable: there is no display, or Python has no Tk.
    """

    def __init__(self) -> None:
        try:
            import tkinter  # not in every Python, as in those of containers

            from PIL import ImageTk
        except ImportError as e:
            raise BackendUnavailable(
                f"--show needs Python's tkinter, which is missing here: {e}", hint="apt install python3-tk"
            ) from e
        try:
            self._root = tkinter.Tk()
        except tkinter.TclError as e:
            raise BackendUnavailable(f"--show needs a display, got none: {e}") from e
        self._photo_of = ImageTk.PhotoImage
        self._root.title("EdgeKit")
        self._label = tkinter.Label(self._root, borderwidth=0)
        self._label.pack()
        self._photo: Any = None  # Tk shows it only while somebody holds it
        self._is_closed = False
        self._root.protocol("WM_DELETE_WINDOW", self._mark_closed)
        for key in ("<Escape>", "q"):
            self._root.bind(key, lambda event: self._mark_closed())

    def _mark_closed(self) -> None:
        self._is_closed = True

    def add(self, item: Item) -> None:
        """Shows a frame.

        Raises:
            WindowClosed: the user wants no more.
        """
        self._show(item.drawn)
        self._root.title(f"{item.frame.source} - EdgeKit")
        self._root.update()
        if self._is_closed:
            raise WindowClosed

    def _show(self, image: Image.Image) -> None:
        screen = self._root.winfo_screenwidth(), self._root.winfo_screenheight()
        scale = min(1.0, *(_SHARE_OF_SCREEN * side / own for side, own in zip(screen, image.size, strict=True)))
        if scale < 1:
            image = image.resize((round(image.width * scale), round(image.height * scale)))
        self._photo = self._photo_of(image)
        self._label.configure(image=self._photo)

    def end(self, source: Source) -> None:
        """See `Output.end`."""

    def close(self) -> None:
        """Closes the window."""
        self._root.destroy()
