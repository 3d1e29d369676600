"""FP16 and BF16: casting a graph and checking the result."""
