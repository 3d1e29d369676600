"""The command line. Commands import what they use when they run, so that ``--help`` loads nothing heavy."""
