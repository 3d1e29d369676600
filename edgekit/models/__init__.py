"""Reference modules, the weights they are given, and where those come from."""
