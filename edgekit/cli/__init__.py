"""The command line: one file per command, imported on use, so that ``--help`` loads nothing heavy."""
