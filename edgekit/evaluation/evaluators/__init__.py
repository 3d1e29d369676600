"""What an engine makes of examples, compared with what they stand for, one file per task."""
