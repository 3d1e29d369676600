"""Renders measurements and graphs as terminal tables, HTML pages and SVG drawings."""
