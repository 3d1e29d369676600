"""Every error ends in one message with a fix and an exit code, and leaves no partial output."""

from __future__ import annotations

import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from torch import nn

from edgekit.cli.main import main
from edgekit.engine.bundle.manifest import read_manifest
from edgekit.extras import install_command
from edgekit.models.darknet import save_darknet
from edgekit.models.yolov3 import yolov3_tiny
from edgekit.pipeline import build as pipeline
from edgekit.recipe.schema import shipped

WriteClassifier = Callable[..., Path]
TINY = ["yolov3-tiny", "--shape", "64x64"]


def environment() -> dict[str, str]:
    """The environment of a process in another folder with the same EdgeKit."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_classifier: WriteClassifier) -> Path:
    """The working directory, with only ``model.onnx`` in it."""
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    write_classifier(here / "model.onnx")
    return here


class Said:
    """The error and the hint that a command printed to standard error, without notes."""

    def __init__(self, text: str) -> None:
        assert "Traceback" not in text
        self.before, _, rest = text.partition("error: ")
        self.error, _, hints = rest.rstrip().partition("\nhint: ")
        self.hint = hints.strip().replace("\nhint: ", "\n")
        assert "error: " not in self.error + self.hint


@pytest.fixture
def fails(place: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    def run(code: int, *arguments: str) -> Said:
        """Runs ``edgekit ARGUMENTS`` and checks the exit code, and that no file is left."""
        before = sorted(path.relative_to(place) for path in place.rglob("*"))
        assert main(list(arguments)) == code
        captured = capsys.readouterr()
        assert captured.out == ""
        assert sorted(path.relative_to(place) for path in place.rglob("*")) == before
        return Said(captured.err)

    return run


@pytest.fixture
def photos(place: Path) -> Path:
    folder = place / "photos"
    folder.mkdir()
    for i in range(2):
        pixels = np.random.default_rng(i).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


def test_an_unknown_model_names_the_nearest(fails: Callable[..., Said]) -> None:
    said = fails(2, "build", "yolo3-tiny")
    assert said.error.startswith(
        "unknown model 'yolo3-tiny': expected a name that `edgekit models` lists, an ONNX file"
    )
    assert said.hint.startswith("did you mean yolov3-tiny")


@pytest.mark.parametrize(
    ("right", "wrong", "error", "hint"),
    [
        ("pad = 128", "padd = 128", "preprocess.padd: unknown field", "did you mean pad?"),
        ("pad = 128", "pad = 300", "preprocess.pad: expected an integer <= 255, got 300", ""),
        ("yolov3_tiny", "yolov3_tinny", "'edgekit.models.yolov3' has no attribute 'yolov3_tinny'", "yolov3_tiny"),
        ("classes = 80", "clases = 80", "unexpected keyword argument 'clases'", ""),
        ("8_852_366", "8_852_367", "model.parameters: expected 8852366", ""),
        ("[model]", "[model", "not valid TOML", ""),
    ],
)
def test_a_wrong_recipe_names_file_field_and_value(
    fails: Callable[..., Said], place: Path, right: str, wrong: str, error: str, hint: str
) -> None:
    shutil.copytree(shipped("recipes") / "labels", place / "labels")
    text = (shipped("recipes") / "yolov3-tiny.toml").read_text()
    assert right in text
    (place / "my.toml").write_text(text.replace(right, wrong))
    # A factory of somebody's own that fails is not the command line's fault.
    said = fails(1 if "keyword" in error else 2, "build", "my.toml")
    assert error in said.error
    assert hint in said.hint


class Weights:
    """Weights files, each with a different error."""

    def truncated(self, path: Path) -> None:
        save_darknet(yolov3_tiny(), path)
        with path.open("r+b") as file:
            file.truncate(1_000_000)

    def too_long(self, path: Path) -> None:
        save_darknet(yolov3_tiny(), path)
        with path.open("ab") as file:
            file.write(bytes(400))

    def another_model(self, path: Path) -> None:
        save_darknet(yolov3_tiny(classes=20), path)

    def web_page(self, path: Path) -> None:
        path.write_bytes(b"<!DOCTYPE html>\n<html><body>404</body></html>")

    def pickle_of_code(self, path: Path) -> None:
        path.write_bytes(pickle.dumps({"weight": os.system}))

    def no_tensors(self, path: Path) -> None:
        torch.save({"epoch": 3}, path)

    def other_tensors(self, path: Path) -> None:
        torch.save(nn.Linear(3, 4).state_dict(), path)

    def nothing(self, path: Path) -> None:
        path.write_bytes(b"")


@pytest.mark.parametrize(
    ("kind", "error", "hint"),
    [
        ("truncated", "expected 8858734 floats, got 249995: the file ends in 'backbone.conv5.conv'", "truncated"),
        ("too_long", "expected 8858734 floats, got 8858834: 100 remain", "another model"),
        ("another_model", "expected 8858734 floats, got", "number of classes"),
        ("web_page", "got an HTML page", "download the file again"),
        ("pickle_of_code", "expected tensors by name, got a pickle of other objects", "torch.save(module.state_dict()"),
        ("no_tensors", "got a dict with 'epoch'", "torch.save(module.state_dict()"),
        ("other_tensors", "expected a tensor 'backbone.conv1.conv.weight' (16, 3, 3, 3), got none", ""),
        ("nothing", "got an empty file", ""),
    ],
)
def test_wrong_weights_say_what_is_in_the_file(
    fails: Callable[..., Said], place: Path, kind: str, error: str, hint: str
) -> None:
    getattr(Weights(), kind)(place / "w")
    said = fails(1, "build", *TINY, "--weights", "w")
    assert said.error.startswith("weights w: ")
    assert error in said.error
    assert hint in said.hint


def unknown_operator(model: onnx.ModelProto) -> None:
    model.graph.node[1].op_type = "Rleu"


def unknown_domain(model: onnx.ModelProto) -> None:
    model.graph.node[1].domain = "com.acme"
    model.opset_import.append(onnx.helper.make_opsetid("com.acme", 1))


def qonnx_domain(model: onnx.ModelProto) -> None:
    model.graph.node[1].domain, model.graph.node[1].op_type = "qonnx.custom_op.general", "Quant"
    model.opset_import.append(onnx.helper.make_opsetid("qonnx.custom_op.general", 1))


def dynamic_rank(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.ClearField("shape")


def lost_weight(model: onnx.ModelProto) -> None:
    del model.graph.initializer[0]


@pytest.mark.parametrize(
    ("change", "error", "hint"),
    [
        (unknown_operator, "node 'r0': operator 'Rleu' is not in opset 17", "did you mean Relu"),
        (unknown_domain, "node 'r0': unknown operator 'Relu' of domain 'com.acme'", "without custom operators"),
        (qonnx_domain, "node 'r0': unknown operator 'Quant' of domain 'qonnx.custom_op.general'", "export_onnx_qcdq"),
        (dynamic_rank, "input 'x': expected a fixed number of dimensions, got a dynamic rank", "input's shape"),
        (lost_weight, "not a valid graph", ""),
    ],
)
def test_an_onnx_file_that_cannot_be_built_names_the_place(
    fails: Callable[..., Said], change: Callable[[onnx.ModelProto], None], error: str, hint: str
) -> None:
    model = onnx.load("model.onnx")
    change(model)
    onnx.save(model, "model.onnx")
    said = fails(1, "build", "model.onnx")
    assert said.error.startswith("model.onnx: ")
    assert error in said.error
    assert hint in said.hint


@pytest.mark.parametrize(
    ("content", "error"),
    [(slice(0, 20_000), "20000 bytes that are not ONNX, or a truncated file"), (slice(0, 0), "an empty file")],
)
def test_a_truncated_onnx_file_is_recognized(
    fails: Callable[..., Said], place: Path, content: slice, error: str
) -> None:
    file = place / "model.onnx"
    file.write_bytes(file.read_bytes()[content])
    assert error in fails(1, "build", "model.onnx").error


def test_a_missing_onnx_file_names_a_similar_one(fails: Callable[..., Said]) -> None:
    said = fails(2, "build", "modle.onnx")
    assert said.error == "'modle.onnx': expected an ONNX file, got no such file"
    assert said.hint == "did you mean model.onnx?"


@pytest.mark.parametrize(
    ("arguments", "code", "error", "hint"),
    [
        (["--calib", "empty"], 1, "calibration set empty: expected images", ""),
        (
            ["--calib", "nowhere"],
            2,
            "--calib nowhere: expected a folder of images or arrays, a data set, or the name of a set",
            "known: digits, sample, scenes, spelling",
        ),
        (["--calib", "samle"], 2, "--calib samle: expected", "did you mean sample?"),
        (["--calib", "broken"], 1, "calibration set broken: all 2 files are broken: 0.jpg: expected an image", ""),
        (["--keep-float", "haed*"], 2, "keep-float pattern 'haed*' matches no node", "c0, c1, c2, y"),
        (["--target", "opnvino"], 2, "unknown target 'opnvino'", "did you mean openvino?"),
        (["--calib-method", "kl"], 2, "'kl' is not one of", "--help"),
        (["--calib-column", "y"], 2, "--calib-column y: expected a CSV table with --calib, got none", ""),
        (["--calib", "sample", "--calib-column", "y"], 2, "expected a CSV table with --calib, got 'sample'", ""),
        (["--calib", "empty", "--calib-column", "y"], 2, "expected a CSV table", ""),
        (["--fp32", "--calib-method", "mse"], 2, "--calib-method does not go with --fp32", "leave one of them out"),
        (["--fp32", "--keep-float", "c*"], 2, "--keep-float does not go with --fp32", "leave one of them out"),
        (["--fp32", "--calib", "empty"], 1, "calibration set empty: expected images", ""),
        (["--shape", "64x64"], 2, "got 1x3x64x64", "fixed at export"),
        (["--weights", "w.pt"], 2, "--weights does not go with model.onnx", ""),
    ],
)
def test_an_invalid_option_says_what_was_expected(
    fails: Callable[..., Said], place: Path, arguments: list[str], code: int, error: str, hint: str
) -> None:
    (place / "empty").mkdir()
    (place / "broken").mkdir()
    for i in range(2):
        (place / "broken" / f"{i}.jpg").write_bytes(b"no picture")
    said = fails(code, "build", "model.onnx", *arguments)
    assert error in said.error
    assert hint in said.hint


def test_an_unsupported_input_size_names_the_nearest(fails: Callable[..., Said]) -> None:
    said = fails(2, "build", "yolov3-tiny", "--shape", "100x330")
    assert said.error == "--shape: yolov3-tiny expects a height and a width that are multiples of 32, got 100x330"
    assert said.hint == "the nearest is --shape 96x320"


def test_nan_names_the_tensor_and_the_image(
    fails: Callable[..., Said], place: Path, photos: Path, write_classifier: WriteClassifier
) -> None:
    write_classifier(place / "model.onnx", b1=np.full(32, np.nan, np.float32))
    said = fails(1, "build", "model.onnx", "--calib", "photos")
    assert said.error == "tensor 'c1' has a NaN at calibration input '0.png', expected finite numbers"
    assert "check its weights and its preprocessing" in said.hint


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(disk)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small disk is not permitted here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("foreseen", [True, False])
def test_a_full_disk_is_named_and_left_without_output(
    fails: Callable[..., Said], tiny_disk: Path, monkeypatch: pytest.MonkeyPatch, foreseen: bool
) -> None:
    if not foreseen:
        monkeypatch.setattr(pipeline, "require_room", lambda place, needed_bytes: None)
    said = fails(1, "build", "model.onnx", "-o", str(tiny_disk / "out"))
    assert "make room" in said.hint
    assert list(tiny_disk.iterdir()) == []
    if foreseen:
        assert "calibrating" not in said.before
        assert said.error.startswith(f"cannot write {tiny_disk / 'out'}: the disk is full; ")
        assert said.error.endswith(" bytes free")


def test_a_partly_written_file_is_removed(place: Path) -> None:
    # A limit on the length of files does what a full disk does, and needs no right to mount one.
    done = subprocess.run(
        [sys.executable, "-m", "edgekit", "build", "model.onnx", "-o", "out", "--calib-images", "2"],
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000)),
    )
    assert done.returncode == 1, done.stderr
    assert Said(done.stderr).error.startswith(f"cannot write {place / 'out'}: the file would be larger than allowed")
    assert sorted(path.name for path in place.iterdir()) == ["model.onnx"]


@pytest.fixture(params=[0o555, 0o000], ids=["read-only", "not to be looked at"])
def closed(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A folder without permissions next to a model, for a user who is not root."""
    with tempfile.TemporaryDirectory() as name:
        beside, folder = Path(name), Path(name) / "closed"
        folder.mkdir()
        shutil.copy("model.onnx", beside)
        beside.chmod(0o777)
        folder.chmod(request.param)
        superuser = os.geteuid() == 0
        if superuser:
            os.seteuid(65534)
        try:
            yield folder
        finally:
            if superuser:
                os.seteuid(0)
            folder.chmod(0o755)


