"""The hardware that EdgeKit runs on: processors, boards and GPUs, read from what the system says of itself."""
