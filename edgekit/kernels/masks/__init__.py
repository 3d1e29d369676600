"""Masks of objects from prototypes and coefficients: the definition, and the fast version."""
