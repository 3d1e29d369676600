"""Training: losses with their formulas, batches, the loop, and checkpoints that resume exactly."""
