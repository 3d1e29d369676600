"""Adds the small graphs of the engine tests to the import path."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "engine" / "modules"))


@pytest.fixture
def reasons(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """Returns the reasons why nodes stayed, since the last call."""
    caplog.set_level(logging.DEBUG, logger="edgekit.lower")

    def told() -> list[str]:
        messages = [record.getMessage() for record in caplog.records if record.name.startswith("edgekit.lower")]
        caplog.clear()
        return messages

    return told
