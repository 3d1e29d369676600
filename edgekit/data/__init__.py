"""Model inputs: images, data sets in common formats, augmentation and calibration sets."""
