from __future__ import annotations

import sys
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def helpers_are_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Builders run in a process of their own, which imports from where we do."""
    monkeypatch.syspath_prepend(Path(__file__).parent / "modules")
    assert sys.path[0].endswith("modules")
