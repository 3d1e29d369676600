"""Which pages are generated, and from what."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path

from tools.docs.commands import markdown_from_commands
from tools.docs.json_schema import SCHEMAS, json_from_schema
from tools.docs.layout import drawing_of_packages
from tools.docs.measured import markdown_from_benchmarks
from tools.docs.schema import markdown_from_schema
from tools.fuzz.record import markdown_from_record

__all__ = ["DOCS", "ROOT", "stale_pages"]

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"

PAGES: dict[str, Callable[[], str]] = {"commands.md": markdown_from_commands, "recipes.md": markdown_from_schema}
PAGES |= {f"schema/{name}.json": functools.partial(json_from_schema, name) for name in SCHEMAS}
REGIONS: dict[str, dict[str, Callable[[], str]]] = {
    "design.md": {"layout": drawing_of_packages},
    "benchmarks.md": {"tables": markdown_from_benchmarks},
    "robustness.md": {"campaigns": markdown_from_record},
}


def stale_pages() -> dict[str, str]:
    """The pages that differ from the code, each with the text that it should have."""
    wanted = {name: page() for name, page in PAGES.items()}
    for name, regions in REGIONS.items():
        text = _text(name)
        for region, content in regions.items():
            text = with_region(text, region, content())
        wanted[name] = text
    return {name: text for name, text in wanted.items() if text != _text(name)}


def with_region(page: str, name: str, content: str) -> str:
    """The page with new content between the markers of a region; raises `ValueError` if they are missing."""
    pattern = re.compile(rf"(<!-- begin {name}:[^>]*-->\n).*?(<!-- end {name} -->)", re.DOTALL)
    page, count = pattern.subn(lambda match: f"{match[1]}\n{content.strip()}\n\n{match[2]}", page)
    if count != 1:
        raise ValueError(f"region '{name}': expected one, got {count}")
    return page


def _text(name: str) -> str:
    file = DOCS / name
    return file.read_text(encoding="utf-8") if file.exists() else ""
