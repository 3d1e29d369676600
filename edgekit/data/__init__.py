"""Pictures, data sets in the formats that people have, augmentation and calibration sets: what goes into a model."""
