"""Tasks: convert inputs and outputs of engines, one file per task."""
