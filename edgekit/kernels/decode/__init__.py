"""Detector heads decoded to candidate boxes."""
