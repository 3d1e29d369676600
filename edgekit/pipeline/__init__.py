"""The stages of a build: load, calibrate, quantize, verify and compile."""
