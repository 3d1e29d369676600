"""Sources of frames: pictures, videos, cameras, network streams and GStreamer pipelines; and a writer of videos."""
