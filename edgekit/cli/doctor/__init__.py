"""The command ``edgekit doctor``."""