def test_a_folder_that_cannot_be_written_is_named(closed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", str(closed.parent / "model.onnx"), "-o", str(closed / "out")]) == 1
    said = Said(capsys.readouterr().err)
    assert said.error.startswith(f"cannot write {closed / 'out'}")
    assert "no permission to write there" in said.error
    assert said.hint == "choose another place with --output"
    assert said.before == ""


@pytest.mark.parametrize(
    ("model", "options", "error"),
    [
        ("closed/my.onnx", [], "my.onnx: cannot be read: Permission denied"),
        ("model.onnx", ["--calib", "closed"], "closed: expected a readable folder, got: Permission denied"),
    ],
)
@pytest.mark.parametrize("closed", [0o000], indirect=True)
def test_an_unreadable_folder_is_named(
    closed: Path, capsys: pytest.CaptureFixture[str], model: str, options: list[str], error: str
) -> None:
    beside = closed.parent
    options = [str(beside / word) if word == "closed" else word for word in options]
    assert main(["build", str(beside / model), *options, "-o", str(beside / "out")]) == 1
    assert Said(capsys.readouterr().err).error.endswith(error)
    assert sorted(path.name for path in beside.iterdir()) == ["closed", "model.onnx"]


def test_a_file_where_the_engine_should_go_is_left_alone(fails: Callable[..., Said], place: Path) -> None:
    (place / "out").write_text("mine")
    said = fails(2, "build", "model.onnx", "-o", "out")
    assert said.error == f"cannot write an engine to {place / 'out'}: it is a file"
    assert (place / "out").read_text() == "mine"


@pytest.fixture
def building(place: Path, photos: Path, interruptible: None) -> Iterator[subprocess.Popen[str]]:
    """A build in its own process group, as a shell starts it."""
    command = [sys.executable, "-m", "edgekit", "build", "model.onnx", "-o", "out", "--calib", "photos"]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, stderr=pipe, stdout=pipe, text=True, start_new_session=True, env=environment()
    ) as process:
        yield process
        if process.poll() is None:
            process.kill()


