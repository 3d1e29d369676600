from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import edgekit
from edgekit.arguments import on_command_line
from edgekit.device.cpu import Cpu
from edgekit.engine.bundle import checks as bundle_checks
from edgekit.engine.bundle import staging as staging_module
from edgekit.engine.bundle.checks import read_bundle
from edgekit.engine.bundle.manifest import FORMAT, Manifest, Source, read_manifest, this_machine
from edgekit.engine.bundle.writing import seal, write_bundle
from edgekit.engine.table import BACKENDS, Entry
from edgekit.errors import BackendUnavailable, BuildError, EdgeKitError, EngineMismatch, UsageError
from edgekit.specs import Precision, TensorSpec
from edgekit.storage import require_room

REBUILD = "edgekit build tiny --fp32 --target null"


def manifest(**changes: Any) -> Manifest:
    values: dict[str, Any] = dict(
        format=0,
        edgekit=edgekit.__version__,
        created="2026-01-01T00:00:00Z",
        name="tiny",
        task="tensor",
        backend="null",
        backend_version=edgekit.__version__,
        precision=Precision.FP32,
        layers={"float32": 2},
        engine="engine.json",
        machine=this_machine(),
        source=Source(kind="recipe", name="tiny"),
        inputs=(TensorSpec("images", "float32", ("batch", 3)),),
        outputs=(TensorSpec("head", "float32", (1, 3)),),
        build_command=REBUILD,
    )
    return Manifest(**values | changes)


def make(output: Path, content: str = "engine", **changes: Any) -> Path:
    with write_bundle(output) as staging:
        (staging / "engine.json").write_text(content)
        (staging / "extra").mkdir()
        (staging / "extra/report.json").write_text("{}")
        seal(staging, manifest(**changes))
    return output


def leftovers(output: Path) -> list[str]:
    return [p.name for p in output.parent.iterdir() if p.name.startswith(f".{output.name}.")]


def test_a_bundle_reads_back_as_written(tmp_path: Path) -> None:
    bundle = read_bundle(make(tmp_path / "a" / "b"))
    assert bundle.path == tmp_path / "a" / "b"
    assert bundle.manifest.inputs == manifest().inputs
    assert bundle.manifest.format == FORMAT
    assert set(bundle.manifest.files) == {"engine.json", "extra/report.json"}
    assert leftovers(bundle.path) == []


def test_hashes_are_those_of_sha256sum(tmp_path: Path) -> None:
    output = make(tmp_path / "out")
    said = subprocess.run(["sha256sum", output / "engine.json"], capture_output=True, text=True, check=True).stdout
    assert read_manifest(output).files["engine.json"].sha256 == said.split()[0]


def test_a_manifest_is_json_that_a_person_can_read(tmp_path: Path) -> None:
    text = (make(tmp_path / "out") / "manifest.json").read_text()
    assert json.loads(text)["precision"] == "fp32"
    assert '\n  "backend": "null",\n' in text


def test_a_newer_bundle_replaces_an_older_one(tmp_path: Path) -> None:
    make(tmp_path / "out", "old")
    make(tmp_path / "out", "new")
    assert (tmp_path / "out/engine.json").read_text() == "new"
    assert leftovers(tmp_path / "out") == []


@pytest.mark.parametrize("error", [ValueError("a bug"), KeyboardInterrupt(), SystemExit(1)])
def test_a_build_that_fails_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)), write_bundle(tmp_path / "new" / "parents" / "out") as staging:
        (staging / "engine.json").write_text("half")
        raise error
    assert list(tmp_path.iterdir()) == []


def test_a_build_that_fails_leaves_the_old_bundle(tmp_path: Path) -> None:
    make(tmp_path / "out", "old")
    with pytest.raises(KeyboardInterrupt), write_bundle(tmp_path / "out") as staging:
        (staging / "engine.json").write_text("new")
        raise KeyboardInterrupt
    assert read_bundle(tmp_path / "out").path.joinpath("engine.json").read_text() == "old"
    assert leftovers(tmp_path / "out") == []


