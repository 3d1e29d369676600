"""Calibration: observers, statistics and the table of ranges."""
