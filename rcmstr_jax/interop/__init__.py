"""Weights in and out: the published ancestors' names and layouts, and ours."""
