"""Tasks: what the outputs of an engine mean, one file per task."""
