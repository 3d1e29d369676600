"""Rewrites a typed graph into the form that one backend's kernels run fastest."""
