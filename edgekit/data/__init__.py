"""Pictures and calibration sets: what goes into a model."""
