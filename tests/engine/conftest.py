"""Puts ``modules`` on the path: builders run in a process of their own, which imports from where we do."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "modules"))
