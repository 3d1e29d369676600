"""Builds every recipe and third-party models through the command line: `python -m tools.zoo`."""
