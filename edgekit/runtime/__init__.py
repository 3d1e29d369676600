"""A built engine at work: sessions, detections, and pictures of them."""
