"""Recipes: TOML files that describe a model."""
