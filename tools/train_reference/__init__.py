"""Trains the reference models that need no download, builds them in FP32 and INT8, and measures both.

python -m tools.train_reference
"""