def test_the_old_bundle_is_restored_if_the_new_one_cannot_be_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "out", "old")
    rename = Path.rename

    def fails_for_the_new_one(path: Path, target: Path) -> Path:
        if ".partial-" in path.name:
            raise OSError(errno.EIO, "input/output error")
        return rename(path, target)

    monkeypatch.setattr(staging_module, "exchange", lambda one, other: False)
    monkeypatch.setattr(Path, "rename", fails_for_the_new_one)
    with pytest.raises(OSError, match="input/output error"):
        make(tmp_path / "out", "new")
    assert (tmp_path / "out/engine.json").read_text() == "old"
    assert leftovers(tmp_path / "out") == []


def test_an_old_bundle_that_a_killed_build_renamed_is_restored(tmp_path: Path) -> None:
    make(tmp_path / "out", "old").rename(tmp_path / ".out.replaced-1-1")
    with pytest.raises(ValueError), write_bundle(tmp_path / "out"):
        raise ValueError
    assert read_bundle(tmp_path / "out").path.joinpath("engine.json").read_text() == "old"


HOLD_A_LOCK = """
import fcntl, os, sys, time
fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_EX)
print("locked", flush=True)
time.sleep(60)
"""


def test_leftover_folders_are_removed_and_those_of_running_builds_stay(tmp_path: Path) -> None:
    (tmp_path / ".out.partial-1").mkdir()
    (tmp_path / f".out.partial-{os.getpid()}").mkdir()
    (tmp_path / ".out.partial-1/engine.json").write_text("half")
    command = [sys.executable, "-c", HOLD_A_LOCK, tmp_path / ".out.partial-1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        assert holder.stdout and holder.stdout.readline() == b"locked\n"
        make(tmp_path / "out")
        assert leftovers(tmp_path / "out") == [".out.partial-1"]
        holder.kill()
    make(tmp_path / "out")
    assert leftovers(tmp_path / "out") == []


def test_two_threads_do_not_write_one_bundle(tmp_path: Path) -> None:
    with write_bundle(tmp_path / "out") as staging:
        with pytest.raises(UsageError, match="being written"), write_bundle(tmp_path / "out"):
            pass
        assert staging.is_dir()
        seal(staging, manifest())
    assert read_manifest(tmp_path / "out").name == "tiny"


def test_files_of_the_user_are_never_touched(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="is not empty and no engine"):
        make(tmp_path / "mine")
    make(tmp_path / "out")
    (tmp_path / "out/thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match=r"did not put there: thesis\.txt"):
        make(tmp_path / "out")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign/manifest.json").write_text('{"name": "a web app", "files": {}}')
    with pytest.raises(UsageError, match="not EdgeKit's"):
        make(tmp_path / "foreign")
    with pytest.raises(UsageError, match="it is a file"):
        make(tmp_path / "mine/thesis.txt")
    assert (tmp_path / "mine/thesis.txt").read_text() == (tmp_path / "out/thesis.txt").read_text() == "years of work"


def test_an_empty_folder_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert read_bundle(make(tmp_path / "out")).manifest.name == "tiny"


@pytest.mark.parametrize("method", ["is_dir", "is_file", "read_bytes"])
def test_error_on_an_engine_without_read_permission(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    place = make(tmp_path / "out")

    def refuse(path: Path, *args: Any, **kwargs: Any) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, method, refuse)
    with pytest.raises(EngineMismatch, match=f"cannot read {place}/manifest.json: Permission denied"):
        read_manifest(place)


def test_a_full_disk_is_a_build_error_and_leaves_nothing(tiny_disk: Path) -> None:
    with pytest.raises(BuildError, match=r"disk is full; more than [\d,]+ bytes needed, [\d,]+ bytes free"):
        make(tiny_disk / "out", "x" * 200_000)
    assert list(tiny_disk.iterdir()) == []


def test_too_little_disk_space_is_detected_before_the_build(tmp_path: Path) -> None:
    needed = 2**60
    with pytest.raises(
        BuildError, match=rf"{tmp_path}/out: the disk is full; {needed:,} bytes needed, [\d,]+ bytes free"
    ):
        with write_bundle(tmp_path / "out"):
            require_room(tmp_path / "out", needed)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("number", "words"), [(errno.EROFS, "read-only"), (errno.EACCES, "no permission")])
def test_a_folder_that_cannot_be_written_is_a_build_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str
) -> None:
    def refuse(path: Path, *args: Any, **kwargs: Any) -> None:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(BuildError, match=words) as caught:
        make(tmp_path / "out")
    assert str(tmp_path / "out") in caught.value.message
    assert "choose another place" in caught.value.hint


