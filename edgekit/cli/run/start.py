"""Starts ``edgekit run``: chooses what to do by the engine's task, and checks names before the engine is loaded."""

from __future__ import annotations

import glob
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekit.arguments import argument
from edgekit.cli.output import JsonOutput
from edgekit.cli.run.arrays import run_arrays
from edgekit.cli.run.frames import Wanted, run_frames
from edgekit.cli.run.places import Places, relative_places
from edgekit.cli.run.saved import ARRAYS, check_suffix, not_drawn
from edgekit.cli.run.texts import run_texts
from edgekit.cli.run.yolo_text import check_text_folder
from edgekit.cli.terminal import note
from edgekit.data.array_files import ARRAY_SUFFIXES
from edgekit.data.label_files import labels_from_file
from edgekit.data.missing import hint_on_missing
from edgekit.data.video.given import Given, given_sources, is_special
from edgekit.engine.bundle.manifest import Manifest, read_manifest
from edgekit.errors import DataError, UsageError
from edgekit.runtime.session import Session, session_from_bundle
from edgekit.runtime.tasks.choose import task_of, tasks
from edgekit.runtime.tasks.task import EngineTask, ImageTask, TextTask

__all__ = ["Options", "require_source", "run_engine"]

JSON_LINES = ".jsonl"
TEXTS = (".txt", ".text", "")
TAKEN = {
    "images": "an image or a folder of images, a video or a camera",
    "texts": "--text TEXT, or a file with one text per line",
    "arrays": "arrays in a .npy or .npz file",
}


@dataclass(frozen=True)
class Options:
    """The options of ``edgekit run``; see its ``--help``."""

    json: JsonOutput
    jsonl: bool
    recursive: bool
    text: str | None
    save: Path | None
    save_txt: Path | None
    force: bool
    ids: Path | None
    show: bool
    track: bool
    duration: float | None
    batch: int | None
    top: int | None
    score_threshold: float | None
    iou_threshold: float | None
    multi_label: bool | None
    labels: str | None
    threads: int


def run_engine(engine: Path, sources: Sequence[str], options: Options) -> None:
    """Runs an engine on sources; see ``edgekit run --help``."""
    if options.text is not None and sources:
        raise UsageError(f"expected --text or a file, got both: {options.text!r} and {sources[0]}")
    json_list, json_lines = _json_outputs(options)
    if options.ids is not None and not (json_list.wanted or json_lines.wanted):
        raise UsageError(
            f"{argument('ids', options.ids)}: expected results as JSON, which have image ids",
            hint="add --json, --jsonl or --json-file FILE, or leave it out",
        )
    plan = None
    if options.save is not None or options.save_txt is not None:
        plan = _planned(read_manifest(engine), sources, options)
    for each in sources:
        require_source(each)
    names = () if options.labels is None else labels_from_file(Path(options.labels))
    with session_from_bundle(engine, threads=options.threads, labels=names) as session:
        for text in session.manifest.notes:
            note(text)
        task = task_of(session.manifest)
        takes = task.takes(session.manifest)
        if options.text is not None and takes != "texts":
            raise _no_text(session)
        if options.text is None and not sources:
            raise UsageError(f"'{session.manifest.name}': expected {_taken(session.manifest)}, got no input")
        if isinstance(task, ImageTask) and _takes_frames(session.manifest, sources):
            given, wanted = plan or _planned(session.manifest, sources, options)
            _require_own_options(session, options, task.options)
            own = {name: value for name in task.options if (value := getattr(options, name, None)) is not None}
            run_frames(session, task, given, own, wanted)
            return
        _require_no_frame_options(session, options, json_lines)
        _require_own_options(session, options, ())
        source = _only_path(sources)
        if isinstance(task, TextTask) and not (source and _has_arrays(source)):
            run_texts(session, task, source, options.text, options.save, json_output=options.json)
            return
        assert source is not None  # there is no text
        run_arrays(session, source, options.save, json_output=options.json)


def _planned(manifest: Manifest, sources: Sequence[str], options: Options) -> tuple[list[Given], Wanted]:
    """Finds the sources, and checks the names of what is written."""
    task = task_of(manifest)
    if not _takes_frames(manifest, sources):
        if options.save is not None:
            _check_arrays_or_texts(options.save, task, manifest, sources)
        return [], Wanted(*_json_outputs(options))
    assert isinstance(task, ImageTask)
    if options.save is not None and not task.draws:
        raise not_drawn(options.save, task)
    for needs_boxes, value in (("save_txt", options.save_txt), ("track", options.track or None)):
        if value is not None and manifest.postprocess is None:
            raise UsageError(
                f"{argument(needs_boxes, value)}: expected an engine whose results have boxes, got {task.engine}"
            )
    given = given_sources(sources, recursive=options.recursive, note=note)
    if options.duration is None and len(given) > 1 and (live := next((each for each in given if each.is_live), None)):
        raise UsageError(
            f"expected {argument('duration', like='S')} with several sources, since {live.key} may never end",
            hint="or run one of them at a time",
        )
    text = None
    if options.save_txt is not None:
        check_text_folder(options.save_txt, force=options.force)
        text = options.save_txt, relative_places(given, by_stem=True)
        _note_renamed(given, text[1])
    wanted = Wanted(
        *_json_outputs(options),
        save=None if options.save is None else Places(options.save, given, force=options.force),
        text=text,
        ids=options.ids,
        show=options.show,
        duration_s=options.duration,
        track=options.track,
        batch=options.batch,
    )
    return given, wanted


