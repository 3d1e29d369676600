"""Every recipe there is, and other people's models, built through the command line: `python -m tools.zoo`."""
