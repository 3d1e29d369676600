"""Engines exported for other programs' servers."""