@pytest.mark.parametrize("below", ["e", "a/b/e"])
def test_a_place_below_a_file_is_a_build_error(below: str, tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(b"mine")
    with pytest.raises(BuildError, match=r"model\.onnx.*: a part of the path is a file"), write_bundle(file / below):
        pass
    assert file.read_bytes() == b"mine" and list(tmp_path.iterdir()) == [file]


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs /proc, where no folders can be made")
def test_a_place_where_no_folder_can_be_made_is_a_build_error() -> None:
    with pytest.raises(BuildError, match=r"cannot write /proc/\d+/e"), write_bundle(Path("/proc/self/e")):
        pass


def test_a_file_elsewhere_that_cannot_be_read_is_not_blamed_on_the_bundle(tmp_path: Path) -> None:
    with pytest.raises(PermissionError, match=r"model\.onnx"), write_bundle(tmp_path / "out"):
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "model.onnx"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda out: (out / "engine.json").unlink(), "'engine.json' is missing"),
        (lambda out: (out / "engine.json").write_text("enginee"), "expected 6 bytes, got 7"),
        (lambda out: (out / "engine.json").write_text("engina"), "expected sha256"),
        (lambda out: (out / "extra/report.json").write_text("[]"), "'extra/report.json' was changed"),
        (lambda out: edit(out, format=FORMAT + 1), f"newer than this EdgeKit's, {FORMAT}"),
        (lambda out: edit(out, format=FORMAT - 1), f"expected format {FORMAT}, got {FORMAT - 1}"),
        (lambda out: edit(out, format=str(FORMAT)), f"expected 'format' {FORMAT}, got {FORMAT}"),
        (lambda out: edit(out, precision="int4"), r"Invalid enum value 'int4' - at `\$.precision`"),
        (lambda out: edit(out, task="pose"), "expected 'postprocess' with a head, since the task is 'pose', got none"),
        (
            lambda out: edit(out, task="classify", postprocess={"head": {"family": "yolov8", "output": "head"}}),
            "expected the task 'detect', since the head is for it, got 'classify'",
        ),
        (lambda out: edit(out, engine="other.json"), "does not list engine 'other.json'"),
        (lambda out: edit(out, backend="onnx"), "does not know"),
        (lambda out: edit(out, backend_version="0.0.9"), "was built with null 0.0.9, here is"),
        (lambda out: edit(out, files={"../x": {"size_bytes": 1, "sha256": ""}, "engine.json": {}}), "damaged"),
        (lambda out: edit(out, engine="../x", files={"../x": {"size_bytes": 1, "sha256": ""}}), "not inside"),
        (lambda out: (out / "manifest.json").write_text("{"), "expected a JSON object"),
        (lambda out: (out / "manifest.json").write_text("[" * 100_000), "expected a JSON object"),
        (lambda out: (out / "manifest.json").write_bytes(b"\xff\x00"), "expected a JSON object"),
    ],
)
def test_error_on_a_bundle_that_was_changed(tmp_path: Path, spoil: Callable[[Path], object], words: str) -> None:
    output = make(tmp_path / "out")
    spoil(output)
    with pytest.raises(EngineMismatch, match=words) as caught:
        read_bundle(output)
    assert caught.value.hint


def test_errors_have_the_rebuild_command_as_a_hint(tmp_path: Path) -> None:
    output = make(tmp_path / "out")
    (output / "engine.json").write_text("engina")
    with pytest.raises(EngineMismatch) as caught:
        read_bundle(output)
    assert caught.value.hint == f"rebuild it, in a shell: {REBUILD}"
    with on_command_line(), pytest.raises(EngineMismatch) as caught:
        read_bundle(output)
    assert caught.value.hint == f"rebuild it: {REBUILD}"


