"""Published weights, fetched once into the user's cache and checked against the recipe's hash."""

from __future__ import annotations

import fcntl
import http.client
import os
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgekit.errors import ModelError, UsageError, nearest
from edgekit.progress import BYTES, Advance, Progress
from edgekit.recipe.schema import Recipe, Weights
from edgekit.storage import cache_folder, is_storage, sha256_of

__all__ = ["fetch_weights", "weights_file"]

_CHUNK_BYTES = 1 << 20
_TIMEOUT_S = 30.0
_ATTEMPTS = 3
"""A server that breaks off in the middle is asked this often in a row for the rest."""


class _BrokenOff(Exception):
    """The server ended its answer before the end of the file."""


def fetch_weights(weights: Weights, *, progress: Progress, cache: Path | None = None) -> Path:
    """The weights' file, from the cache or from its authors' server.

    A download that was interrupted is resumed. Of two processes that want the same file one downloads it and
    the other waits.

    Args:
        weights: address, length and hash.
        progress: is told how many bytes have come.
        cache: the folder to keep it in; `cache_folder` if None.

    Returns:
        A file whose length and SHA-256 are those of ``weights``.

    Raises:
        ModelError: the server cannot be reached or has another file, or the cache cannot be written.
    """
    name = Path(urllib.parse.urlsplit(weights.url).path).name or "weights"
    folder = (cache or cache_folder()) / "weights"
    # the hash in the name: two recipes may publish different files under one name
    target = folder / f"{weights.sha256[:12]}-{name}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(target.with_name(f"{target.name}.lock")):
            if not _is_right(target, weights):
                _download(weights, target, progress)
    except OSError as e:
        raise ModelError(
            f"weights {weights.url}: cannot be kept in {folder}: {e.strerror or e}",
            hint="set EDGEKIT_CACHE to a folder with room, or give a file: --weights FILE",
        ) from e
    return target


def weights_file(name: str, recipe: Recipe, *, progress: Progress) -> Path:
    """The file that ``--weights NAME`` means: a set that the recipe publishes, fetched, or else the file of that name.

    Raises:
        UsageError: it is neither.
        ModelError: the set cannot be fetched.
    """
    if name in recipe.weights:
        return fetch_weights(recipe.weights[name], progress=progress)
    file = Path(name)
    try:
        file.stat()
    except (FileNotFoundError, NotADirectoryError) as e:
        raise UsageError(
            f"--weights: expected a file or a set that is published for {recipe.name}, got '{name}', which is neither",
            hint=nearest(name, recipe.weights),
        ) from e
    except OSError:
        pass  # something is there that may not be looked at: whoever reads it says why
    return file


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # the system releases it when the process ends, however it ends
        yield


def _is_right(file: Path, weights: Weights) -> bool:
    if not file.is_file() or weights.size_bytes not in (0, file.stat().st_size):
        return False
    return sha256_of(file).startswith(weights.sha256)


def _download(weights: Weights, target: Path, progress: Progress) -> None:
    part = target.with_name(f"{target.name}.part")
    title = f"download {target.name.partition('-')[2]}"
    with progress.stage(title, total=weights.size_bytes or None, unit=BYTES) as advance:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                _fetch_rest(weights, part, advance)
                break
            except _BrokenOff as e:
                if attempt == _ATTEMPTS:
                    raise _broken_off(weights, part, e) from e
            except (urllib.error.URLError, http.client.HTTPException, OSError) as e:
                if isinstance(e, OSError) and is_storage(e):
                    raise
                raise _unreachable(weights, target, e) from e
    got = sha256_of(part)
    if not got.startswith(weights.sha256):
        part.unlink()
        raise ModelError(
            f"weights {weights.url}: expected sha256 {weights.sha256}, got {got}; the file was deleted",
            hint="the server has another file than the recipe was written for",
        )
    os.replace(part, target)


def _fetch_rest(weights: Weights, part: Path, advance: Advance) -> None:
    """Gets what the partial file lacks, or all of it from a server that knows no ranges."""
    have = part.stat().st_size if part.exists() else 0
    wanted = weights.size_bytes
    if wanted and have > wanted:
        part.unlink()
        have = 0
    if wanted and have == wanted:
        advance(have)
        return
    got = 0
    try:
        with _answer(weights, part, have) as response:
            got = _start(response, have, part)
            wanted = wanted or _announced(response, got)
            advance(got)
            with part.open("r+b" if got else "wb") as file:
                file.seek(got)
                for chunk in _chunks(response):
                    file.write(chunk)
                    got += len(chunk)
                    if wanted and got > wanted:
                        break
                    advance(len(chunk))
        if got < wanted:
            raise _BrokenOff(f"it ended after {got} bytes")
    except _BrokenOff:
        advance(-got)  # the next attempt counts them again
        raise
    if wanted and got > wanted:
        part.unlink()
        raise ModelError(f"weights {weights.url}: expected {wanted} bytes, got more; the file was deleted")


def _answer(weights: Weights, part: Path, have: int) -> http.client.HTTPResponse:
    request = urllib.request.Request(weights.url, headers={"User-Agent": "edgekit"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        response: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as e:
        e.close()
        if e.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE or not have:
            raise
        part.unlink()
        raise _BrokenOff(f"it has no bytes from {have} on") from e
    return response


def _start(response: http.client.HTTPResponse, have: int, part: Path) -> int:
    """Where in the file the answer begins: where it was asked to, or at 0 from a server that knows no ranges."""
    if response.status != http.HTTPStatus.PARTIAL_CONTENT:
        return 0
    match = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    if match is None or int(match[1]) != have:
        part.unlink()
        raise _BrokenOff(f"asked for the bytes from {have} on, it sent others")
    return have


def _announced(response: http.client.HTTPResponse, start: int) -> int:
    """How long the whole file is by the answer's own words; 0 where it does not say."""
    length = response.headers.get("Content-Length", "")
    return start + int(length) if length.isdecimal() else 0


def _chunks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    while True:
        try:
            chunk = response.read(_CHUNK_BYTES)
        except (OSError, http.client.HTTPException) as e:
            raise _BrokenOff(f"{type(e).__name__}: {e}") from e
        if not chunk:
            return
        yield chunk


def _broken_off(weights: Weights, part: Path, reason: Exception) -> ModelError:
    have = part.stat().st_size if part.exists() else 0
    of = f" of {weights.size_bytes}" if weights.size_bytes else ""
    return ModelError(
        f"weights {weights.url}: the server breaks off, {_ATTEMPTS} times in a row: {reason}; {have}{of} "
        "bytes are here",
        hint="try again later; what is here is kept, and the rest will be asked for",
    )


def _unreachable(weights: Weights, target: Path, error: Exception) -> ModelError:
    reason = getattr(error, "reason", None) or str(error) or type(error).__name__
    code = f"HTTP {error.code} " if isinstance(error, urllib.error.HTTPError) else ""
    return ModelError(
        f"weights {weights.url}: cannot be downloaded: {code}{reason}",
        hint=f"fetch it by other means and give it with --weights FILE, or put it at {target}",
    )
