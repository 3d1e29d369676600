"""Builds, loads and runs engines, one module per backend."""