def wait_for(lines: IO[str] | None, text: str) -> str:
    assert lines is not None
    seen = ""
    for line in lines:
        seen += line
        if text in line:
            return seen
    raise AssertionError(f"no '{text}' in: {seen}")


@pytest.mark.parametrize("moment", ["reading model.onnx", "building the FP32 engine"])
def test_ctrl_c_ends_the_build_and_leaves_nothing(place: Path, building: subprocess.Popen[str], moment: str) -> None:
    wait_for(building.stderr, moment)
    os.killpg(building.pid, signal.SIGINT)
    out, rest = building.communicate(timeout=30)
    assert building.returncode == 130
    assert "Traceback" not in rest
    assert rest.rstrip().endswith("interrupted")
    assert out == ""
    assert sorted(path.name for path in place.iterdir()) == ["model.onnx", "photos"]


def builders_in(place: Path) -> list[str]:
    """Returns the processes whose working directory is below the folder."""
    found = []
    for link in Path("/proc").glob("[0-9]*/cwd"):
        try:
            target = os.readlink(link)
        except OSError:
            continue
        if target.startswith(str(place)) and link.parent.name != str(os.getpid()):
            found.append(target)
    return found


def test_a_killed_build_is_no_engine_and_the_next_one_works(
    place: Path, building: subprocess.Popen[str], capsys: pytest.CaptureFixture[str]
) -> None:
    wait_for(building.stderr, "building the FP32 engine")
    building.kill()
    building.communicate(timeout=30)
    assert [path.name for path in place.iterdir() if path.name.startswith(".out.partial-")]
    assert main(["run", "out", "photos/0.png"]) == 2
    assert "no engine at out" in capsys.readouterr().err
    # The builder dies with its parent.
    deadline = time.monotonic() + 10
    while builders_in(place) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert builders_in(place) == []
    assert main(["build", "model.onnx", "-o", "out", "--calib", "photos", "--no-profile"]) == 0
    assert sorted(path.name for path in place.iterdir()) == ["model.onnx", "out", "photos"]
    assert main(["run", "out", "photos/0.png"]) == 0


