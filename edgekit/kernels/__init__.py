"""Decoding of detector heads and non-maximum suppression, each beside its slow, obvious reference."""
