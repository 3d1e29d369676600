"""What reaches the terminal: texts from files, on streams of any encoding, closed, full or without a reader."""

from __future__ import annotations

import ast
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import msgspec
import numpy as np
import onnx
import pytest
from PIL import Image
from rich.table import Table
from rich.text import Text

import edgekit
from edgekit.cli.main import main
from edgekit.cli.terminal import console as terminal
from edgekit.cli.terminal import echo
from edgekit.engine.bundle.manifest import read_manifest
from edgekit.engine.bundle.writing import seal
from edgekit.errors import EdgeKitError

CLI = Path(edgekit.__file__).parent / "cli"
HOSTILE = "[/b]\x1b]0;title\x07\x1b[31m:smile: \u202e"
SHOWN = r"[/b]\x1b]0;title\x07\x1b[31m:smile: \u202e"
RAW = ("\x1b]", "\x07", "\u202e")

ONE_PLACE = {"terminal.py", "console.py", "streams.py"}


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "edgekit", *words]


def called_names(file: Path) -> set[str]:
    calls = (node.func for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call))
    return {ast.unparse(function) for function in calls}


@pytest.mark.parametrize("file", sorted(CLI.rglob("*.py")), ids=lambda file: file.relative_to(CLI).as_posix())
def test_only_one_place_writes_to_the_terminal(file: Path) -> None:
    writers = {"click.echo", "click.secho", "print", "Console", "sys.stdout.write", "sys.stderr.write"}
    writers |= {"traceback.print_exc", "Text.from_markup", "rich.print"}
    allowed = {"command.py": {"Text.from_markup"}}.get(file.name, set())  # doctor's own marks
    assert file.name in ONE_PLACE or not (called_names(file) & writers) - allowed


def test_lines_and_tables_show_control_characters_and_take_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    echo(HOSTILE, title="note:")
    table = Table(HOSTILE, title=HOSTILE, caption=HOSTILE)
    table.add_row(HOSTILE)
    terminal(piped_columns=200).print(HOSTILE, table)
    out = capsys.readouterr().out
    assert out.count(SHOWN) == 6
    terminal(piped_columns=200).print(Text(HOSTILE))
    assert SHOWN.replace(r"\x07", "") in capsys.readouterr().out  # rich removes BEL
    assert not any(raw in out for raw in RAW)


def test_a_line_feed_in_a_message_cannot_begin_another_message(capsys: pytest.CaptureFixture[str]) -> None:
    echo("no file 'a\nerror: all is lost'", title="note:")
    assert capsys.readouterr().out == "note: no file 'a\n  error: all is lost'\n"


def with_hostile_texts(place: Path) -> Path:
    manifest = read_manifest(place)
    labels = tuple(f"{number} {HOSTILE}" for number in range(2))
    changes = {"name": HOSTILE, "notes": (HOSTILE,), "labels": labels, "build_command": f"edgekit {HOSTILE}"}
    seal(place, msgspec.structs.replace(manifest, **changes))
    return place