def test_an_engine_that_was_killed_while_it_was_replaced_is_still_there(
    place: Path, building: subprocess.Popen[str]
) -> None:
    wait_for(building.stderr, "building the FP32 engine")
    assert main(["build", "model.onnx", "-o", "out", "--fp32", "--no-profile"]) == 0
    building.kill()
    building.communicate(timeout=30)
    assert str(read_manifest(place / "out").precision) == "fp32"
    assert main(["run", "out", "photos/0.png"]) == 0


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, write_classifier: WriteClassifier) -> Path:
    folder = tmp_path_factory.mktemp("built")
    write_classifier(folder / "m.onnx")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEKIT_CACHE", str(folder / "cache"))
        assert main(["build", str(folder / "m.onnx"), "-o", str(folder / "out"), "--no-profile"]) == 0
    return folder / "out"


@pytest.mark.parametrize("command", [["run", "out", "photos/0.png"], ["profile", "out", "--runs", "1"]])
@pytest.mark.parametrize("name", ["engine.onnx", "graph.onnx", "calibration.json"])
def test_an_engine_with_a_file_missing_or_a_byte_changed_does_not_run(
    fails: Callable[..., Said], place: Path, photos: Path, built: Path, command: list[str], name: str
) -> None:
    shutil.copytree(built, place / "out")
    file = place / "out" / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))
    said = fails(1, *command)
    assert said.error.startswith(f"out: '{name}' was changed: expected sha256")
    assert said.hint.startswith("rebuild it: edgekit build ")
    file.unlink()
    said = fails(1, *command)
    assert said.error == f"out: '{name}' is missing; manifest.json lists it"
    assert said.hint.startswith("rebuild it: edgekit build ")


