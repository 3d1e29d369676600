"""Calibration inputs: image sets, data sets and random inputs."""
