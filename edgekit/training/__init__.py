"""Training: losses, batches, the training loop, and checkpoints that resume bit-exactly."""