def test_a_folder_without_a_manifest_is_not_an_engine(
    fails: Callable[..., Said], place: Path, photos: Path, built: Path
) -> None:
    shutil.copytree(built, place / "out")
    manifest = place / "out" / "manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:200])
    assert "manifest.json is damaged" in fails(1, "run", "out", "photos/0.png").error
    manifest.unlink()
    said = fails(2, "run", "out", "photos/0.png")
    assert said.error == "out is no engine: expected manifest.json in it, there is none"
    assert "edgekit build" in said.hint


def test_a_target_whose_library_is_missing_says_how_to_get_it(
    fails: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    said = fails(3, "build", "model.onnx", "--target", "openvino")
    assert said.error.startswith("target 'openvino' needs the package 'openvino'")
    assert said.hint == install_command("openvino")


def test_an_empty_source_does_not_run_the_working_folder(detector: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(detector), ""]) == 1
    assert "expected a file or a folder, got an empty text" in capsys.readouterr().err


def test_a_file_of_an_engine_names_its_folder(detector: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(detector / "manifest.json"), str(detector)]) == 2
    assert f"give its folder: {detector}" in capsys.readouterr().err


def test_an_option_without_its_value_names_the_help_of_its_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", "lenet", "--weights"]) == 2
    assert "see edgekit build --help" in capsys.readouterr().err


@pytest.mark.parametrize(("option", "value"), [("--shape", "1000000x1000000"), ("--opset", "3"), ("--calib", "")])
def test_what_cannot_be_built_is_no_bug(option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", "lenet", "--target", "null", "--no-profile", option, value]) == 2
    assert "error: " in capsys.readouterr().err


def test_a_model_in_the_place_of_an_engine_is_named_in_the_command_that_builds_one(
    tmp_path: Path, write_classifier: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_classifier(tmp_path / "m.onnx")
    for words in (["run", str(model), str(model)], ["profile", str(model)]):
        assert main(words) == 2
        error = capsys.readouterr().err
        assert f"no engine at {model}: expected a folder with manifest.json, got a file" in error
        assert f"hint: edgekit build {model} --output FOLDER makes one" in error


def test_an_output_that_is_no_head_says_what_the_head_has_without_what_it_has_none_of(
    tmp_path: Path, write_classifier: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_classifier(tmp_path / "m.onnx")
    assert main(["build", str(model), "--head", "yolov8", "-o", str(tmp_path / "e")]) == 2
    assert "expected (N, 4 + classes, cells), got" in capsys.readouterr().err
