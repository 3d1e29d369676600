"""Decoding of detector heads to candidate boxes."""
