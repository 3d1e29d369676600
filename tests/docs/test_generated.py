from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tools.docs.pages import ROOT, stale_pages, with_region


def test_generated_pages_are_up_to_date() -> None:
    stale = sorted(stale_pages())
    assert stale == [], "run: python -m tools.docs"


def test_the_drawing_of_the_packages_follows_the_list_that_is_enforced(monkeypatch: pytest.MonkeyPatch) -> None:
    from tools.docs import layout

    enforced = layout.runpy.run_path(str(layout.TEST))["LAYERS"]
    swapped = ["cli", *(name for name in enforced if name != "cli")]
    monkeypatch.setattr(layout.runpy, "run_path", lambda path: {"LAYERS": swapped})
    assert "design.md" in stale_pages()


def test_a_region_replaces_what_is_between_its_markers() -> None:
    page = "a\n<!-- begin x: made -->\nold\n<!-- end x -->\nb\n"
    assert with_region(page, "x", "new") == "a\n<!-- begin x: made -->\n\nnew\n\n<!-- end x -->\nb\n"


def test_error_on_a_region_that_a_page_lacks() -> None:
    with pytest.raises(ValueError, match="region 'x': expected one, got 0"):
        with_region("a\n", "x", "new")


def test_the_generator_loads_no_machine_learning_library() -> None:
    code = "import json, sys, tools.docs.pages as p; p.stale_pages(); print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert {"torch", "onnx", "onnxruntime", "openvino"} & set(json.loads(done.stdout)) == set()
