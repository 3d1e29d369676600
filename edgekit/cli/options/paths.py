"""Options that name files: checked while the command line is parsed, before anything slow begins."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from edgekit.cli.options.hinted import HintedError
from edgekit.data.missing import hint_on_missing
from edgekit.storage import descriptor_of

__all__ = ["InputPath", "OutputFile", "OutputPlace"]


class InputPath(click.Path):
    """A file or folder that has to exist; suggests names beside it that are similar."""

    def __init__(self, *, dir_okay: bool = True) -> None:
        super().__init__(path_type=Path, dir_okay=dir_okay)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        try:
            path.stat()
        except (FileNotFoundError, NotADirectoryError):
            what = "a file or a folder" if self.dir_okay else "a file"
            message = f"expected {what}, got no such path: {path}"
            raise HintedError(message, hint_on_missing(path), ctx, param) from None
        except (OSError, ValueError):
            pass  # without access, or no valid name: reading it raises the reason
        return path


class OutputFile(click.Path):
    """A file to write.

    Args:
        suffixes: suffixes of such files; a file that exists and has another suffix is not replaced. An open stream,
            such as ``/dev/stdout``, may be any file.
    """

    def __init__(self, *suffixes: str) -> None:
        super().__init__(path_type=Path, dir_okay=False)
        self.suffixes = suffixes

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        if descriptor_of(path) is not None:
            return path
        if path.is_file() and self.suffixes and path.suffix.lower() not in self.suffixes:
            raise HintedError(
                f"expected a new file, or one that ends in {' or '.join(self.suffixes)}, got '{path}', which exists",
                f"write to {path.with_suffix(self.suffixes[0])}",
                ctx,
                param,
            )
        folder = next((parent for parent in path.absolute().parents if parent.exists()), None)
        if folder is not None and not folder.is_dir():
            raise HintedError(f"'{path}' cannot be written: {folder} is a file", "choose another folder", ctx, param)
        if folder is not None and not os.access(folder, os.W_OK):
            raise HintedError(
                f"'{path}' cannot be written: no permission to write in {folder}", "choose another folder", ctx, param
            )
        return path


class OutputPlace(click.Path):
    """A file or a folder to write, which the command itself checks."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)
