"""Follows objects from frame to frame: ByteTrack, with its motion model and its assignment."""
