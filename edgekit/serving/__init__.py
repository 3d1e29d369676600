"""Exports engines for inference servers."""
