"""Latency: how it is measured, what the samples say, and how that is shown to people and programs."""