def test_every_command_on_a_bundle_shows_its_texts_safely(
    detector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = str(with_hostile_texts(detector))
    picture = tmp_path / f"{HOSTILE.replace('/', '')}.png"
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(picture)
    for words in (
        ("run", engine, str(picture), "--score-threshold", "0", "--save", str(tmp_path / f"{HOSTILE[4:]}.png")),
        ("profile", engine, "--runs", "3"),
        ("compare", engine, engine, "--runs", "3"),
        ("export", "triton", engine, str(tmp_path / "repository")),
    ):
        main(list(words))
        captured = capsys.readouterr()
        text = captured.out + captured.err
        assert "Traceback" not in text and not any(raw in text for raw in RAW), words
    (detector / "engine.json").write_text("damaged")
    assert main(["run", engine, str(picture)]) == 1
    assert rf"hint: rebuild it: edgekit {SHOWN}" in capsys.readouterr().err


def test_a_traceback_and_clicks_own_messages_are_shown_safely(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["models", HOSTILE]) == 2
    assert main([HOSTILE]) == 2

    def fail(*arguments: object, **options: object) -> None:
        raise ZeroDivisionError(HOSTILE)

    monkeypatch.setattr(click.Group, "invoke", fail)
    assert main(["models"]) == 70
    err = capsys.readouterr().err
    assert err.count(r"\x1b]0;title\x07") >= 3
    assert not any(raw in err for raw in RAW)


def test_pages_escape_what_terminals_show(detector: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    assert main(["profile", str(with_hostile_texts(detector)), "--runs", "3", "--html", str(page)]) == 0
    text = page.read_text()
    assert "\\x1b]0;title" in text and not any(raw in text for raw in RAW)


@pytest.mark.parametrize("words", [["models"], ["models", "--names"], ["models", "--json"], ["--help"], ["--version"]])
def test_output_that_nobody_reads_ends_as_other_tools_do(words: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command(*words), stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")


@pytest.mark.parametrize("words", [["models"], ["models", "--names"], ["models", "--json"], ["--help"]])
@pytest.mark.parametrize(("stdout", "reason"), [(">/dev/full", "No space left"), (">&-", "Bad file descriptor")])
def test_output_that_cannot_be_written_is_one_message(words: list[str], stdout: str, reason: str) -> None:
    line = f"{shlex.join(command(*words))} {stdout}"
    done = subprocess.run(["sh", "-c", line], stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: cannot write to standard output: {reason}")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("stderr", ["2>/dev/full", "2>&-"])
def test_errors_that_cannot_be_written_keep_their_exit_code(stderr: str) -> None:
    line = f"{shlex.join(command('bild'))} {stderr}"
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "")


@pytest.mark.parametrize("stderr", ["2>/dev/full", "2>&-"])
@pytest.mark.parametrize("words", [[], ["--json"]])
def test_notes_and_progress_that_cannot_be_written_do_not_end_a_command(
    words: list[str], stderr: str, tmp_path: Path
) -> None:
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            [onnx.helper.make_node("Relu", ["x"], ["y"], name="relu")],
            "g",
            [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 3, 8, 8])],
            [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 3, 8, 8])],
        ),
        opset_imports=[onnx.helper.make_opsetid("", 17)],
        ir_version=8,
    )
    onnx.save(model, tmp_path / "m.onnx")
    output = tmp_path / "m.toml"
    line = f"{shlex.join(command('recipe', 'new', str(tmp_path / 'm.onnx'), '-o', str(output), *words))}"
    said = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=True)
    assert "note: input 'x' is assumed to be an image" in said.stderr and "reading m.onnx" in said.stderr
    output.unlink()
    done = subprocess.run(["sh", "-c", f"{line} {stderr}"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, said.stdout)
    assert output.is_file()


def test_no_file_gets_the_number_of_a_closed_stream(tmp_path: Path) -> None:
    file = tmp_path / "models.json"
    line = f"{shlex.join(command('models', '--json-file', str(file)))} <&- >&- 2>&-"
    subprocess.run(["sh", "-c", line], check=False)
    assert json.loads(file.read_text())


ASCII = (
    {"PYTHONIOENCODING": "ascii"},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    {"LC_ALL": "POSIX"},
)


@pytest.mark.parametrize("environment", ASCII, ids=lambda values: "-".join(values.values()))
@pytest.mark.parametrize("words", [["doctor"], ["models"], ["models", "--json"], ["models", "é字.onnx"]])
def test_streams_in_ascii_get_escapes(words: list[str], environment: dict[str, str]) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHONUTF8"))}
    done = subprocess.run(command(*words), capture_output=True, env=kept | environment, check=False)
    assert done.returncode in (0, 2)
    assert b"Traceback" not in done.stderr and b"bug" not in done.stderr
    if "PYTHONIOENCODING" in environment:
        (done.stdout + done.stderr).decode("ascii")
    if "--json" in words:
        assert json.loads(done.stdout)


@pytest.mark.parametrize("name", ["k" * 300, "folder/" + "字" * 100])
@pytest.mark.parametrize("words", [["inspect"], ["run"], ["build"], ["profile"], ["compare", "x"]])
def test_names_that_are_too_long_are_one_message(
    words: list[str], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, name]) in (1, 2)
    assert "bug" not in capsys.readouterr().err


