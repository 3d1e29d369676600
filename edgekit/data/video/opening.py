"""Opens the sources that the user names."""

from __future__ import annotations

import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

from edgekit.data.video.containers import NETWORK_TIMEOUT_S, is_endless, open_container
from edgekit.data.video.files import VideoFile, video_file
from edgekit.data.video.given import Given, given_sources, is_picture_address, shown_address
from edgekit.data.video.gstreamer import csi_camera, decoder_pipeline, pipeline_source
from edgekit.data.video.live import camera, network_stream
from edgekit.data.video.pictures import EncodedPicture, Pictures
from edgekit.data.video.source import Frame, Note, Source, ignored
from edgekit.data.video.stdin import Encoded
from edgekit.errors import DataError, UsageError

__all__ = ["open_given", "open_sources", "source_of"]

_MAX_PICTURE_BYTES = 1 << 28


def source_of(place: str | Path, *, recursive: bool = False, note: Note = ignored) -> Source:
    """Opens what `given_sources` describes: one file, folder, glob, list, camera, address or pipeline.

    Raises:
        BackendUnavailable: a package for it is not installed.
        DataError: it does not exist, or cannot be opened.
        UsageError: it is a list with a live source among others, which would never get their turn.
    """
    given = given_sources([str(place)], recursive=recursive, note=note)
    if len(given) == 1:
        return open_given(given[0], note=note)
    if any(each.is_live for each in given):
        raise UsageError(f"{place}: expected one live source, or pictures and videos, got {len(given)} sources")
    return _Several(given, name=str(place), note=note)


def open_sources(given: Sequence[Given], *, note: Note = ignored) -> Iterator[Source]:
    """Opens sources one after the other; pictures that follow each other are one source.

    If there are several, a picture or a video that cannot be read is skipped with a note.
    """
    several = len(given) > 1
    for is_picture, group in groupby(given, lambda each: each.kind == "picture"):
        if is_picture:
            pictures = list(group)
            name = str(pictures[0].within or pictures[0].place)
            yield Pictures([each.path for each in pictures], name=name, skip=several, note=note)
            continue
        for each in group:
            try:
                yield open_given(each, note=note)
            except DataError as e:
                if not several:
                    raise
                note(f"skipped: {e.message}")


def open_given(given: Given, *, note: Note = ignored) -> Source:
    """Opens one source.

    Raises:
        BackendUnavailable: a package for it is not installed.
        DataError: it cannot be opened.
    """
    if given.kind == "picture":
        return Pictures([given.path], name=given.place)
    if given.kind == "video":
        return video_file(given.path, name=given.place, note=note)
    if given.kind == "stdin":
        if isinstance(given.content, Encoded):
            return EncodedPicture(given.content.content, name="-", path=Path("stdin"))
        return video_file(given.content, name="-", note=note)
    if given.kind == "network":
        return _from_network(given.place, note)
    scheme, _, rest = given.place.partition(":")
    if scheme == "gst":
        return pipeline_source(rest, name=given.place)
    if scheme == "nvdec":
        return pipeline_source(decoder_pipeline(rest), name=given.place)
    if rest.startswith("csi"):
        return pipeline_source(csi_camera(rest.removeprefix("csi")), name=given.place)
    return camera(rest, name=given.place, note=note)


def _from_network(address: str, note: Note) -> Source:
    name = shown_address(address)
    if not address.lower().startswith(("http:", "https:")):
        return network_stream(address, name=name, note=note)
    if is_picture_address(address):
        picture = _downloaded(address, name)
        if picture is not None:
            return picture
    # A download that is cut off continues where it ended.
    container = open_container(address, name=name, options={"reconnect": "1"}, network=True)
    if is_endless(container):
        return network_stream(address, name=name, first=container, note=note)
    return VideoFile(container, name=name, note=note)


def _downloaded(address: str, name: str) -> EncodedPicture | None:
    """Downloads a picture; None if the server sends pictures without end."""
    parts = urllib.parse.urlsplit(address)
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    passwords = urllib.request.HTTPPasswordMgrWithDefaultRealm()
    if parts.username is not None:
        user, password = (urllib.parse.unquote(text or "") for text in (parts.username, parts.password))
        passwords.add_password(None, bare, user, password)
    handlers = urllib.request.HTTPBasicAuthHandler(passwords), urllib.request.HTTPDigestAuthHandler(passwords)
    request = urllib.request.Request(bare, headers={"User-Agent": "EdgeKit"})
    try:
        with urllib.request.build_opener(*handlers).open(request, timeout=2 * NETWORK_TIMEOUT_S) as answer:
            if answer.headers.get_content_maintype() == "multipart":
                return None
            content = answer.read(_MAX_PICTURE_BYTES + 1)
    except (OSError, ValueError) as e:  # URLError and HTTPError are OSErrors
        raise DataError(f"{name}: expected a picture, got: {getattr(e, 'reason', None) or e}") from e
    if len(content) > _MAX_PICTURE_BYTES:
        raise DataError(f"{name}: expected a picture of at most {_MAX_PICTURE_BYTES:,} bytes, got more")
    return EncodedPicture(content, name=name, path=Path(Path(parts.path).name))


class _Several:
    """Pictures and videos, one after the other, as one source; frames are numbered within their own."""

    live = False
    frame_rate: float | None = None

    def __init__(self, given: Sequence[Given], *, name: str, note: Note) -> None:
        self.name = name
        self._given = given
        self._note = note
        self._closed = False
        self._current: Source | None = None

    def frames(self) -> Iterator[Frame]:
        """See `Source.frames`."""
        for source in open_sources(self._given, note=self._note):
            self._current = source
            if self._closed:
                source.close()
                return
            yield from source.frames()

    def close(self) -> None:
        """See `Source.close`."""
        self._closed = True
        if self._current is not None:
            self._current.close()
