"""Runs engines: sessions, tasks, and drawing of detections."""
