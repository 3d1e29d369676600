"""Runs the command line with ``python -m edgekit``."""

import sys

from edgekit.cli.main import main

sys.exit(main())
