"""The command ``edgekit run``, one file per kind of input."""
