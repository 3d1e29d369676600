"""Draws graphs as SVG or HTML."""
