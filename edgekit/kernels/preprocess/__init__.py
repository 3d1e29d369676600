"""Image preprocessing: resizing, channel order and normalization."""
