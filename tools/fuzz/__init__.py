"""Fuzzes the readers of files: ``python -m tools.fuzz TARGET --seconds 60 --seed 1``, or ``--all``.

An input is a finding if its reader raises anything but an `EdgeKitError`, computes for more than 5 s, needs more than
1 GiB, or ends the process. Findings are written to ``--findings``; the tests run those in ``tests/fuzz/found`` again.
With atheris (``pip install atheris``), inputs are chosen by the coverage of `edgekit`; without it, by mutation alone.
"""

from __future__ import annotations
