"""The command ``edgekit eval``."""
