"""Image files as a source."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from edgekit.data.images import note_other_frames, read_image
from edgekit.data.video.source import Frame, Note, ignored
from edgekit.errors import DataError

__all__ = ["EncodedPicture", "Pictures"]


class Pictures:
    """Image files, in order.

    Args:
        paths: the files.
        name: what they are called together, such as their folder.
        skip: skip files that cannot be read, with a note; they are errors otherwise.
        note: receives a message for each file that is skipped.

    Attributes:
        skipped: number of files that were skipped.
    """

    live = False
    frame_rate: float | None = None

    def __init__(self, paths: Sequence[Path], *, name: str, skip: bool = False, note: Note = ignored) -> None:
        self.paths = tuple(paths)
        self.name = name
        self.skipped = 0
        self._skip = skip
        self._note = note
        self._closed = False

    def frames(self) -> Iterator[Frame]:
        """See `Source.frames`."""
        for index, path in enumerate(self.paths):
            if self._closed:
                return
            try:
                pixels = read_image(path)
            except DataError as e:
                if not self._skip:
                    raise
                self.skipped += 1
                self._note(f"skipped: {e.message}")
                continue
            yield Frame(pixels, index, None, str(path), path)
        if self.paths and self.skipped == len(self.paths):
            raise DataError(f"{self.name}: expected readable images, got {self.skipped} that cannot be read")

    def close(self) -> None:
        """See `Source.close`."""
        self._closed = True


class EncodedPicture:
    """One image as the bytes of its file, from standard input or a download."""

    live = False
    frame_rate: float | None = None

    def __init__(self, content: bytes, *, name: str, path: Path) -> None:
        self.name = name
        self._content = content
        self._path = path

    def frames(self) -> Iterator[Frame]:
        """See `Source.frames`."""
        try:
            opened = Image.open(io.BytesIO(self._content))
        except Exception as e:  # on a broken file, Pillow's parsers may raise any exception
            raise DataError(f"{self.name}: expected an image, got: {str(e) or type(e).__name__}") from e
        note_other_frames(opened, self.name)
        yield Frame(read_image(opened), 0, None, self.name, self._path)

    def close(self) -> None:
        """See `Source.close`."""
