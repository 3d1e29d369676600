"""Downloads, from a server on this machine that can be told to misbehave."""

from __future__ import annotations

import hashlib
import io
import multiprocessing
import re
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from edgekit.cli import progress as progress_module
from edgekit.cli.progress import PlainProgress
from edgekit.errors import ModelError
from edgekit.models.weights.download import fetch_weights
from edgekit.progress import BYTES, Silent
from edgekit.progress.live import TerminalProgress, live_bars
from edgekit.recipe.schema import Weights

CONTENT = bytes(range(256)) * 12_000  # 3 MB


class Server(ThreadingHTTPServer):
    daemon_threads = False  # or a connection would outlive its test

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.ranges = True
        self.break_off_after: list[int] = []
        self.shift = 0
        self.requests: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/files/model.weights"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        asked = self.headers.get("Range", "")
        server.requests.append(asked)
        if self.path != "/files/model.weights":
            self.send_error(404)
            return
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and server.ranges else 0
        if start and start >= len(server.content):
            self.send_error(416)
            return
        body = server.content[start:]
        self.send_response(206 if asked and server.ranges else 200)
        if asked and server.ranges:
            first = start + server.shift
            self.send_header("Content-Range", f"bytes {first}-{len(server.content) - 1}/{len(server.content)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if server.break_off_after:
            body = body[: server.break_off_after.pop(0)]
        try:
            self.wfile.write(body)
        except ConnectionError:
            pass  # a client that has read enough hangs up
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "*")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def weights(url: str, content: bytes = CONTENT) -> Weights:
    digest = hashlib.sha256(content).hexdigest()
    return Weights(url=url, sha256=digest, size_bytes=len(content), license="none", source="a test")


class Counted(Silent):
    """A progress whose stage adds up what it is told."""

    def __init__(self) -> None:
        self.total = 0.0

    def stage(self, title: str, *, total: float | None = None, unit: str = ""):  # type: ignore[no-untyped-def]
        from contextlib import nullcontext

        assert total == len(CONTENT) and unit == BYTES and title == "download model.weights"
        return nullcontext(self.add)

    def add(self, amount: float) -> None:
        self.total += amount
        assert 0 <= self.total <= len(CONTENT)


def part(cache: Path, wanted: Weights) -> Path:
    (cache / "weights").mkdir(parents=True)
    return cache / "weights" / f"{wanted.sha256[:12]}-model.weights.part"


def error_of(wanted: Weights, cache: Path) -> str:
    with pytest.raises(ModelError) as caught:
        fetch_weights(wanted, progress=Silent(), cache=cache)
    assert wanted.url in str(caught.value)
    return str(caught.value)


def leftovers(cache: Path) -> list[str]:
    return [file.name for file in (cache / "weights").iterdir() if not file.name.endswith(".lock")]


def test_a_file_is_fetched_whole_and_only_once(server: Server, tmp_path: Path) -> None:
    progress = Counted()
    file = fetch_weights(weights(server.url), progress=progress, cache=tmp_path)
    assert file.read_bytes() == CONTENT
    assert progress.total == len(CONTENT)
    assert fetch_weights(weights(server.url), progress=progress, cache=tmp_path) == file
    assert server.requests == [""]
    assert leftovers(tmp_path) == [file.name]


def test_the_log_of_a_download_counts_megabytes(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress_module, "LOG_INTERVAL_S", -1.0)  # a line for every chunk
    fetch_weights(weights(server.url), progress=PlainProgress(), cache=tmp_path)
    first, *counts, last = capsys.readouterr().err.splitlines()
    assert first == "download model.weights ..."
    assert "  1.0 MB of 3.1 MB, 0 s" in counts
    assert re.fullmatch(r"  done in \d+\.\d s, 3\.1 MB(, \d+(\.\d)? MB/s)?", last)


def test_the_bar_of_a_download_counts_megabytes(server: Server, tmp_path: Path) -> None:
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=100, color_system=None)
    with live_bars(console) as bars:
        fetch_weights(weights(server.url), progress=TerminalProgress(bars), cache=tmp_path)
    assert re.search(r"✓ .* s  download model\.weights   3\.1 MB", text.getvalue())


def test_a_damaged_file_in_the_cache_is_fetched_anew(server: Server, tmp_path: Path) -> None:
    file = fetch_weights(weights(server.url), progress=Silent(), cache=tmp_path)
    file.write_bytes(CONTENT[:-1] + b"x")
    assert fetch_weights(weights(server.url), progress=Silent(), cache=tmp_path).read_bytes() == CONTENT


def test_an_interrupted_download_is_resumed(server: Server, tmp_path: Path) -> None:
    wanted, progress = weights(server.url), Counted()
    part(tmp_path, wanted).write_bytes(CONTENT[:1000])
    assert fetch_weights(wanted, progress=progress, cache=tmp_path).read_bytes() == CONTENT
    assert server.requests == ["bytes=1000-"]
    assert progress.total == len(CONTENT)


def test_a_server_without_ranges_sends_all_of_it_again(server: Server, tmp_path: Path) -> None:
    wanted, progress = weights(server.url), Counted()
    server.ranges = False
    part(tmp_path, wanted).write_bytes(b"\xff" * 1000)
    assert fetch_weights(wanted, progress=progress, cache=tmp_path).read_bytes() == CONTENT
    assert progress.total == len(CONTENT)


def test_a_partial_file_that_is_whole_is_not_asked_for(server: Server, tmp_path: Path) -> None:
    wanted = weights(server.url)
    part(tmp_path, wanted).write_bytes(CONTENT)
    assert fetch_weights(wanted, progress=Silent(), cache=tmp_path).read_bytes() == CONTENT
    assert server.requests == []


