"""Downloads published weights to the user's cache and checks them against the recipe's hash."""

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

from edgekit.arguments import argument
from edgekit.errors import ModelError, UsageError, nearest
from edgekit.progress import BYTES, Advance, Progress
from edgekit.recipe.schema import Recipe, Weights
from edgekit.storage import cache_folder, is_storage, sha256_of

__all__ = ["fetch_weights", "require_weights", "weights_file"]

_CHUNK_BYTES = 1 << 20
_TIMEOUT_S = 30.0
_ATTEMPTS = 3
"""Number of attempts to resume a download after the connection breaks."""


class _Interrupted(Exception):
    """The server ended its response before the end of the file."""


def fetch_weights(weights: Weights, *, progress: Progress, cache: Path | None = None) -> Path:
    """Returns a weights file from the cache, after downloading it if it is not there.

    An interrupted download is resumed. If two processes need the same file, one downloads it and the other waits.

    Args:
        weights: URL, size and hash.
        progress: receives the number of bytes.
        cache: the cache folder; `cache_folder` if None.

    Returns:
        A file with the size and the SHA-256 of ``weights``.

    Raises:
        ModelError: the server cannot be reached or has another file, or the cache cannot be written.
    """
    name = Path(urllib.parse.urlsplit(weights.url).path).name or "weights"
    folder = (cache or cache_folder()) / "weights"
    # The name contains the hash, because two recipes may publish different files with the same name.
    target = folder / f"{weights.sha256[:12]}-{name}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(target.with_name(f"{target.name}.lock")):
            if not _is_right(target, weights):
                _download(weights, target, progress)
    except OSError as e:
        raise ModelError(
            f"weights {weights.url}: cannot be saved in {folder}: {e.strerror or e}",
            hint="set EDGEKIT_CACHE to a writable folder with free space, or give a file: "
            f"{argument('weights', like='FILE')}",
        ) from e
    return target


def weights_file(name: str, recipe: Recipe, *, progress: Progress) -> Path:
    """Returns the file of ``--weights NAME``: a published weight set of the recipe, downloaded, or a local file.

    Raises:
        UsageError: the name is neither.
        ModelError: the set cannot be downloaded.
    """
    require_weights(name, recipe)
    return fetch_weights(recipe.weights[name], progress=progress) if name in recipe.weights else Path(name)


def require_weights(name: str, recipe: Recipe) -> None:
    """Checks that `weights_file` accepts a name, without a download.

    Raises:
        UsageError: the name is neither a published weight set of the recipe nor a file.
    """
    if name in recipe.weights:
        return
    try:
        Path(name).stat()
    except (FileNotFoundError, NotADirectoryError) as e:
        expected = f"a file or a published weight set of {recipe.name}"
        if not recipe.weights:
            expected = f"a file that exists ({recipe.name} has no published weights)"
        raise UsageError(
            f"{argument('weights')}: expected {expected}, got '{name}'", hint=nearest(name, recipe.weights)
        ) from e
    except OSError:
        pass  # the file exists without access: reading it raises the reason


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # the system releases the lock when the process ends, even after a crash
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
            except _Interrupted as e:
                if attempt == _ATTEMPTS:
                    raise _interrupted(weights, part, e) from e
            except (urllib.error.URLError, http.client.HTTPException, OSError) as e:
                if isinstance(e, OSError) and is_storage(e):
                    raise
                raise _unreachable(weights, target, e) from e
    got = sha256_of(part)
    if not got.startswith(weights.sha256):
        part.unlink()
        raise ModelError(
            f"weights {weights.url}: expected sha256 {weights.sha256}, got {got}; the file was deleted",
            hint="the file on the server has changed since the recipe was written",
        )
    os.replace(part, target)


def _fetch_rest(weights: Weights, part: Path, advance: Advance) -> None:
    """Downloads the rest of the partial file, or the whole file if the server does not support ranges."""
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
        with _response(weights, part, have) as response:
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
            raise _Interrupted(f"the response ended after {got} bytes")
    except _Interrupted:
        advance(-got)  # the next attempt counts them again
        raise
    if wanted and got > wanted:
        part.unlink()
        raise ModelError(f"weights {weights.url}: expected {wanted} bytes, got more; the file was deleted")


def _response(weights: Weights, part: Path, have: int) -> http.client.HTTPResponse:
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
        raise _Interrupted(f"the server has no bytes from {have} on") from e
    return response


def _start(response: http.client.HTTPResponse, have: int, part: Path) -> int:
    """Returns the file offset of the response: the requested one, or 0 if the server does not support ranges."""
    if response.status != http.HTTPStatus.PARTIAL_CONTENT:
        return 0
    match = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    if match is None or int(match[1]) != have:
        part.unlink()
        raise _Interrupted(f"the server sent other bytes than those from {have} on")
    return have


def _announced(response: http.client.HTTPResponse, start: int) -> int:
    """Returns the size of the whole file from the response's Content-Length; 0 if it has none."""
    length = response.headers.get("Content-Length", "")
    return start + int(length) if length.isdecimal() else 0


def _chunks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    while True:
        try:
            chunk = response.read(_CHUNK_BYTES)
        except (OSError, http.client.HTTPException) as e:
            raise _Interrupted(f"{type(e).__name__}: {e}") from e
        if not chunk:
            return
        yield chunk


def _interrupted(weights: Weights, part: Path, reason: Exception) -> ModelError:
    have = part.stat().st_size if part.exists() else 0
    of = f" of {weights.size_bytes}" if weights.size_bytes else ""
    return ModelError(
        f"weights {weights.url}: the download was interrupted {_ATTEMPTS} times in a row: {reason}; {have}{of} "
        "bytes are downloaded",
        hint="try again later; the download resumes from here",
    )


def _unreachable(weights: Weights, target: Path, error: Exception) -> ModelError:
    reason = getattr(error, "reason", None) or str(error) or type(error).__name__
    code = f"HTTP {error.code} " if isinstance(error, urllib.error.HTTPError) else ""
    return ModelError(
        f"weights {weights.url}: cannot be downloaded: {code}{reason}",
        hint=f"download it by other means and give it with {argument('weights', like='FILE')}, or save it as {target}",
    )
