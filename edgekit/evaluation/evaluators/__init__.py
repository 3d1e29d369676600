"""Evaluators compare an engine's outputs with the targets of examples, one file per task."""