def test_a_partial_file_that_is_too_long_is_dropped(server: Server, tmp_path: Path) -> None:
    wanted = weights(server.url)
    part(tmp_path, wanted).write_bytes(CONTENT + b"x")
    assert fetch_weights(wanted, progress=Silent(), cache=tmp_path).read_bytes() == CONTENT


def test_a_server_that_sends_another_range_is_asked_for_all(server: Server, tmp_path: Path) -> None:
    wanted = weights(server.url)
    server.shift = 1
    part(tmp_path, wanted).write_bytes(CONTENT[:1000])
    assert fetch_weights(wanted, progress=Silent(), cache=tmp_path).read_bytes() == CONTENT
    assert server.requests == ["bytes=1000-", ""]


def test_the_rest_is_asked_for_when_the_server_breaks_off(server: Server, tmp_path: Path) -> None:
    progress = Counted()
    server.break_off_after = [1_500_000, 500_000]
    assert fetch_weights(weights(server.url), progress=progress, cache=tmp_path).read_bytes() == CONTENT
    assert server.requests == ["", "bytes=1500000-", "bytes=2000000-"]
    assert progress.total == len(CONTENT)


def test_error_when_the_server_breaks_off_every_time_and_what_came_is_kept(server: Server, tmp_path: Path) -> None:
    server.break_off_after = [1000] * 3
    wanted = weights(server.url)
    text = error_of(wanted, tmp_path)
    assert f"3000 of {len(CONTENT)} bytes" in text
    assert leftovers(tmp_path) == [f"{wanted.sha256[:12]}-model.weights.part"]
    assert fetch_weights(wanted, progress=Silent(), cache=tmp_path).read_bytes() == CONTENT


def test_error_on_another_file_of_the_same_length_and_it_is_deleted(server: Server, tmp_path: Path) -> None:
    server.content = CONTENT[:-1] + b"x"
    assert f"expected sha256 {hashlib.sha256(CONTENT).hexdigest()}" in error_of(weights(server.url), tmp_path)
    assert leftovers(tmp_path) == []


def test_error_on_a_longer_file_and_it_is_deleted(server: Server, tmp_path: Path) -> None:
    server.content = CONTENT + b"x"
    assert f"expected {len(CONTENT)} bytes, got more" in error_of(weights(server.url), tmp_path)
    assert leftovers(tmp_path) == []


def test_error_on_a_shorter_file(server: Server, tmp_path: Path) -> None:
    server.content = CONTENT[:1000]
    assert "was interrupted 3 times in a row" in error_of(weights(server.url), tmp_path)


def test_a_partial_file_that_the_server_knows_no_rest_of_is_dropped(server: Server, tmp_path: Path) -> None:
    wanted = weights(server.url)
    server.content = CONTENT[:500]
    part(tmp_path, wanted).write_bytes(CONTENT[:1000])
    assert "the server has no bytes from 500 on" in error_of(wanted, tmp_path)
    assert server.requests == ["bytes=1000-", "", "bytes=500-"]


def test_error_when_the_server_has_no_such_file(server: Server, tmp_path: Path) -> None:
    text = error_of(weights(server.url.replace("model", "other")), tmp_path)
    assert "cannot be downloaded: HTTP 404 Not Found" in text
    assert "weights=FILE" in text


def test_error_without_a_server_tells_how_to_do_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    text = error_of(weights(f"http://127.0.0.1:{port}/model.weights"), tmp_path)
    assert "Connection refused" in text
    assert "weights=FILE" in text and str(tmp_path / "weights") in text


def test_the_file_can_be_put_into_the_cache_by_hand(tmp_path: Path) -> None:
    wanted = weights("http://127.0.0.1:9/model.weights")
    part(tmp_path, wanted).with_suffix("").write_bytes(CONTENT)
    assert fetch_weights(wanted, progress=Silent(), cache=tmp_path).read_bytes() == CONTENT


def test_error_on_a_cache_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert "EDGEKIT_CACHE" in error_of(weights("http://127.0.0.1:9/model.weights"), tmp_path / "file")


def fetch_in_a_process(url: str, cache: Path) -> None:
    assert fetch_weights(weights(url), progress=Silent(), cache=cache).read_bytes() == CONTENT


def test_two_processes_fetch_it_once(server: Server, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=fetch_in_a_process, args=(server.url, tmp_path)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert server.requests == [""]


def without_length(wanted: Weights, digits: int = 8) -> Weights:
    """As authors publish them who print the first digits of the hash, and no length."""
    return msgspec.structs.replace(wanted, sha256=wanted.sha256[:digits], size_bytes=0)


def test_the_first_digits_of_a_hash_are_enough_and_no_length_is_needed(server: Server, tmp_path: Path) -> None:
    wanted = without_length(weights(server.url))
    file = fetch_weights(wanted, progress=Silent(), cache=tmp_path)
    assert file.read_bytes() == CONTENT
    assert fetch_weights(wanted, progress=Silent(), cache=tmp_path) == file
    assert server.requests == [""]


def test_a_download_of_unknown_length_is_resumed(server: Server, tmp_path: Path) -> None:
    wanted = without_length(weights(server.url))
    server.break_off_after = [1000, 500]
    assert fetch_weights(wanted, progress=Silent(), cache=tmp_path).read_bytes() == CONTENT
    assert server.requests == ["", "bytes=1000-", "bytes=1500-"]


def test_error_on_a_file_whose_hash_begins_with_other_digits(server: Server, tmp_path: Path) -> None:
    wanted = without_length(weights(server.url))
    server.content = CONTENT[:-1] + b"x"
    assert f"expected sha256 {wanted.sha256}" in error_of(wanted, tmp_path)
    assert leftovers(tmp_path) == []
