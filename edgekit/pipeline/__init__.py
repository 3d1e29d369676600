"""The stages of a build, in the order in which they run."""