def test_a_name_that_a_library_cannot_encode_is_one_message(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        os.fsdecode(b"caf\xe9").encode()

    monkeypatch.setattr(click.Group, "invoke", fail)
    assert main(["models"]) == 2
    assert "expected a name in UTF-8" in capsys.readouterr().err


def test_a_path_that_is_not_utf8_builds_runs_and_profiles(
    tmp_path: Path, write_classifier: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this file system takes only UTF-8")
    model = folder / os.fsdecode(b"m\xff.onnx")
    model.write_bytes(write_classifier(tmp_path / "model.onnx").read_bytes())
    engine = folder / os.fsdecode(b"e\xff")
    assert main(["build", str(model), "--fp32", "-o", str(engine), "--json-file", str(folder / "build.json")]) == 0
    with edgekit.load(engine) as session:
        shape = session.inputs[0].shape
    np.save(folder / "x.npy", np.zeros(shape, np.float32))
    assert main(["run", str(engine), str(folder / "x.npy"), "--json"]) == 0
    assert main(["profile", str(engine), "--runs", "3", "--html", str(folder / os.fsdecode(b"\xff.html"))]) == 0
    assert r"m\xff.onnx'" in read_manifest(engine).build_command
    assert "bug" not in capsys.readouterr().err


INTERRUPT = """
import os, signal, sys
module = sys.argv[1]
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == module:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
sys.argv = ["edgekit", "models"]
from edgekit.__main__ import main
sys.exit(main())
"""


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(
    "module", ["edgekit.cli.main", "click", "edgekit.cli.models", "rich.table", "edgekit.recipe.schema"]
)
def test_ctrl_c_while_modules_are_imported_is_130_without_a_traceback(module: str) -> None:
    done = subprocess.run([sys.executable, "-c", INTERRUPT, module], capture_output=True, text=True, check=False)
    assert done.returncode == 130
    assert "Traceback" not in done.stderr


INTERRUPTED = """
import os, signal, sys, time
import click
from edgekit.cli.main import main

def fail(*arguments, **options):
    try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)
    except KeyboardInterrupt:
        raise ImportError("numpy failed to import") from None

click.Group.invoke = fail
code = main(["models"])
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
sys.exit(code)
"""


@pytest.mark.usefixtures("interruptible")
def test_an_exception_that_a_library_makes_of_ctrl_c_is_an_interrupt() -> None:
    # In a process of its own: a signal that comes late would end the process of the tests.
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True)
    assert (done.returncode, done.stderr.strip()) == (130, "interrupted")


def test_an_error_of_edgekit_is_still_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise EdgeKitError("m")

    monkeypatch.setattr(click.Group, "invoke", fail)
    assert main(["models"]) == 1


def test_files_that_are_nested_too_deep_are_one_message(
    detector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    deep = b'{"a":' * 100_000
    (tmp_path / "report.json").write_bytes(deep)
    (tmp_path / "set.toml").write_bytes(b"a = " + b"[" * 100_000)
    (tmp_path / "recipe.toml").write_bytes(b"a = " + b"[" * 100_000)
    (detector / "report.json").write_bytes(deep)
    for words in (
        ("compare", str(tmp_path / "report.json"), str(tmp_path / "report.json")),
        ("compare", str(detector), str(detector)),
        ("build", str(tmp_path / "recipe.toml"), "-o", str(tmp_path / "out")),
        ("eval", str(detector), "--data", str(tmp_path / "report.json")),
        ("inspect", str(detector), "--graph", str(tmp_path / "g.html"), "--times", str(tmp_path / "report.json")),
    ):
        assert main(list(words)) in (1, 2), words
        err = capsys.readouterr().err
        assert "bug" not in err and "error: " in err, words
