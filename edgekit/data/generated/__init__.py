"""Data sets that are generated or ship with a package, so that nothing is downloaded."""
