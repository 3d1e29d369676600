"""The environment variables that commands read, for ``--help``."""

from __future__ import annotations

import click

__all__ = ["ENVIRONMENT", "write_environment"]

ENVIRONMENT = (
    ("EDGEKIT_CACHE", "Folder of downloaded weights, calibrations and timings.  [default: ~/.cache/edgekit]"),
    ("NO_COLOR", "Write without colours; so does TERM=dumb."),
    ("EDGEKIT_ENGINE_CODE", "1 lets version-compatible TensorRT engines run the code that they contain."),
)


def write_environment(formatter: click.HelpFormatter) -> None:
    """Writes the environment variables that all commands read, for ``--help``."""
    with formatter.section("Environment variables"):
        formatter.write_dl(ENVIRONMENT)