def test_error_on_a_path_that_is_not_a_bundle(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"expected a folder with manifest\.json, got no such folder"):
        read_bundle(tmp_path / "absent")
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"expected a folder with manifest\.json, got a file"):
        read_bundle(tmp_path / "file")
    with pytest.raises(UsageError, match=r"expected manifest\.json in it"):
        read_bundle(tmp_path)


def test_error_on_another_architecture(tmp_path: Path) -> None:
    other = msgspec.structs.replace(this_machine(), arch="riscv64", cpu="SiFive")
    with pytest.raises(EngineMismatch, match=r"was built for riscv64 \(SiFive\), this is"):
        read_bundle(make(tmp_path / "out", machine=other))


@pytest.mark.parametrize(
    ("precision", "built", "here", "fits"),
    [
        ("int8", ("avx2", "avx512_vnni"), ("avx2",), False),
        ("int8", ("avx2", "avx512_vnni"), ("avx2", "avx_vnni"), True),
        ("int8", ("avx2",), ("avx2", "avx512_vnni"), True),
        ("int8", ("avx2",), (), True),
        ("fp32", ("avx2", "avx512_vnni"), ("avx2",), True),
        ("int8", ("neon", "asimddp"), ("neon",), True),
    ],
)
def test_8_bit_products_are_rejected_on_a_cpu_where_they_overflow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str, built: Any, here: Any, fits: bool
) -> None:
    machine = msgspec.structs.replace(this_machine(), arch="x86_64", features=built)
    output = make(tmp_path / "out", machine=machine, precision=Precision(precision))
    monkeypatch.setattr(bundle_checks, "cpu", lambda: _cpu(here))
    if fits:
        assert read_bundle(output).path == output
    else:
        with pytest.raises(EngineMismatch, match="avx512_vnni; Test has avx2, and its 8-bit products would overflow"):
            read_bundle(output)


def test_error_on_a_backend_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKENDS, "absent", Entry("broken_backends:NotInstalled"))
    with pytest.raises(BackendUnavailable, match="needs libfoo\npip install foo"):
        read_bundle(make(tmp_path / "out", backend="absent"))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_manifest_with_other_bytes_raises_anything_else(tmp_path: Path, data: st.DataObject) -> None:
    output = tmp_path / "out"
    if not output.exists():
        make(output)
    file = output / "manifest.json"
    good = file.read_bytes()
    bad = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        bad[data.draw(st.integers(0, len(bad) - 1))] = data.draw(st.integers(0, 255))
    assert _refusal(file, good, bytes(bad[: data.draw(st.integers(0, len(bad)))])) != ""


@given(data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_manifest_with_other_values_raises_anything_else(tmp_path: Path, data: st.DataObject) -> None:
    output = tmp_path / "out"
    if not output.exists():
        make(output)
    file = output / "manifest.json"
    good = file.read_bytes()
    raw = json.loads(good)
    place = raw
    while isinstance(place, dict) and place:
        key = data.draw(st.sampled_from(sorted(place)))
        if not isinstance(place[key], dict) or data.draw(st.booleans()):
            place[key] = data.draw(JSON)
            break
        place = place[key]
    assert _refusal(file, good, json.dumps(raw).encode()) != ""


def _refusal(file: Path, good: bytes, bad: bytes) -> str | None:
    """Returns the error for a bundle with that manifest; None if it is still valid."""
    file.write_bytes(bad)
    try:
        read_bundle(file.parent)
    except EdgeKitError as e:
        return e.message
    finally:
        file.write_bytes(good)
    return None


def edit(output: Path, **changes: Any) -> None:
    file = output / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def _cpu(features: tuple[str, ...]) -> Cpu:
    return Cpu(name="Test", arch="x86_64", cores=1, threads=1, features=features, memory_bytes=0, available_bytes=0)
