"""Writes bundles: what is in the folder's place is protected, and the manifest lists every file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import msgspec

from edgekit.arguments import argument
from edgekit.engine.bundle.manifest import FORMAT, MANIFEST, Manifest, file_info, json_or_none
from edgekit.engine.bundle.reading import read_whole
from edgekit.engine.bundle.staging import staged_folder
from edgekit.errors import UsageError
from edgekit.progress import Progress
from edgekit.storage import resolved, storage_error
from edgekit.text import json_bytes

__all__ = ["seal", "write_bundle"]


@contextmanager
def write_bundle(output: Path, progress: Progress | None = None) -> Iterator[Path]:
    """Yields a staging folder, which becomes the bundle ``output`` if the context exits normally; see `staged_folder`.

    An existing bundle is replaced. A folder that is not a bundle, or a bundle with other files in it, is not.

    Args:
        output: path of the bundle; parent folders are created.
        progress: see `staged_folder`.

    Raises:
        UsageError: something else exists at ``output``.
        BuildError: the disk is full, read-only, or write access is denied.
    """
    try:
        output = resolved(output)
    except OSError as e:
        raise UsageError(f"cannot write an engine to {output}: {e.strerror}", hint=_other()) from e
    _refuse_strangers(output)
    with staged_folder(output, progress) as folder:
        yield folder
        _refuse_strangers(output)  # what was put there during the build


def seal(folder: Path, manifest: Manifest) -> Manifest:
    """Writes ``manifest.json`` with the size and hash of each file in ``folder``.

    Returns:
        The manifest as written.
    """
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    files = {name: file_info(folder / name) for name in names if name != MANIFEST}
    sealed = msgspec.structs.replace(manifest, format=FORMAT, files=files)
    text = json_bytes(sealed, indent=2)
    (folder / MANIFEST).write_bytes(text + b"\n")
    return sealed


def _refuse_strangers(output: Path) -> None:
    other = _other()
    try:
        if not output.exists():
            return
        read_whole(output, lambda folder: _refuse_strangers_in(folder.at, other))
    except FileNotFoundError:
        return  # another process is replacing it
    except NotADirectoryError as e:
        raise UsageError(f"cannot write an engine to {output}: it is a file", hint=other) from e
    except OSError as e:
        raise storage_error(e, output) from e


def _other() -> str:
    return f"choose another {argument('output')}"


def _refuse_strangers_in(output: Path, other: str) -> None:
    present = {p.relative_to(output).as_posix() for p in output.rglob("*") if not p.is_dir()}
    visible = {name for name in present if not PurePosixPath(name).name.startswith(".")}
    if not visible:
        return
    if MANIFEST not in visible:
        raise UsageError(f"{output} is not empty and no engine: nothing in it was touched", hint=other)
    raw = json_or_none((output / MANIFEST).read_bytes())
    files = raw.get("files") if isinstance(raw, dict) else None
    if not isinstance(raw, dict) or "edgekit" not in raw or not isinstance(files, dict):
        raise UsageError(f"{output / MANIFEST} is not EdgeKit's: nothing was touched", hint=other)
    strangers = sorted(visible - set(files) - {MANIFEST})
    if strangers:
        raise UsageError(
            f"{output} has files that EdgeKit did not put there: {', '.join(strangers[:3])}; nothing was touched",
            hint=f"move them away or {other}",
        )
