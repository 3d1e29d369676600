"""The backends ``tensorrt`` and ``tensorrt-rtx``."""
