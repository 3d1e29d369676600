"""Detection of the hardware that EdgeKit runs on: CPUs, boards and GPUs."""
