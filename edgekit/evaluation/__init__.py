"""Measures the accuracy of engines on data sets with standard metrics."""
