from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tools.fuzz.__main__ import campaign, how_it_ended
from tools.fuzz.mutate import mutated
from tools.fuzz.record import Outcome, markdown_from_record, record
from tools.fuzz.targets import TARGETS
from tools.fuzz.worker import Growth, finding_of

ROOT = Path(__file__).parents[2]
FOUND = ROOT / "tests" / "fuzz" / "found"
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


KINDS = """
import sys, time
from pathlib import Path
from edgekit.errors import EdgeKitError
from tools.fuzz import worker
from tools.fuzz.targets import TARGETS, Target

def read(content, folder):
    end = time.process_time() + 10
    while content == b"slow" and time.process_time() < end:
        pass
    raise {b"ours": EdgeKitError("what"), b"other": KeyError("k"), b"empty": EdgeKitError("")}[content]

worker.SECONDS = 0.2
TARGETS["fake"] = Target(read, lambda: [b""])
for content in (b"ours", b"other", b"empty", b"slow"):
    print(worker.finding_of("fake", content, Path(sys.argv[1])).partition(":")[0])
"""


def test_findings_are_other_errors_and_time(tmp_path: Path) -> None:
    # In a process of its own: the signal of a timer that counts the processor's time may reach any thread, also those
    # that libraries started in this one.
    done = subprocess.run([sys.executable, "-c", KINDS, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = ["", "KeyError in <string>", "an error without a message", "more than 0.2 s"]
    assert done.stdout.split("\n")[:4] == expected


MEMORY = """
import sys
from pathlib import Path
from tools.fuzz import worker
from tools.fuzz.targets import TARGETS, Target

kept = []

def read(content, folder):
    bytes(int(content) << 20)  # untouched pages of zeros

TARGETS["fake"] = Target(read, lambda: [b""])
run = worker._Run("fake", 60, Path(sys.argv[1]))
worker.limit_memory()
run.limits_memory = True
kept.append(bytes(800 << 20))  # what libFuzzer keeps
for megabytes in (b"600", b"1500"):
    run.take(megabytes)
    print([found.partition(":")[0].partition(" ")[0] for found in run.findings.values()])
"""


def test_the_memory_of_an_input_is_not_that_of_the_inputs_before(tmp_path: Path) -> None:
    got = subprocess.run([sys.executable, "-c", MEMORY, tmp_path], cwd=ROOT, capture_output=True, text=True, check=True)
    assert got.stdout.splitlines() == ["[]", "['MemoryError']"]


def test_a_campaign_counts_its_runs(tmp_path: Path) -> None:
    outcome = campaign("names", 1, 0, tmp_path / "findings", coverage=False)
    assert outcome.runs > 10 and outcome.findings == [] and outcome.newest is None
    assert 1 <= outcome.seconds < 6


def test_campaigns_of_a_reader_add_up(tmp_path: Path) -> None:
    file = tmp_path / "campaigns.json"
    for name, runs, newest in [("voc", 10, 40.0), ("csv", 5, None), ("voc", 1, 0.0), ("voc", 1, 0.0)]:
        record(file, name, Outcome(runs, 59.7, ["KeyError"] if name == "csv" else [], newest))
    assert json.loads(file.read_text()) == {
        "csv": {"runs": 5, "seconds": 60, "findings": 1, "seconds_since_new": 0},
        "voc": {"runs": 12, "seconds": 180, "findings": 0, "seconds_since_new": 20 + 60 + 60},
    }
    assert "| `voc` | 12 | 180 | 140 | 0 |\n| all | 17 | 240 | | 1 |" in markdown_from_record(file)


def test_campaigns_that_end_at_once_are_all_recorded(tmp_path: Path) -> None:
    file = tmp_path / "campaigns.json"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: record(file, "voc", Outcome(1, 1.0, [], 0.0)), range(40)))
    assert json.loads(file.read_text())["voc"]["runs"] == 40


def test_a_corpus_grows_by_files_and_not_by_replacing_one(tmp_path: Path) -> None:
    (tmp_path / "seed").write_bytes(b"12")
    growth = Growth(tmp_path)
    changes = []
    for step in range(4):
        time.sleep(0.02)  # file systems count time in ticks
        if step == 1:
            (tmp_path / "new").write_bytes(b"34")
        if step == 2:
            (tmp_path / "new").rename(tmp_path / "shorter")
        changes.append(growth.has_grown())
    assert changes == [False, True, False, False]


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("pass", ""),
        ("raise SystemExit('no memory')", "the process ended with 1: no memory\n"),
        ("while True: pass", "the process does not end"),
        ("import time; time.sleep(60)", "the process does not end"),
    ],
    ids=["ends", "fails", "computes", "waits"],
)
def test_a_child_is_ended_by_the_time_that_it_computes(program: str, expected: str, tmp_path: Path) -> None:
    assert how_it_ended([sys.executable, "-c", program], tmp_path / "log", 0.5, idle_s=2) == expected


def test_a_campaign_that_is_stopped_keeps_what_it_did(tmp_path: Path) -> None:
    file = tmp_path / "campaigns.json"
    command = [sys.executable, "-m", "tools.fuzz", "names", "--no-coverage", "--seconds=600", f"--record={file}"]
    child = subprocess.Popen(
        [*command, f"--findings={tmp_path / 'findings'}"],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    until = time.monotonic() + 120
    while time.monotonic() < until and not any(
        json.loads(each.read_text())["runs"] > 10 for each in tmp_path.glob("*/result.json")
    ):
        time.sleep(0.5)
    child.terminate()
    printed, _ = child.communicate(timeout=60)
    assert (child.returncode, printed.startswith("names: ")) == (130, True)
    found = json.loads(file.read_text())["names"]
    assert found["runs"] > 10 and found["findings"] == 0


def test_mutations_are_reproducible_and_bounded() -> None:
    seeds = [b"a,b\n1,2\n", b""]
    first, second = ([mutated(seeds[0], random.Random(i), seeds) for i in range(300)] for _ in range(2))
    assert first == second
    assert len(set(first)) > 200
    assert max(map(len, first)) <= 1 << 16
