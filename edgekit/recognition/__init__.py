"""Recognizes what the outputs of somebody's model are: the family of a detector's head, and what goes with it."""
