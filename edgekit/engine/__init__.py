"""Engines: how backends build, load and keep them."""