def _note_renamed(given: Sequence[Given], places: Mapping[str, Path]) -> None:
    """Notes pictures and videos whose text files have other names than they, since those of others have them."""
    for each in given:
        place = places[each.key]
        if each.kind in ("picture", "video") and place.stem != each.path.stem:
            note(f"{each.key}: its text files are named {place.stem}, as others are named {each.path.stem} already")


def _json_outputs(options: Options) -> tuple[JsonOutput, JsonOutput]:
    """Returns where one JSON list and where JSON Lines are written; the suffix of a file decides for it."""
    printed, file = options.json
    if printed and options.jsonl:
        raise UsageError("expected --json or --jsonl, got both", hint="--json-file F.json writes the list to a file")
    has_lines = file is not None and file.suffix.lower() == JSON_LINES
    return JsonOutput(printed, None if has_lines else file), JsonOutput(options.jsonl, file if has_lines else None)


def _takes_frames(manifest: Manifest, sources: Sequence[str]) -> bool:
    """Whether the engine runs on images, and not on arrays of a file."""
    return task_of(manifest).takes(manifest) == "images" and not (len(sources) == 1 and _has_arrays(Path(sources[0])))


def _has_arrays(source: Path) -> bool:
    return source.suffix.lower() in ARRAY_SUFFIXES


def _only_path(sources: Sequence[str]) -> Path | None:
    if len(sources) > 1:
        raise UsageError(f"expected one file of arrays or texts, got {len(sources)}: {', '.join(sources[:3])}")
    return Path(sources[0]) if sources else None


def _check_arrays_or_texts(save: Path, task: EngineTask, manifest: Manifest, sources: Sequence[str]) -> None:
    if isinstance(task, TextTask) and not (sources and _has_arrays(Path(sources[0]))):
        check_suffix(save, TEXTS, "texts")
    else:
        check_suffix(save, ARRAYS if len(manifest.outputs) == 1 else ARRAYS[:1], "arrays")


def _require_no_frame_options(session: Session, options: Options, json_lines: JsonOutput) -> None:
    """Refuses options that only frames have, which would do nothing."""
    names = ("save_txt", "ids", "show", "track", "duration", "batch", "jsonl")
    given = {name: getattr(options, name) for name in names} | {"json_file": json_lines.file}
    for name, value in given.items():
        if value:
            raise UsageError(
                f"{argument(name, value)}: expected an engine that runs on images, got a run of "
                f"'{session.manifest.name}' on arrays or texts"
            )


def _require_own_options(session: Session, options: Options, own: Sequence[str]) -> None:
    """Refuses options of results that this run does not have, which would do nothing."""
    kinds = {
        "top": "a classifier",
        "score_threshold": "a detector",
        "iou_threshold": "a detector",
        "multi_label": "a detector",
    }
    for name, kind in kinds.items():
        value = getattr(options, name)
        if value is not None and name not in own:
            option = "--one-label" if value is False else argument(name, value)
            raise UsageError(
                f"{option}: expected an image and the engine of {kind}, got a run of "
                f"'{session.manifest.name}', an engine for task '{session.manifest.task}'"
            )


def require_source(text: str) -> None:
    """Checks that a source exists, before the engine is loaded.

    Raises:
        DataError: there is no such file, or the text is empty.
    """
    if not text:
        raise DataError("expected a file or a folder, got an empty text", hint="check the variable that it comes from")
    if text == "-" or is_special(text) or glob.has_magic(text):
        return
    source = Path(text)
    try:
        source.stat()
    except (FileNotFoundError, NotADirectoryError) as e:
        raise DataError(f"{text}: expected a file or a folder, got no such file", hint=hint_on_missing(text)) from e
    except (OSError, ValueError):
        return  # without access, or no valid name: reading it raises the reason


def _taken(manifest: Manifest) -> str:
    """Returns what an engine takes, for messages."""
    task = task_of(manifest)
    takes = task.takes(manifest)
    return f"an image, or {TAKEN[takes]}" if takes == "arrays" and task.takes_photo(manifest) else TAKEN[takes]


def _no_text(session: Session) -> UsageError:
    expected = " or ".join(task.engine for task in tasks().values() if task.kind == "texts")
    return UsageError(
        f"--text: expected {expected}, got an engine for task '{session.manifest.task}'",
        hint=f"give it {_taken(session.manifest)}",
    )
