from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from edgekit.errors import EdgeKitError
from tools.fuzz.__main__ import campaign
from tools.fuzz.mutate import mutated
from tools.fuzz.targets import TARGETS, Target
from tools.fuzz.worker import finding_of

FOUND = Path(__file__).parents[1] / "fuzz" / "found"
RUNS = 200


@pytest.mark.parametrize("name", TARGETS)
def test_a_reader_reads_its_seeds(name: str, tmp_path: Path) -> None:
    for index, content in enumerate(TARGETS[name].seeds()):
        folder = tmp_path / str(index)
        folder.mkdir()
        TARGETS[name].read(content, folder)


@pytest.mark.parametrize("name", TARGETS)
def test_a_reader_raises_only_errors_of_edgekit(name: str, tmp_path: Path) -> None:
    generator, seeds = random.Random(name), TARGETS[name].seeds()
    found = [finding_of(name, mutated(generator.choice(seeds), generator, seeds), tmp_path) for _ in range(RUNS)]
    assert [text for text in found if text] == []


@pytest.mark.parametrize("file", sorted(FOUND.glob("*/*")), ids=lambda file: f"{file.parent.name}-{file.name}")
def test_what_was_found_is_mended(file: Path, tmp_path: Path) -> None:
    assert finding_of(file.parent.name, file.read_bytes(), tmp_path) == ""


def _raise(error: Exception) -> None:
    raise error


def test_findings_are_other_errors_and_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def read(content: bytes, _folder: Path) -> object:
        if content == b"slow":
            end = time.process_time() + 10
            while time.process_time() < end:
                pass
        return _raise({b"ours": EdgeKitError("what"), b"other": KeyError("k"), b"empty": EdgeKitError("")}[content])

    monkeypatch.setattr("tools.fuzz.worker.SECONDS", 0.2)
    monkeypatch.setitem(TARGETS, "fake", Target(read, lambda: [b""]))
    assert finding_of("fake", b"ours", tmp_path) == ""
    assert finding_of("fake", b"other", tmp_path).startswith("KeyError in test_fuzz.py:")
    assert finding_of("fake", b"empty", tmp_path) == "an error without a message"
    assert finding_of("fake", b"slow", tmp_path) == "more than 0.2 s"


def test_a_campaign_counts_its_runs(tmp_path: Path) -> None:
    runs, found = campaign("names", 1, 0, tmp_path / "findings", coverage=False)
    assert runs > 10 and found == []


def test_mutations_are_reproducible_and_bounded() -> None:
    seeds = [b"a,b\n1,2\n", b""]
    first, second = ([mutated(seeds[0], random.Random(i), seeds) for i in range(300)] for _ in range(2))
    assert first == second
    assert len(set(first)) > 200
    assert max(map(len, first)) <= 1 << 16
